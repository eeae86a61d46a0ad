"""Replays: positions over epochs, and a client that loses some of what it is sent."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Framing, Topic, wire
from tempos.control import U64
from tempos.errors import WireError
from tempos.receiving.feeds import Feed
from tempos.receiving.inbox import Inbox
from tempos.receiving.replay import TRIES, Gathering, Wanted
from tempos.session import replayed
from tempos_broker.journal.replay import Stretch


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 9), max_size=6), most=st.integers(0, 40))
def test_positions_are_those_of_the_last_events_in_order(counts: list[int], most: int) -> None:
    spans = [((number + 1) << 32 | number, count) for number, count in enumerate(counts)]
    every = [first + at for first, count in spans for at in range(count)]
    stretch = Stretch(spans, most)
    found = [stretch[index] for index in range(len(stretch))]
    assert found == every[max(0, len(every) - most) :]
    for index, position in enumerate(found):
        assert stretch.behind(position) == index + 1
        assert stretch.behind(position - 1) == index
    assert stretch.behind(0) == 0
    assert stretch.behind(1 << 60) == len(found)


class Journal:
    """A broker that gives some at a time; every event is overwritten after it was sent so often."""

    def __init__(self, topic: Topic, count: int, page: int) -> None:
        self.topic, self.page = topic, page
        self.positions = [(7 << 32) + number for number in range(count)]
        self.gone: set[int] = set()

    def answer(self, after: int) -> tuple[dict[str, object], list[bytes]]:
        left = [each for each in self.positions if each > after]
        some = left[: self.page]
        there = [each for each in some if each not in self.gone]
        row = [
            self.topic.id, some[-1] if some else after, len(left) > len(some), len(some) - len(there),
            [each & 0xFFFFFFFF for each in there],
        ]  # fmt: skip
        copies = [
            replayed.encode_event(
                wire.encode_event(self.topic.id, 1, each & 0xFFFF, 1, b"%d" % each), 3, each
            )
            for each in there
        ]
        return {"replayed": [row]}, copies


@settings(deadline=None)
@given(
    count=st.integers(0, 60), page=st.integers(1, 16), loss=st.floats(0, 0.4), seed=st.integers(0, 99),
    overwritten=st.floats(0, 0.2),
)  # fmt: skip
def test_what_is_lost_is_asked_for_again_and_all_comes_once_in_order(
    count: int, page: int, loss: float, seed: int, overwritten: float
) -> None:
    chance = random.Random(seed)
    topic = Topic(300, "t", framing=Framing.EVENT, journal=64)
    inbox = Inbox(1000)
    gathering = Gathering([Feed(topic, "g")], Wanted(last=100, only_retained=False), inbox)
    journal = Journal(topic, count, page)
    rounds = 0
    while requests := gathering.requests():
        ((number, after, last, age),) = requests
        assert (number, last, age) == (300, 100, U64)
        fields, copies = journal.answer(after)
        gathering.answered(fields)
        chance.shuffle(copies)
        for copy in copies * 2:
            if chance.random() >= loss:
                assert gathering.take(copy)
        gathering.settle(5)
        journal.gone |= {each for each in journal.positions if chance.random() < overwritten}
        rounds += 1
        assert rounds <= TRIES * (count + 1)
    events = inbox.take_some(1000)
    while more := inbox.take_some(1000):
        events += more
    found = [int(event.body) for event in events]
    assert all(one < other for one, other in pairwise(found))
    assert gathering.came == len(found)
    assert gathering.came + gathering.gone == count
    assert all(event.is_replayed and event.delivery_sequence is None and event.epoch == 3 for event in events)
    if not overwritten and not loss:
        assert len(found) == count


def test_what_does_not_fit_the_queue_is_told() -> None:
    topic = Topic(1, "t", framing=Framing.RAW, journal=8)
    inbox = Inbox(2)
    gathering = Gathering([Feed(topic, "g")], Wanted(last=3, only_retained=False), inbox)
    assert gathering.requests()
    gathering.answered({"replayed": [[1, 9, False, 1, [7, 8, 9]]]})
    for number in (7, 8, 9):
        copy = replayed.encode_raw(1, number, b"\1%d" % number)
        assert copy is not None
        assert gathering.take(copy)
    gathering.settle(5)
    assert [event.body for event in inbox.take_some(9)] == [b"7", b"8"]
    assert (gathering.came, gathering.gone) == (2, 2)
    assert not gathering.requests()
    assert replayed.encode_raw(1, 1, bytes(1472)) is None


@pytest.mark.parametrize("rows", [None, [1], [[1, 2, True, 0]], [[1, 2, 1, 0, []]], [[1, "a", True, 0, []]]])
def test_nonsense_is_refused(rows: object) -> None:
    with pytest.raises(WireError):
        Gathering([], Wanted(), Inbox(1)).answered({"replayed": rows})
