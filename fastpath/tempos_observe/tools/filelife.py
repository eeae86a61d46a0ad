"""filelife: how long files live that come and go while this looks on."""

from __future__ import annotations

from typing import Any

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Events, Example, Hook, Row, Tool

#: What a call is to the program (filelife.bpf.c).
_KINDS = {
    "open": 1, "openat": 1, "openat2": 1, "creat": 1, "unlink": 2, "unlinkat": 3, "rename": 4, "renameat": 5,
    "renameat2": 5,
}  # fmt: skip
_COLUMNS = (
    Column("PID", "pid", 6, "<d"),
    Column("COMM", "comm", 16),
    Column("AGE(ms)", "age_ms", 8, "d"),
    Column("FILE", "file", 4),
)


def _row(life: Any, session: Session) -> Row:
    return life.pid, life.comm, life.ns // 1_000_000, life.name


TOOL = Tool(
    name="filelife",
    question="Which files live only for a short time, and how long?",
    programs="filelife",
    hooks=(
        Hook(
            "tempos_lived",
            "tracepoint sys_exit: files that open, openat, openat2 and creat bring into being, "
            "that rename, renameat and renameat2 move, and that unlink and unlinkat delete",
            needs=calls.known,
        ),
    ),
    views=lambda wishes: (Events("lives", "tempos_life", _COLUMNS, _row),),
    blind=(
        "files that were there before, and of more than 32,768 that were created and stay, the oldest",
        "files made by mknod and link, and those that end because another is renamed over them",
        "of more than 16 living files of one name in folders of one name those beyond, unless they "
        "are deleted by a path that names no folder: those that may be such count as lost names",
        *calls.BLIND[:1],
    ),
    rodata=lambda wishes: {"calls": calls.table(_KINDS)},
    examples=(
        Example("filelife", "the temporary files of whatever runs, for instance a compiler"),
        Example("filelife --comm rm", "only what rm deletes, whoever made it"),
    ),
)
