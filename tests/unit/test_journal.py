"""A journal's reader is never wrong: it tells whole, torn, overwritten and never written apart."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Topic
from tempos._slots import JournalLayout
from tempos.wire import encode_batch, encode_event
from tempos_broker.journal.journals import Journals

memory = pytest.importorskip("tempos_broker.journal.memory", reason="the compiled helper is not built")


@pytest.fixture
def journal() -> Iterator[memory.Memory]:
    yield from opened(JournalLayout.of(8, 96))


def opened(layout: JournalLayout) -> Iterator[memory.Memory]:
    descriptor = memory.make(layout)
    try:
        yield memory.Memory(descriptor, layout)
    finally:
        os.close(descriptor)


def test_what_is_large_takes_cells_and_what_is_many_powers_of_two() -> None:
    assert JournalLayout.of(1000, 88) == JournalLayout(1024, 2, 88), (
        "an event of 64 B: one cell, and one for tickets"
    )
    assert JournalLayout.of(1024, 97) == JournalLayout(1024, 3, 97)
    assert JournalLayout.of(1, 1).slots == 8


@settings(deadline=None, max_examples=200)
@given(
    events=st.integers(1, 40),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 160), st.integers(1, 40)),
            st.tuples(st.just("epoch"), st.just(0), st.just(0)),
            st.tuples(st.just("skip"), st.integers(1, 20), st.just(0)),
        ),
        max_size=120,
    ),
)
def test_what_is_read_is_what_was_written(events: int, steps: list[tuple[str, int, int]]) -> None:
    """Against a list: the latest of what was put is there, byte for byte, in its order, and nothing else."""
    layout = JournalLayout.of(events, 100)
    for journal in opened(layout):
        epoch, ticket, written = 1, 0, []
        journal.begin(epoch, 0)
        for what, number, groups in steps:
            if what == "epoch":
                journal.begin(epoch + 1, ticket)
                epoch, ticket = epoch + 1, 0
            elif what == "skip":
                ticket += number
            else:
                tickets = tuple(ticket + 7 * group for group in range(groups))
                payload = bytes((number + i) % 256 for i in range(number))
                assert journal.put(epoch, tickets, payload)
                written.append((epoch, tickets[:32], number, payload if number <= 100 else None))
                ticket += 1
        positions = journal.positions()
        entries = [journal.read(position) for position in positions]
        assert all(entries)
        assert positions == sorted(positions)
        found = [(each.epoch, each.tickets, each.length, each.payload) for each in entries]
        assert found == [each for each in written if each in found], "each once, in the order of writing"
        assert written[-1:] == found[-1:]
        if epoch == 1 and not any(what == "skip" for what, *_ in steps):
            assert found == written[-layout.slots :]
        for position in positions:
            assert journal.read(position + layout.slots) is None
            assert journal.read(position - layout.slots) is None


def test_who_was_overtaken_writes_nothing(journal: memory.Memory) -> None:
    journal.begin(1, 0)
    assert journal.put(1, [8], b"later")
    assert not journal.put(1, [0], b"earlier"), "a lap behind"
    assert not journal.put(1, [8], b"again")
    assert not journal.put(2, [0], b"of an epoch that has not begun")
    assert [journal.read(each).payload for each in journal.positions()] == [b"later"]


def test_a_walk_tells_runs_by_publisher_and_what_is_not_there(journal: memory.Memory) -> None:
    journal.begin(1, 0)
    first = journal.first(1)
    assert journal.walk(first, first + 2)[1:] == ([first, first + 1], 0, first + 2)
    for ticket, datagram in enumerate(
        (
            encode_event(7, 1, 10, 0, b"x"),
            encode_event(7, 2, 0, 0, b"x"),
            encode_batch(7, 1, 11, 0, [b"a", b"", b"ccc"]),
            encode_event(7, 1, 14, 0, bytes(300)),
            encode_event(7, 1, 20, 0, b"x"),
        )
    ):
        # The fourth is not there yet, and the slots go round.
        if ticket != 3:
            journal.put(1, [ticket], datagram)
    assert journal.walk(first, first + 5) == ([(1, 10, 4), (2, 0, 1), (1, 20, 1)], [first + 3], 0, first + 5)
    journal.put(1, [3], encode_event(7, 1, 14, 0, bytes(300)))
    assert journal.walk(first + 3, first + 4).runs == [(1, 14, 1)]
    assert sorted(journal.walk_all(1)) == [(1, 10, 5), (1, 20, 1)]
    for ticket in range(5, 10):
        journal.put(1, [ticket], encode_event(300, 3, ticket, 0, b""))
    walked = journal.walk(first, first + 10)
    assert (walked.lapped, walked.runs[-1]) == (2, (3, 5, 5))


def test_what_a_killed_process_was_writing_is_freed(journal: memory.Memory) -> None:
    """Until then nobody takes the slot: the writer may only have been held up."""
    journal.begin(1, 0)
    assert journal.put(1, [0], b"whole")
    (position,) = journal.positions()
    at = 128 + position % 8 * journal.layout.cells * 128
    word = int.from_bytes(journal._memory[at : at + 8], "little")
    journal._memory[at : at + 8] = (word | 2).to_bytes(8, "little")
    assert journal.positions() == []
    assert journal.read(position) is None
    assert not journal.put(1, [8], b"next lap")
    assert journal.mend() == 1
    assert journal.put(1, [8], b"next lap")
    journal._memory[at : at + 8] = (word + (8 << 2) | 1).to_bytes(8, "little")
    assert journal.mend() == 0, "the kernel comes to the end of what it writes"


@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(
        st.one_of(st.integers(0, 2**64 - 1), st.tuples(st.integers(0, 80), st.integers(0, 3))),
        min_size=8, max_size=8,
    ),
    position=st.integers(0, 90),
)  # fmt: skip
def test_a_slot_is_taken_for_whole_only_by_its_word(
    words: list[int | tuple[int, int]], position: int
) -> None:
    """Whatever the words are: those of other positions, of writers, of nobody."""
    for journal in opened(JournalLayout.of(8, 96)):
        whole = set()
        for slot, word in enumerate(words):
            if isinstance(word, tuple):
                lap, mark = word
                word = (lap * 8 + slot + 1) << 2 | mark
            at = 128 + slot * journal.layout.cells * 128
            journal._memory[at : at + 8] = word.to_bytes(8, "little")
            if word and not word & 3:
                whole.add((word >> 2) - 1)
        assert set(journal.positions(position)) == {each for each in whole if each > position}
        in_place = {each for slot, each in _placed(words) if each % 8 == slot}
        assert (journal.read(position) is not None) == (position in in_place)


def _placed(words: list[int | tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Slots, and the positions that their words say stand there whole."""
    for slot, word in enumerate(words):
        number = (word[0] * 8 + slot + 1) << 2 | word[1] if isinstance(word, tuple) else word
        if number and not number & 3:
            yield slot, (number >> 2) - 1


@pytest.mark.parametrize(("events", "room"), [(4, 96), (64, 96), (16, 40), (16, 1000)])
def test_another_size_takes_over_what_fits(events: int, room: int) -> None:
    for old in opened(JournalLayout.of(16, 96)):
        old.begin(7, 0)
        for ticket in range(40):
            assert old.put(7, (ticket, ticket + 3), bytes([ticket]) * (ticket + 20))
        for new in opened(JournalLayout.of(events, room)):
            new.continue_from(old)
            assert new.put(7, (40, 43), b"meanwhile")
            new.follow(old)
            kept = min(16, new.layout.slots - 1)
            entries = [new.read(each) for each in new.positions()]
            assert [each.tickets for each in entries] == [(each, each + 3) for each in range(40 - kept, 41)]
            for each in entries[:-1]:
                ticket = each.tickets[0]
                assert each.length == ticket + 20
                fits = ticket + 20 <= min(96, room)
                assert each.payload == (bytes([ticket]) * (ticket + 20) if fits else None)
            assert entries[-1].payload == b"meanwhile"


def _write(descriptor: int, layout: JournalLayout, counter: int, rounds: int) -> None:
    journal = memory.Memory(descriptor, layout)
    from tempos_broker.shared import SharedNumbers

    tickets = SharedNumbers(counter, 1)
    for _ in range(rounds):
        ticket = tickets.add(0, 1)
        journal.put(1, (ticket, ticket), _payload(ticket))


def _payload(ticket: int) -> bytes:
    return bytes([ticket * 7 % 256]) * (ticket % 90 + 1)


@pytest.mark.parametrize("slots", [8, 256])
def test_nothing_torn_is_taken_for_whole_while_two_processes_write(slots: int) -> None:
    layout, rounds = JournalLayout.of(slots, 96), 30_000
    counter = os.memfd_create("tickets")
    os.ftruncate(counter, mmap.PAGESIZE)
    forking = multiprocessing.get_context("fork")
    descriptor, read = memory.make(layout), 0
    journal = memory.Memory(descriptor, layout)
    journal.begin(1, 0)
    writers = [forking.Process(target=_write, args=(descriptor, layout, counter, rounds)) for _ in range(2)]
    for each in writers:
        each.start()
    while any(each.is_alive() for each in writers):
        for position in journal.positions()[-32:]:
            if (entry := journal.read(position)) is not None:
                ticket = position - (1 << 32)
                assert entry.tickets == (ticket, ticket)
                assert (entry.length, entry.payload) == (ticket % 90 + 1, _payload(ticket))
                read += 1
    for each in writers:
        each.join()
        assert each.exitcode == 0
    assert read
    assert journal.positions()[-1] >= (1 << 32) + 2 * rounds - 2
    os.close(descriptor)
    os.close(counter)


async def test_what_is_taken_over_is_found_before_too() -> None:
    topic = Topic(7, "orders", journal=64, journal_bytes=40)
    made = Journals()
    made.change((), [topic])
    made.begin(7, 1, 0)
    first = made.first(7, 1)
    for ticket in range(50):
        assert made.of[7].put(1, [ticket, ticket], b"%d" % ticket)
    made.begin(7, 2, 50)
    # A reload waits for both paths between the two.
    made.change((), [replace(topic, journal=256)])
    for settled in (False, True):
        if settled:
            await made.settle()
        for ticket in range(50):
            for group in (0, 1):
                entry = made.find(7, first, 1, group, ticket)
                assert entry is not None
                assert (entry.payload, entry.epoch) == (b"%d" % ticket, 1)
        page = await made.tap(topic, 0, 100)
        assert page is not None
        assert [each["tickets"][0] for each in page["events"]] == [*range(50)]
        assert page["missed"] == 0
        assert (
            made.find(7, first, 1, 0, 50) is made.find(7, first, 2, 0, 3) is made.find(7, 0, 1, 0, 3) is None
        )
    # Another one that has nothing of it: never other bytes.
    made.change((7,), [topic])
    made.begin(7, 1, 0)
    made.of[7].put(1, [3, 3], b"other")
    again = made.find(7, first, 1, 0, 4)
    assert again is None
    made.close()
