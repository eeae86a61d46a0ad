"""The leg before the broker: numbers seen, what a window keeps, what goes over the wire."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Quality, Topic, wire
from tempos._slots import JournalLayout
from tempos.control import Confirm, decode_request, encode_ok
from tempos.sending.asked import Asked, Came, Cannot, Lacks, Unkept, decode_lacking
from tempos.sending.window import LEFT, UNCERTAIN, WORDS, Window
from tempos_broker.control.auth import Admitted, Caller
from tempos_broker.control.decisions import Done, Way
from tempos_broker.resend.core import Resends
from tempos_broker.resend.seen import AGAIN, KEPT, REORDER, SURE, TAIL, Seen


def gaps(seen: Seen) -> list[tuple[int, int]]:
    return [(gap.first, gap.end) for gap in seen.gaps]


def test_an_event_that_is_sent_again_is_as_long_and_comes_back_whole() -> None:
    for topic in (7, 3000):
        event = wire.encode_event(topic, 1, 2, 3, b"body")
        again = wire.as_again(event)
        assert (len(again), again[:4]) == (len(event), wire.AGAIN)
        assert wire.from_again(again) == event
        assert wire.named(event) == (1, 2)
    assert wire.from_again(wire.AGAIN) == b""


def test_a_gap_is_asked_for_when_enough_came_behind_it_or_after_a_while() -> None:
    seen = Seen(0)
    seen.came(0, 1, 0.0)
    seen.came(3, 1, 0.0)
    assert gaps(seen) == [(1, 3)]
    assert seen.due(0.0) == []
    (gap,) = seen.due(REORDER)
    seen.asked(gap, 2, REORDER)
    assert seen.due(REORDER + AGAIN / 2) == []
    assert seen.due(REORDER + AGAIN) == [gap]
    seen.came(20, 1, 1.0)
    seen.came(21, SURE, 1.0)
    assert [each.first for each in seen.due(1.0)] == [1, 4]


def test_the_end_is_asked_for_once_the_publisher_has_told_of_it() -> None:
    seen = Seen(5)
    seen.told(8, 1.0)
    assert seen.due(1.0) == []
    assert [(gap.first, gap.end) for gap in seen.due(1.0 + TAIL)] == [(5, 8)]
    seen.came(6, 1, 2.0)
    assert gaps(seen) == [(5, 6), (7, 8)]
    seen.raise_to(7)
    assert gaps(seen) == [(7, 8)]
    assert [seen.has(number) for number in (6, 7, 8)] == [True, False, False]


def test_part_of_a_gap_may_be_asked_for() -> None:
    seen = Seen(0)
    seen.came(10, 1, 0.0)
    (gap,) = seen.due(1.0)
    seen.asked(gap, 4, 1.0)
    assert gaps(seen) == [(0, 4), (4, 10)]
    assert [gap.tries for gap in seen.gaps] == [1, 0]


def test_numbers_wrap_on_the_wire_and_nowhere_else() -> None:
    first = (1 << 32) - 2
    seen = Seen(first)
    seen.came(first & 0xFFFFFFFF, 1, 0.0)
    seen.came(1, 1, 0.0)
    assert gaps(seen) == [(first + 1, first + 3)]
    assert seen.next == first + 4


def test_what_is_forgotten_for_want_of_room_is_noted() -> None:
    seen = Seen(0)
    for number in range(KEPT + 1):
        seen.came(2 * number + 1, 1, 1.0)
    assert len(seen.gaps) == KEPT
    assert seen.forgot == 1.0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=40))
def test_gaps_are_what_has_not_come(runs: list[tuple[int, int]]) -> None:
    seen, came = Seen(0), set()
    for first, count in runs:
        seen.came(first, count, 0.0)
        came.update(range(first, first + count))
    end = max(came, default=-1) + 1
    assert seen.next == end
    assert {n for gap in seen.gaps for n in range(gap.first, gap.end)} == set(range(end)) - came
    assert all(one.end < other.first for one, other in zip(seen.gaps, seen.gaps[1:], strict=False)) or all(
        one.end <= other.first for one, other in zip(seen.gaps, seen.gaps[1:], strict=False)
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def window(room: int = 1 << 20) -> tuple[Window, Clock]:
    clock = Clock()
    return Window(room, clock), clock


def event(number: int, body: bytes = b"x" * 6) -> bytes:
    return wire.encode_event(7, 1, number, 0, body)


def test_a_window_lets_go_of_what_came_and_sends_again_what_it_is_asked_for() -> None:
    made, clock = window()
    begun: list[int] = []
    made.on_first = lambda: begun.append(1)
    kept = made.of(7)
    assert kept.question(all_left=True) is None
    for number in range(5):
        kept.put(event(number), 1)
    assert begun == [1]
    question = kept.question(all_left=True)
    assert question is not None
    assert question == (7, 0, 5, 0, 0)
    clock.now += 1
    made.came(Came(7, 5000, 4, ((1, 2),)))
    assert (sorted(kept.entries), kept.open) == ([1, 4], 2)
    lacks = Lacks(7, 5000, ((1, 1), (3, 1)))
    assert made.lacks(lacks) == [wire.as_again(event(1))]
    # At once again: it is on its way still.
    assert made.lacks(lacks) == []
    clock.now += 1
    assert len(made.lacks(lacks)) == 1
    made.came(Came(7, 5000, 5, ()))
    assert not made.is_open
    assert not kept.given_up


def test_what_may_have_come_is_not_sent_again() -> None:
    made, clock = window()
    kept = made.of(7)
    kept.put(event(0), 3)
    clock.now += 1.0
    kept.put(event(3), 1)
    clock.now += 1.0
    # Certain since after the first and before the second.
    assert made.lacks(Lacks(7, 1500, ((0, 1), (3, 1)))) == [wire.as_again(event(3))]
    made.came(Came(7, 1500, 4, ((0, 4),)))
    assert kept.given_up == {UNCERTAIN: 3}
    assert kept.open == 1


def test_the_oldest_leave_a_window_that_is_full_and_are_told_of_when_they_lack() -> None:
    made, _ = window(room=2 * len(event(0)))
    kept = made.of(7)
    for number in range(5):
        kept.put(event(number), 1)
    assert sorted(kept.entries) == [3, 4]
    assert kept.left == [[0, 3, 3]]
    assert kept.open == 5
    made.came(Came(7, 5000, 5, ((1, 2), (4, 5))))
    assert kept.given_up == {LEFT: 1}
    assert kept.open == 1


@pytest.mark.parametrize("why", list(Unkept))
def test_a_broker_that_cannot_tell_gives_a_reason(why: Unkept) -> None:
    made, _ = window(room=2 * len(event(0)))
    kept = made.of(7)
    for number in range(5):
        kept.put(event(number), 1)
    made.came(Cannot(7, why))
    assert kept.given_up == {WORDS[why]: 5}
    assert not made.is_open


def test_requests_are_not_kept() -> None:
    made, _ = window()
    kept = made.of(7)
    kept.put(wire.encode_event(7, 1, 0, 0, bytes(32), flags=8), 1)
    assert not made.is_open


def test_below_what_has_not_left_nothing_is_given_up() -> None:
    made, _ = window()
    kept = made.of(7)
    kept.put(event(4), 1)
    question = kept.question(all_left=False)
    assert question is not None
    assert question.lowest == 0


def test_datagrams_that_ask_are_for_one_client_and_none_else_is_one() -> None:
    chance = random.Random(1)
    for _ in range(200):
        decode_lacking(bytes(chance.randrange(256) for _ in range(chance.randrange(40))), 5)
    assert decode_lacking(b"\0\6" + bytes(7) + b"\5\0\7\0\0\0\1" + b"\0\0\0\2\0\3", 5) == Lacks(
        7, 1, ((2, 3),)
    )
    assert decode_lacking(b"\0\6" + bytes(7) + b"\5\0\7\0\0\0\1" + b"\0\0\0\2\0\3", 6) is None


def test_whatever_lacks_an_answer_leaves_room_to_ask_for_it() -> None:
    memory = pytest.importorskip("tempos_broker.journal.memory")
    layout = JournalLayout.of(4096, 64)
    descriptor = memory.make(layout)
    journal = memory.Memory(descriptor, layout)
    os.close(descriptor)
    journal.begin(1, 0)
    topic = Topic(7, "t", Quality.SQ, journal=4096)
    registry: Any = SimpleNamespace(numbered=lambda number: topic if number == 7 else None)
    drawn = [0]
    core = Resends(
        registry, {7: journal}, lambda topic, epoch: drawn[0], has_members=lambda topic: True,
        forward=lambda topic, payload: True, is_waiting=lambda topic: False,
        refuses=lambda topic, ip: False, clock_ns=lambda: 1,
    )  # fmt: skip
    core.opened(7, 1, journal.first(1))
    for number in range(1000):
        journal.put(1, [drawn[0]], wire.encode_event(7, 5, 2 * number + 1, 0, b""))
        drawn[0] += 1
    datagram = Asked(9, None).request(5, [Confirm(7, 0, 2000, 0, 0), Confirm(8, 0, 1, 0, 0)])
    request = decode_request(datagram)
    decision = core.request(request, Way(Admitted(Caller("10.0.0.1"), datagram), 1, len(datagram)), 1.0)
    assert isinstance(decision.answer, Done)
    answer = len(encode_ok(request.id, **decision.answer.fields))
    assert answer <= len(datagram) // 2
    first, gone = decision.answer.fields["confirmed"]
    assert gone == [8, Unkept.GONE]
    assert first[2] == 2 * len(first[3]) // 2
    told = core.look(2.0)
    assert told
    assert sum(len(each.datagram) + 28 for each in told) <= len(datagram) - answer


def test_what_is_known_of_a_publisher_stays_known_where_its_journal_is_given_another_size() -> None:
    memory = pytest.importorskip("tempos_broker.journal.memory")

    def made(events: int) -> Any:
        layout = JournalLayout.of(events, 64)
        descriptor = memory.make(layout)
        try:
            return memory.Memory(descriptor, layout)
        finally:
            os.close(descriptor)

    def put(epoch: int, *numbers: int) -> None:
        for number in numbers:
            journals[7].put(epoch, [drawn[0]], wire.encode_event(7, 5, number, 0, b""))
            drawn[0] += 1

    def ask() -> tuple[int, int, list[int]]:
        datagram = Asked(9, None).request(5, [Confirm(7, 0, 60, 0, 0)])
        way = Way(Admitted(Caller("10.0.0.1"), datagram), 1, len(datagram))
        decision = core.request(decode_request(datagram), way, clock[0] / 1e9)
        assert isinstance(decision.answer, Done)
        ((_, certain, upto, lacking),) = decision.answer.fields["confirmed"]
        return certain, upto, lacking

    topic = Topic(7, "t", Quality.SQ, journal=4096)
    registry: Any = SimpleNamespace(numbered=lambda number: topic)
    journals, drawn, clock = {7: made(64)}, [0], [10**9]
    journals[7].begin(1, 0)
    core = Resends(
        registry, journals, lambda topic, epoch: drawn[0], has_members=lambda topic: True,
        forward=lambda topic, payload: True, is_waiting=lambda topic: False,
        refuses=lambda topic, ip: False, clock_ns=lambda: clock[0],
    )  # fmt: skip
    core.opened(7, 1, journals[7].first(1))
    ask()
    put(1, *range(50))
    clock[0] += 10**9
    assert ask() == (1000, 50, [])
    former, journals[7] = journals[7], made(4096)
    journals[7].continue_from(former)
    put(1, *range(50, 60))
    # Until all has been taken over nobody reads, and nothing is doubted for that.
    clock[0] += 10**9
    core.look(clock[0] / 1e9)
    assert ask() == (2000, 50, [])
    journals[7].follow(former)
    journals[7].begin(2, drawn[0])
    core.opened(7, 2, journals[7].first(2))
    clock[0] += 10**9
    assert ask() == (3000, 60, [])
