"""opensnoop: which files processes open, and which they cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Events, Example, Hook, Row, Tool

#: The argument that is the path (opensnoop.bpf.c).
_PATHS = {"open": 1, "creat": 1, "openat": 2, "openat2": 2}
_COLUMNS = (
    Column("PID", "pid", 6, "<d"),
    Column("COMM", "comm", 16),
    Column("FD", "fd", 4, "d"),
    Column("ERR", "err", 3, "d"),
    Column("PATH", "path", 4),
)


def _rows(opened: Mapping[str, Iterable[Any]], session: Session) -> Iterable[Row]:
    results = tuple(opened["result"])
    descriptors = [-1 if each < 0 else each for each in results]
    errors = [-each if each < 0 else 0 for each in results]
    return zip(opened["pid"], opened["comm"], descriptors, errors, opened["path"], strict=True)


TOOL = Tool(
    name="opensnoop",
    question="Which files do processes open, and which can they not?",
    programs="opensnoop",
    hooks=(
        Hook(
            "tempos_opened",
            "tracepoint sys_exit: open, openat, openat2 and creat, and what came of them",
            needs=calls.known,
        ),
    ),
    views=lambda wishes: (
        Events("opens", "tempos_open", _COLUMNS, rows=_rows),
        Events("long_opens", "tempos_long_open", _COLUMNS, rows=_rows),
    ),
    blind=(
        "open_by_handle_at, and files that the kernel opens itself, for instance to execute them",
        "calls that have not ended yet",
        *calls.BLIND[:1],
    ),
    rodata=lambda wishes: {"calls": calls.table(_PATHS)},
    examples=(
        Example("opensnoop --comm nginx", "its configuration, its logs, and what it does not find"),
        Example("opensnoop --broker --json", "what broker, worker and invokers open, for programs"),
    ),
)
