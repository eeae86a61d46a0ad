"""The broker's side of repair, without I/O: where members stood, what they get, who is told of the end."""

from __future__ import annotations

import pytest

from tempos.repair.asking import Told
from tempos_broker.account.accounts import Holder
from tempos_broker.repair.seats import KEPT, Seats
from tempos_broker.repair.tails import AFTER, Tail, Tails

A, B, C = (Holder("10.0.0.1", port, port) for port in (1, 2, 3))
TOPIC = 5


def seats() -> Seats:
    made = Seats()
    made.opened(TOPIC, 4, 1000, [("g", (A, B)), ("~c", (C,))])
    return made


def test_a_delivery_is_one_ticket_of_the_group() -> None:
    made = seats()
    seat = made.of(TOPIC, 4, B)
    assert seat is not None
    assert (seat.group, seat.first) == (0, 1000)
    assert [seat.ticket(sequence) for sequence in range(3)] == [1, 3, 5]
    assert [seat.deliveries(tickets) for tickets in (0, 1, 2, 3, 4)] == [0, 0, 1, 1, 2]
    alone = made.of(TOPIC, 4, C)
    assert alone is not None
    assert (alone.group, alone.ticket(7)) == (1, 7)
    assert made.of(TOPIC, 5, B) is made.of(6, 4, B) is made.of(TOPIC, 4, Holder("10.0.0.1", 2, 9)) is None


def test_so_many_epochs_are_remembered() -> None:
    made = seats()
    for epoch in range(5, 5 + KEPT):
        made.opened(TOPIC, epoch, 0, [("g", (A,))])
    assert made.of(TOPIC, 4, A) is None
    assert made.of(TOPIC, 5, A) is not None
    assert made.latest(TOPIC) == 4 + KEPT
    made.forget(TOPIC)
    assert made.latest(TOPIC) is None


def test_members_are_told_of_the_end_when_a_topic_is_at_rest() -> None:
    made, drawn = seats(), [0]
    tails = Tails(made, lambda topic, epoch, group: drawn[0])
    assert tails.is_idle
    tails.listen(TOPIC, B, None)
    tails.listen(TOPIC, C, "10.0.0.9")
    here = {B, C}
    assert tails.look(0.0, here.__contains__) == []
    # As long as events come these tell it.
    for step in range(1, 5):
        drawn[0] += 1
        assert tails.look(step * AFTER[0], here.__contains__) == []
    told = [Tail(B, None, Told(2, TOPIC, 4, 2)), Tail(C, "10.0.0.9", Told(3, TOPIC, 4, 4))]
    at = 4 * AFTER[0]
    for after in AFTER:
        assert tails.look(at + after, here.__contains__) == told
        assert tails.look(at + after + 0.001, here.__contains__) == []
    assert tails.look(at + 100.0, here.__contains__) == []
    pauses = {tails.pause}
    tails.look(at + 101.0, here.__contains__)
    pauses.add(tails.pause)
    assert max(pauses) > AFTER[0]


def test_members_are_told_of_the_end_of_an_epoch_that_is_over_and_nobody_who_has_gone() -> None:
    made = seats()
    tails = Tails(made, lambda topic, epoch, group: 0)
    for each in (A, B, C):
        tails.listen(TOPIC, each, None)
    made.closed(TOPIC, 4, [5, 5])
    made.opened(TOPIC, 5, 2000, [("g", (B,))])
    tails.closed(TOPIC, 4, 0.0)
    tails.look(0.0, lambda holder: True)
    told = tails.look(AFTER[0], {A, B}.__contains__)
    assert told == [Tail(A, None, Told(1, TOPIC, 4, 3)), Tail(B, None, Told(2, TOPIC, 4, 2))]
    tails.forget(TOPIC)
    assert tails.is_idle


def test_journals_find_an_event_by_the_ticket_of_any_group() -> None:
    memory = pytest.importorskip("tempos_broker.journal.memory", reason="the compiled helper is not built")
    from tempos._slots import JournalLayout

    layout = JournalLayout.of(64, 32)
    journal = memory.Memory(memory.make(layout), layout)
    journal.begin(9, 0)
    first = journal.first(9)
    # Two drew at the same moment: of one group the one first, of the other the other.
    for tickets in ((0, 0), (1, 2), (2, 1), (3, 3)):
        assert journal.put(9, tickets, b"%d" % tickets[0])
    found = [[journal.find(first, 9, group, ticket, 16) for ticket in range(5)] for group in (0, 1)]
    assert [each and each.payload for each in found[0]] == [b"0", b"1", b"2", b"3", None]
    assert [each and each.payload for each in found[1]] == [b"0", b"2", b"1", b"3", None]
    assert journal.find(first, 9, 2, 0, 16) is None
    assert journal.find(first, 8, 0, 0, 16) is None
    # Those beyond the tickets that a slot has room for have the last one together.
    journal.begin(10, 4)
    for ticket in range(3):
        assert journal.put(10, [ticket] * 300, b"%d" % ticket)
    for group in (1, 31, 32, 63, 299):
        found = [[journal.find(journal.first(10), 10, group, ticket, 16) for ticket in range(4)]]
        assert [each and each.payload for each in found[0]] == [b"0", b"1", b"2", None]
