"""Tables of numbers that programs keep in shared arrays, as text, again and again without Python in between.

Whoever wakes up once a second has nothing of an interpreter near the CPU any more: it costs ten times what
is to be shown. So it is said once how rows begin and which numbers follow (`fastpath/native/libbpf_shown.h`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempos import LocalError
from tempos_bpf.errors import BpfError
from tempos_bpf.library import ffi, lib
from tempos_bpf.maps import SharedArray

#: Numbers of a row at most.
MOST = 4
_U32 = 0xFFFFFFFF
#: What the loop says where not all could be written.
_REST = 2


@dataclass(frozen=True, slots=True)
class Number:
    """A column: where in an entry its u64 is, and its width.

    ``parts``: it is divided by that, with three places; 0: it is whole.
    """

    offset: int
    width: int
    parts: float = 0.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """A row: how it begins, which entry of the array it is of, and what its numbers are counted from."""

    begin: str
    entry: int
    base: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberTable:
    """``head``: the lines before its rows, which an empty one follows; ``size``: of an entry of the array.

    ``order``: which number they are sorted by, largest first, those of the same as they are here; ``most``:
    rows that are shown, None for all.
    """

    array: SharedArray
    size: int
    head: str
    columns: tuple[Number, ...]
    rows: Sequence[Numbers]
    order: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Same:
    """Bytes of an array, from an offset that is a multiple of 8, that have to be as they were."""

    array: SharedArray
    offset: int
    was: bytes


class Shown:
    """Tables, as long as all of ``same`` is so. The arrays must not be closed while this is used.

    ``program``: the descriptor of what is run before each look, -1 for nothing.
    """

    def __init__(
        self, tables: Sequence[NumberTable], same: Sequence[Same], program: int = -1, encoding: str = "utf-8"
    ) -> None:
        self._encoding = encoding
        # What C only points to.
        self._kept: list[Any] = []
        self._shown = ffi.new("struct tempos_shown *")
        made = ffi.new("struct tempos_shown_table[]", len(tables))
        for at, table in zip(made, tables, strict=True):
            self._fill(at, table)
        conditions = ffi.new("struct tempos_shown_same[]", len(same))
        for condition, each in zip(conditions, same, strict=True):
            condition.memory, condition.was = each.array.address(each.offset), self._keep(each.was)
            condition.size = len(each.was)
        self._kept += [made, conditions]
        shown = self._shown
        shown.program_fd = program
        shown.table, shown.tables, shown.same, shown.conditions = made, len(tables), conditions, len(same)

    def text(self) -> str:
        """All tables, as of now."""
        out = ffi.new("char **")
        length = lib.tempos_shown_text(self._shown, out)
        if length < 0:
            raise MemoryError
        try:
            return bytes(ffi.buffer(out[0] + lib.SHOWN_CLOCK, length)).decode(self._encoding)
        finally:
            lib.free(out[0])

    def loop(self, stop: int, out: int, due_ns: int, interval_ns: int, end_ns: int | None) -> tuple[int, str]:
        """Show them, behind the time of day, whenever they are due, until ``stop`` is readable or it ends.

        ``stop``, ``out``: descriptors; times are CLOCK_MONOTONIC. Gives when they are due again, which is now
        where something is not as it was, and what is still to be written, for a signal came or there is no
        room. Raises :class:`BpfError`, :class:`BrokenPipeError`.
        """
        shown = self._shown
        shown.stop_fd, shown.out_fd = stop, out
        shown.due_ns, shown.interval_ns, shown.end_ns = due_ns, interval_ns, end_ns or 0
        code = lib.tempos_shown_loop(shown)
        if code < 0:
            error = OSError(-code, os.strerror(-code))
            if isinstance(error, BrokenPipeError):
                raise error
            raise BpfError("cannot show what was counted", -code)
        rest = b""
        if code == _REST:
            rest = bytes(ffi.buffer(shown.rest + shown.rest_at, shown.rest_end - shown.rest_at))
            lib.free(shown.rest)
        return int(shown.due_ns), rest.decode(self._encoding, "ignore")

    def _fill(self, at: Any, table: NumberTable) -> None:
        head = table.head.encode(self._encoding, "replace")
        at.memory, at.size = table.array.address(0), table.size
        at.head, at.length = self._keep(head), len(head)
        at.order, at.most = table.order, _U32 if table.most is None else table.most
        at.columns = len(table.columns)
        for column, each in zip(at.column, table.columns, strict=False):
            column.offset, column.width, column.parts = each.offset, each.width, each.parts
        rows = ffi.new("struct tempos_shown_row[]", len(table.rows))
        for row, told in zip(rows, table.rows, strict=True):
            if not 0 <= told.entry < table.array.size // table.size:
                raise LocalError(f"the array has no entry {told.entry}")
            begin = told.begin.encode(self._encoding, "replace")
            row.begin, row.length, row.entry = self._keep(begin), len(begin), told.entry
            for number, base in enumerate(told.base):
                row.base[number] = base
        at.row, at.rows = rows, len(table.rows)
        self._kept.append(rows)

    def _keep(self, raw: bytes) -> Any:
        kept = ffi.new("char[]", raw)
        self._kept.append(kept)
        return kept
