"""What a member misses: when it is asked for, asked for again, given up; and the order of what follows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tempos import LocalError
from tempos.control import Code, Missing, decode_request, encode_error, encode_ok
from tempos.receiving.inbox import Event
from tempos.repair.asking import Answer, Asking, Told, decode_told, encode_told
from tempos.repair.gaps import (
    AGAIN_FIRST,
    APART,
    APART_LEAST,
    KEPT,
    MIXED,
    MOST,
    REORDER,
    ROWS,
    SPARED,
    TOLD_MOST,
    Repairs,
    Span,
)
from tempos.repair.order import OrderedInbox
from tempos.repair.repairer import check

TOPIC, EPOCH = 7, 3


def repairs(patience: float = 1.0) -> Repairs:
    made = Repairs(patience)
    made.follow(TOPIC, 0.0)
    # That it follows the topic is told at once.
    assert made.ask(0.0) == [Missing(TOPIC, 0, 0, 0)]
    made.answered(0.0)
    return made


def span(first: int, end: int) -> Span:
    return Span(TOPIC, EPOCH, first, end)


def test_that_a_topic_is_repaired_is_told_until_the_broker_answers() -> None:
    made, asked = Repairs(1.0), list[float]()
    made.follow(TOPIC, 0.0)
    while len(asked) < 12:
        assert made.timer is not None
        now = made.timer
        if made.ask(now):
            asked.append(now)
            # It is no member yet, and then nothing comes back.
            if len(asked) == 1:
                made.refused()
    pauses = [round(after - before, 6) for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == TOLD_MOST
    made.answered(100.0)
    assert made.timer is None
    assert made.ask(200.0) == []


def test_where_datagrams_came_in_another_order_gaps_are_left_alone_for_a_moment() -> None:
    made = repairs()
    made.lacks(span(0, 1), 1.0)
    made.came(TOPIC, EPOCH, 0, again=False)
    assert made.ask(1.1) == []
    for number in range(MIXED):
        now = 2.0 + number
        made.lacks(span(5, 8), now)
        assert made.ask(now + REORDER / 2) == []
        assert made.ask(now + REORDER) == [Missing(TOPIC, EPOCH, 5, 3)]
        made.gone(span(5, 8))
    # It has not happened again for so many.
    made.lacks(span(5, 8), 100.0)
    assert made.ask(100.0) == [Missing(TOPIC, EPOCH, 5, 3)]


def test_a_gap_is_asked_for_at_once_and_then_later_and_later() -> None:
    made = repairs()
    assert made.timer is None
    made.lacks(span(5, 8), 1.0)
    assert made.timer == pytest.approx(1.0)
    asked: list[float] = []
    now = 1.0
    while not (given := made.expire(now)):
        if rows := made.ask(now):
            assert rows == [Missing(TOPIC, EPOCH, 5, 3)]
            asked.append(now)
        assert made.timer is not None
        now = made.timer
    assert given == [span(5, 8)]
    # Once more when its time is over.
    assert [at for at in asked if at >= 2.0] == [2.0]
    pauses = [after - before for before, after in pairwise(asked)]
    assert asked[0] == pytest.approx(1.0)
    assert pauses[0] == pytest.approx(AGAIN_FIRST)
    # But for the last, which comes before all is over.
    assert pauses[:-1] == sorted(pauses[:-1])
    assert made.count(TOPIC).given_up == 3


def test_what_comes_is_asked_for_no_more_and_counted_where_it_was_asked_for() -> None:
    made = repairs()
    made.lacks(span(0, 4), 1.0)
    made.came(TOPIC, EPOCH, 1, again=False)
    made.came(TOPIC, EPOCH, 3, again=True)
    assert made.ask(1.1) == [Missing(TOPIC, EPOCH, 0, 1), Missing(TOPIC, EPOCH, 2, 1)]
    assert made.first_gap(TOPIC) == (EPOCH, 0)
    made.came(TOPIC, EPOCH, 0, again=True)
    made.came(TOPIC, EPOCH, 2, again=True)
    assert made.first_gap(TOPIC) is None
    assert made.ask(2.0) == []
    assert (made.count(TOPIC).repaired, made.count(TOPIC).given_up) == (3, 0)


def test_what_the_broker_has_no_more_is_given_up_and_comes_back_if_it_comes() -> None:
    made = repairs()
    made.lacks(span(0, 10), 1.0)
    assert made.gone(span(2, 5)) == [span(2, 5)]
    # Told again, which changes nothing.
    assert made.gone(span(2, 5)) == []
    assert made.count(TOPIC).given_up == 3
    made.came(TOPIC, EPOCH, 3, again=True)
    assert (made.count(TOPIC).repaired, made.count(TOPIC).given_up) == (1, 2)
    assert made.ask(1.1) == [Missing(TOPIC, EPOCH, 0, 2), Missing(TOPIC, EPOCH, 5, 5)]
    assert made.give_up_all() == [span(0, 2), span(5, 10)]
    assert made.count(TOPIC).given_up == 9


def test_requests_keep_a_distance_that_answers_shorten_and_have_so_many_rows() -> None:
    made = repairs()
    for first in range(0, 4 * ROWS, 2):
        made.lacks(span(first, first + 1), 1.0)
    asked = made.ask(1.1)
    assert [row.first for row in asked] == list(range(0, 2 * ROWS, 2))
    assert made.ask(1.1 + APART_LEAST / 2) == []
    assert [row.first for row in made.ask(1.1 + APART_LEAST)] == list(range(2 * ROWS, 4 * ROWS, 2))
    made.answered(1.1 + APART_LEAST + 0.001)
    assert made.ask(1.1 + AGAIN_FIRST)[0].first == 0


def test_a_long_gap_is_asked_for_piece_by_piece_and_none_of_it_waits_for_what_was_not_asked_for() -> None:
    made, now, asked = repairs(), 1.0, []
    made.lacks(span(100, 100 + 10 * MOST), now)
    made.lacks(span(5000, 5001), now)
    while len(asked) < 11:
        assert made.timer is not None
        now = max(now + REORDER, made.timer)
        asked += made.ask(now)
    assert [(row.first, row.number) for row in asked] == [
        *((100 + place * MOST, MOST) for place in range(10)),
        (5000, 1),
    ]
    assert now < 1.0 + 2 * REORDER + 10 * APART


def test_what_is_remembered_is_bounded() -> None:
    made = repairs(patience=1000.0)
    given = [
        each for first in range(0, 6 * KEPT, 2) for each in made.lacks(span(first, first + 1), float(first))
    ]
    assert [each.first for each in given] == list(range(0, 4 * KEPT, 2))
    assert made.count(TOPIC).given_up == 2 * KEPT
    made.unfollow(TOPIC)
    assert made.first_gap(TOPIC) is None


def test_requests_and_what_they_are_answered() -> None:
    asking = Asking(0x1122334455667788, None)
    datagram = asking.request(4000, [Missing(TOPIC, EPOCH, 5, 3)])
    request = decode_request(datagram)
    assert (request.op, request.client) == ("repair", 0x1122334455667788)
    assert (request.fields["port"], request.fields["missing"]) == (4000, [Missing(TOPIC, EPOCH, 5, 3)])
    assert asking.receive(b"nothing of the kind") is None
    assert asking.receive(encode_ok(request.id + 1)) is None
    answer = encode_ok(request.id, sent=1, gone=[Missing(TOPIC, EPOCH, 6, 2), "nonsense", [1, 2, -3, 4]])
    assert asking.receive(answer) == Answer((span(6, 8),))
    # Once.
    assert asking.receive(answer) is None
    request = decode_request(asking.request(4000, []))
    assert asking.receive(encode_error(request.id, Code.UNKNOWN_MEMBER, "")) == Answer(unknown=True)


def test_what_tells_of_the_end() -> None:
    told = Told(0x1122334455667788, 300, 70_000, 41)
    datagram = encode_told(told)
    assert datagram[:2] == b"\0\3"
    assert decode_told(datagram) == told
    assert decode_told(datagram[:-1]) is None
    assert decode_told(b"\0\1" + datagram[2:]) is None


@pytest.mark.parametrize("patience", [-1.0, float("inf"), float("nan")])
def test_nobody_asks_for_ever(patience: float) -> None:
    with pytest.raises(LocalError, match="how long"):
        check(patience, ordered=False)
    with pytest.raises(LocalError, match="ordered"):
        check(0, ordered=True)


def event(number: int, missed: int = 0, topic: int = TOPIC, epoch: int | None = EPOCH) -> Event:
    delivery = None if epoch is None else number
    return Event("t", topic, b"%d" % number, 1, number, delivery, epoch, 0, 0, missed)


def taken(inbox: OrderedInbox) -> list[tuple[int, int]]:
    events = []
    while (each := inbox.take()) is not None:
        events.append((int(each.body), each.missed))
    return events


def ordered(made: Repairs, limit: int = 100) -> OrderedInbox:
    return OrderedInbox(limit, made.first_gap, lambda topic, byte: byte)


def test_what_follows_a_gap_waits_for_it() -> None:
    made = repairs()
    inbox = ordered(made)
    assert inbox.put(event(0))
    made.lacks(span(1, 3), 1.0)
    assert inbox.put(event(3, 2))
    assert inbox.put(event(4))
    # Others wait for nothing.
    assert inbox.put(event(1, topic=8))
    assert inbox.put(event(2, topic=9, epoch=None))
    assert taken(inbox) == [(0, 0), (1, 0), (2, 0)]
    assert inbox.waiting == 2
    made.came(TOPIC, EPOCH, 2, again=True)
    assert inbox.put(event(2, -1))
    assert taken(inbox) == []
    made.came(TOPIC, EPOCH, 1, again=True)
    assert inbox.put(event(1, -1))
    # What is told as missing is what has not come.
    assert taken(inbox) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert not inbox.waiting


def test_what_is_given_up_holds_nothing_back_and_is_told() -> None:
    made = repairs()
    inbox = ordered(made)
    made.lacks(span(0, 2), 1.0)
    fields: tuple[Any, ...] = event(2, 2)
    assert inbox.put_batch((*fields[:2], (b"2", b"3"), *fields[3:]), (b"2", b"3"))
    assert inbox.waiting == 2
    made.came(TOPIC, EPOCH, 1, again=True)
    assert inbox.put(event(1, -1))
    assert not inbox.release(TOPIC)
    made.gone(span(0, 1))
    assert inbox.release(TOPIC)
    assert taken(inbox) == [(1, 0), (2, 1), (3, 0)]
    # However late.
    made.came(TOPIC, EPOCH, 0, again=False)
    assert inbox.put(event(0, -1))
    assert taken(inbox) == [(0, -1)]


def test_what_is_held_back_is_bounded_and_let_go_in_the_end() -> None:
    made = repairs()
    inbox = ordered(made, limit=3)
    made.lacks(span(0, 1), 1.0)
    assert [inbox.put(event(number)) for number in range(1, 6)] == [True, True, True, False, False]
    assert inbox.release_all()
    assert [number for number, _ in taken(inbox)] == [1, 2, 3]
    made.lacks(span(4, 5), 1.0)
    inbox.put(event(5))
    assert inbox.shut() == [(TOPIC, 1)]
    assert not inbox.put(event(6))


def test_requests_may_come_quickly_for_a_moment_and_not_for_long() -> None:
    made = Repairs(100.0)
    made.follow(7, 0.0)
    made.ask(0.0)
    now, asked = 1.0, []
    for number in range(1000):
        made.lacks(Span(7, 1, 2 * number, 2 * number + 1), now)
        now += APART_LEAST
        if made.ask(now):
            asked.append(now)
    assert asked[1] - asked[0] == pytest.approx(APART_LEAST)
    assert len(asked) == pytest.approx((SPARED + 1.0) / APART, rel=0.1)
