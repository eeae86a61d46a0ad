"""Tables that C writes again and again: to the letter what Python would write, while nothing else changes."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator

import pytest

from tempos import LocalError
from tempos_bpf.errors import BpfError
from tempos_bpf.maps import SharedArray
from tempos_bpf.shown import Number, Numbers, NumberTable, Same, Shown
from tempos_observe.frame.printing import look, numbered
from tempos_observe.tool import Column, Row, Table
from tempos_observe.wishes import Wishes

ENTRY, ENTRIES = struct.Struct("=4Q"), 64
COLUMNS = (
    Column("PID", "pid", 7, "<d"),
    Column("NAME", "comm", 15),
    Column("NETNS", "netns", 10, "d", spare=2),
    Column("MIN_FLT", "min_flt", 8, "d"),
    Column("CPU(ms)", "cpu_ms", 10, ".3f"),
)
NS = 1_000_000_000


@pytest.fixture
def array() -> Iterator[SharedArray]:
    fd = os.memfd_create("array")
    os.ftruncate(fd, os.sysconf("SC_PAGESIZE"))
    shared = SharedArray(fd, ENTRY.size * ENTRIES)
    os.close(fd)
    yield shared
    shared.close()


def view(rows: list[Row]) -> Table:
    return Table("faults", "Page fault:", COLUMNS, lambda session: rows, order="min_flt")


def shown(array: SharedArray, rows: dict[int, Row], wishes: Wishes, base: int = 0) -> NumberTable:
    """The rows of these entries, whose numbers are the second and the fourth."""
    head, begins, (faults, cpu) = numbered(view([]), [*rows.values()], 2, wishes)
    return NumberTable(
        array, ENTRY.size, head, (Number(8, faults), Number(24, cpu, 1e6)),
        [Numbers(begin, at, (base, 0)) for begin, at in zip(begins, rows, strict=True)], most=wishes.top,
    )  # fmt: skip


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(top=5), Wishes(width=50)])
def test_it_is_to_the_letter_what_python_writes(array: SharedArray, wishes: Wishes) -> None:
    numbers = random.Random(1)
    base = 7
    places = {
        at: (1000 + at, numbers.choice(["a", "näme", "a\tb", None, "fifteen letters"]), at, 0, 0.0)
        for at in numbers.sample(range(ENTRIES), 40)
    }
    table = shown(array, places, wishes, base)
    both = Shown([table, shown(array, {}, wishes)], [])
    for most in (3, 1 << 20, 1 << 62):
        rows = []
        for at, row in places.items():
            # So that many are alike, and some too wide for their columns.
            faults, cpu = base + numbers.randrange(most), numbers.randrange(most)
            array.memory[at * ENTRY.size : (at + 1) * ENTRY.size] = ENTRY.pack(1, faults, 2, cpu)
            rows.append((*row[:3], faults - base, cpu / 1e6))
        expected = [*look(view([]), rows, wishes), *look(view([]), [], wishes)]
        assert both.text() == "\n".join(expected) + "\n"


def test_it_is_shown_when_due_until_something_is_not_as_it_was(array: SharedArray) -> None:
    stop, stopped = os.pipe()
    read, out = os.pipe()
    try:
        array.store(0, 5)
        tables = [shown(array, {1: (1, "a", 2, 0, 0.0)}, Wishes())]
        still = Shown(tables, [Same(array, 0, struct.pack("=Q", 5)), Same(array, 64, bytes(8))])
        text = still.text()
        begun = time.monotonic_ns()
        due, rest = still.loop(stop, out, begun, NS // 50, begun + NS // 20)
        # Three times, unless the machine was busy; when it ends nothing is due yet or it is looked at anew.
        told = os.read(read, 1 << 16).decode()
        looks = told.count(text)
        assert (1 <= looks <= 3, rest) == (True, "")
        assert len(told) == looks * (len(text) + len("00:00:00\n"))
        assert (due - begun) % (NS // 50) == 0
        array.store(64, 1)
        assert still.loop(stop, out, due, NS, None) == (due, "")
        array.store(64, 0)
        # Nobody reads, and there is no room: what is left is given back, and nothing waits.
        os.set_blocking(out, False)
        left = ""
        while not left:
            _, left = still.loop(stop, out, 1, 1, time.monotonic_ns() + NS)
        held = os.read(read, 1 << 20).decode()
        assert (held + left).endswith(text)
        assert (len(held) + len(left)) % (len(text) + len("00:00:00\n")) == 0
        os.write(stopped, b"x")
        later = time.monotonic_ns() + 1000 * NS
        assert still.loop(stop, out, later, NS, None) == (later, "")
        os.close(read)
        with pytest.raises(BrokenPipeError):
            still.loop(stop, out, 0, NS, None)
        with pytest.raises(BpfError, match="cannot show"):
            Shown(tables, [], stop).loop(stop, out, 0, NS, None)
    finally:
        for each in (stop, stopped, out):
            os.close(each)


def test_an_entry_that_the_array_does_not_have_is_refused(array: SharedArray) -> None:
    with pytest.raises(LocalError, match="no entry 64"):
        Shown([shown(array, {ENTRIES: (1, "a", 2, 0, 0.0)}, Wishes())], [])
