"""scread: which files processes read, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.tool import Counts, Example, Hook, Tool, Value

#: What a call is to the program; the first is the one that the counter without another name counts.
_READS = {"read": 1, "pread64": 2, "readv": 3, "preadv": 4, "preadv2": 5}

#: What a name is (scread.bpf.c).
_NONE, _ANONYMOUS = 0, 2


def _name(key: Any) -> str | None:
    if key.what == _NONE:
        return None
    name: str = key.name
    return name.strip("[]") if key.what == _ANONYMOUS else name


def _counted(kind: int) -> Callable[[Session], Iterator[tuple[tuple[Value, ...], int]]]:
    def rows(session: Session) -> Iterator[tuple[tuple[Value, ...], int]]:
        for key, count in session.rows("reads"):
            if key.call == kind:
                yield (_name(key),), count.value

    return rows


TOOL = Tool(
    name="scread",
    question="Which files do processes read, and how often?",
    programs="scread",
    hooks=(
        Hook(
            "tempos_read",
            "tracepoint sys_exit: read, and by other names pread64, readv, preadv and preadv2",
            needs=calls.known,
        ),
    ),
    views=lambda wishes: tuple(
        Counts("filename" if name == "read" else name, ("file",), _counted(kind))
        for name, kind in _READS.items()
    ),
    blind=(
        "folders: files of one name are counted together, as `-` descriptors that stand for nothing",
        "what is read through memory (mmap), by sendfile, splice, copy_file_range and recv",
        "calls that have not ended yet",
        *calls.BLIND[:1],
    ),
    rodata=lambda wishes: {"calls": calls.table(_READS)},
    examples=(
        Example("scread --duration 10", "ten seconds of all processes"),
        Example("scread --pid 4711 --top 5", "the five files that a process reads most, until Ctrl-C"),
    ),
)
