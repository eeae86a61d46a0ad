"""A journal that programs and a process write at once, on both processors, while another process reads it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from support.bpf import require_compiler
from support.packets import datagram
from support.privileges import require_kernel
from support.program import ADDRESSES, Rig, hops
from support.waiting import until

from tempos import Framing, Topic
from tempos._abi import Way
from tempos._slots import JournalLayout
from tempos.wire import encode_raw
from tempos_fastpath.journals import KernelJournals
from tempos_fastpath.plan import Plan

memory = pytest.importorskip("tempos_broker.journal.memory", reason="the compiled helper is not built")
pytestmark = [pytest.mark.kernel]

TOPIC, EPOCH = 7, 5
FIRST = 1 << 32
#: Bytes of payloads; with the room below some are only named, some end with a cell, some begin one.
SIZES = (1, 2, 95, 96, 97, 224, 225, 500, 700, 701, 1000)
ROOM = 700
#: Events of each writer that are read while all of them write, by slots: where they are few nearly each is
#: another one by the time at which it is read.
ENOUGH = {8: 20, 64: 500}
_FORKING = multiprocessing.get_context("fork")


def _payload(writer: int, size: int) -> bytes:
    """Of one writer and of one size: of two that were mixed something is not as it should be."""
    return encode_raw(TOPIC, bytes((16 * writer + at + size) % 256 for at in range(size - 1)))


#: By writer and size. Programs are writers 0 and 1, the process is 2.
PAYLOADS = {(writer, size): _payload(writer, size) for writer in range(3) for size in SIZES}
WRITTEN, LENGTHS = set(PAYLOADS.values()), set(SIZES)
FRAMES = {key: bytes(datagram(ADDRESSES, each)) for key, each in PAYLOADS.items() if key[0] < 2}


@pytest.fixture(params=["native", "generic"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    require_kernel()
    require_compiler()
    with closing(Rig(generic=request.param == "generic")) as made:
        yield made


class Shared:
    """A topic's journal that the programs of a rig write."""

    def __init__(self, rig: Rig, slots: int) -> None:
        self.rig = rig
        topic = Topic(TOPIC, "kept", framing=Framing.RAW, journal=slots, journal_bytes=ROOM)
        rig.configure([topic])
        journals = KernelJournals(rig.map("journals"), rig.rows)
        journals.put(topic)
        self.layout = JournalLayout.of(slots, ROOM)
        found = journals.journal(TOPIC, self.layout)
        assert found is not None
        self.descriptor = found
        self.memory = memory.Memory(found, self.layout)
        self.memory.begin(EPOCH, 0)
        rig.install(Plan(TOPIC, EPOCH, Framing.RAW, 1500, (hops(3),), way=Way.ONE, journal=True))

    def run_program(self, writer: int, sizes: Sequence[int]) -> None:
        self.rig.program.run_each([FRAMES[writer, size] for size in sizes])

    def run_programs(self, writer: int) -> None:
        _pin(writer)
        while True:
            self.run_program(writer, SIZES * 50)

    def write(self) -> None:
        """As the slow path does, until it is ended."""
        journal = memory.Memory(self.descriptor, self.layout)
        while True:
            for size in SIZES:
                ticket = self.rig.tickets.draw(TOPIC, EPOCH, 0, 1)
                journal.put(EPOCH, [ticket], PAYLOADS[2, size])

    def check(self) -> Counter[int]:
        """Look at all that stands there whole: each is what somebody wrote; how many of each writer."""
        found: Counter[int] = Counter()
        positions = self.memory.positions()
        assert positions == sorted(set(positions))
        for position in positions:
            if (entry := self.memory.read(position)) is None:
                continue
            assert entry.tickets == (position - FIRST,)
            assert entry.epoch == EPOCH
            assert entry.length in LENGTHS
            if entry.length > ROOM:
                assert entry.payload is None
            else:
                assert entry.payload in WRITTEN
                assert len(entry.payload) == entry.length
                if len(entry.payload) > 1:
                    found[(entry.payload[1] - entry.length) % 256 // 16] += 1
        return found


def _pin(number: int) -> None:
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {usable[number % len(usable)]})


def started(act: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = _FORKING.Process(target=act, args=arguments, daemon=True)
    process.start()
    return process


@pytest.mark.parametrize("slots", [8, 64])
def test_whoever_writes_nothing_torn_is_taken_for_whole(rig: Rig, slots: int) -> None:
    """Programs on either processor and a process; however they end."""
    shared = Shared(rig, slots)
    writers = [*(started(shared.run_programs, writer) for writer in range(2)), started(shared.write)]
    seen: Counter[int] = Counter()

    def enough() -> bool:
        assert all(each.is_alive() for each in writers)
        seen.update(shared.check())
        return min(seen[writer] for writer in range(3)) >= ENOUGH[slots]

    try:
        until(enough, lambda: dict(seen))
    finally:
        for each in writers:
            each.kill()
            each.join()
    assert set(seen) == {0, 1, 2}
    shared.memory.mend()
    shared.run_program(0, [500] * slots)
    drawn = rig.tickets.read(TOPIC, EPOCH, 0)
    assert [each - FIRST for each in shared.memory.positions()] == list(range(drawn - slots, drawn))
    os.close(shared.descriptor)


def test_a_process_that_is_killed_at_any_moment_keeps_no_slot(rig: Rig) -> None:
    """Programs write on meanwhile; once it is freed every slot takes the events of the next lap."""
    shared = Shared(rig, 8)
    for number in range(30):
        process = started(shared.write)
        while rig.tickets.read(TOPIC, EPOCH, 0) < number + 1:
            assert process.is_alive()
        shared.run_program(0, [500] * 7 * number)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        shared.check()
        shared.memory.mend()
        shared.run_program(1, [500] * 8)
        drawn = rig.tickets.read(TOPIC, EPOCH, 0)
        assert [each - FIRST for each in shared.memory.positions()] == list(range(drawn - 8, drawn))
        assert shared.check() == {1: 8}
    os.close(shared.descriptor)
