"""Redelivery without I/O: what is owed, lots, and how they come over a network that loses and doubles."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos.control import Consumed, Taking
from tempos.redelivery.asking import (
    Handed,
    decode_again,
    decode_several,
    decode_waiting,
    encode_again,
    encode_several,
    encode_waiting,
)
from tempos.redelivery.processed import Processed
from tempos.redelivery.spans import KEPT, Spans
from tempos.redelivery.taking import WINDOW, Copy, Lot
from tempos.wire import decode_event, encode_event
from tempos_broker.account.accounts import Holder, Orphans
from tempos_broker.redelivery import aside, lots, owed
from tempos_broker.redelivery.topic import FORMER, TopicOwed

A, B, C = (Holder("10.0.0.1", port, port) for port in (1, 2, 3))
spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda s: (s[0], s[0] + s[1])))


@given(spans, st.integers(0, 80))
def test_spans_are_the_numbers_in_them(some: list[tuple[int, int]], end: int) -> None:
    numbers: set[int] = set()
    made = Spans()
    for first, last in some:
        assert made.add(first, last) == (not numbers.issuperset(range(first, last)))
        numbers |= set(range(first, last))
    assert {n for first, last in made.all for n in range(first, last)} == numbers
    assert all(a[1] < b[0] for a, b in zip(made.all, made.all[1:], strict=False))
    assert len(made) == len(numbers)
    assert {n for first, last in made.lacks(end) for n in range(first, last)} == set(range(end)) - numbers
    assert made.count(5, end) == len(numbers & set(range(5, end)))


def test_spans_are_bounded() -> None:
    made = Spans((4 * number, 4 * number + 2) for number in range(KEPT))
    made.add(10**6, 10**6 + 1)
    assert len(made.all) == KEPT
    assert (10**6, 10**6 + 1) not in made.all


def topic() -> TopicOwed:
    made = TopicOwed("orders")
    made.opened(1, 1000, [("work", [A, B])], 0.0)
    return made


def test_what_is_owed_is_what_was_sent_and_not_processed() -> None:
    made = topic()
    made.processed(A.client or 0, 1, 0, 2)
    made.processed(A.client or 0, 1, 4, 1)
    # Not its own, and not of an epoch that there is.
    made.processed(9, 1, 0, 2)
    made.processed(A.client or 0, 2, 0, 2)
    made.opened(2, 5000, [("work", [B])], 1.0)
    made.closed(1, [11])
    assert made.absent({2: "work"}, 5.0) == [1]
    lot = made.hand_over(1)
    assert lot is not None
    # It got the tickets 0, 2, 4, 6, 8, 10.
    assert [lot[index] for index in range(lot.size)] == [
        lots.Event(1, 1000, 0, 4), lots.Event(1, 1000, 0, 6), lots.Event(1, 1000, 0, 10)
    ]  # fmt: skip
    assert made.accounts() == {"work": Orphans(3, 0, 3, 0)}
    assert made.absent({2: "work"}, 6.0) == []
    assert made.hand_over(1) is None
    assert made.lot_of(2, "work") is lot
    assert made.lot_of(3, "work") is None
    lot.gone.add(1, 2)
    made.finish(lot, 2)
    assert made.accounts() == {"work": Orphans(3, 1, 1, 1)}
    made.finish(lot, 1)
    made.finish(lot, 100)
    assert made.accounts() == {"work": Orphans(3, 2, 0, 1)}
    assert made.lot_of(2, "work") is None


def test_a_lot_goes_on_with_another_member_where_it_was() -> None:
    made = topic()
    made.opened(2, 5000, [("work", [B, C])], 1.0)
    made.closed(1, [8])
    lot = made.hand_over(1)
    assert lot is not None
    assert made.lot_of(2, "work") is lot
    made.finish(lot, 3)
    made.opened(3, 9000, [("work", [C])], 1.0)
    made.closed(2, [0])
    assert made.absent({3: "work"}, 1.0) == [2]
    own = made.hand_over(2)
    assert own is not None, "it had processed nothing of its own"
    assert (own.size, lot.left, lot.taker) == (4, 1, None)
    assert made.lot_of(3, "work") is lot
    # Numbers are nobody else's.
    assert own.base == (lot.base + lot.size) & 0xFFFFFFFF


def test_who_is_gone_before_it_could_tell_what_it_processed_is_owed_all() -> None:
    made = topic()
    made.opened(2, 5000, [("work", [B, C])], 3.0)
    made.closed(1, [6])
    assert made.absent({2: "work", 3: "work"}, 3.0) == [1]
    assert made.does_speak(1), "it may have done so if it had lived"
    made.speaks(2)
    made.opened(3, 9000, [], 99.0)
    made.closed(2, [9])
    assert set(made.absent({}, 99.0)) == {1, 2, 3}
    assert not made.does_speak(3), "it had the time, and said nothing"
    assert made.hand_over(2) is not None
    # One that comes back is known.
    made.opened(4, 12000, [("work", [B])], 100.0)
    made.opened(5, 15000, [], 200.0)
    made.closed(4, [3])
    assert 2 in made.absent({}, 200.0)
    assert made.does_speak(2)


def test_nothing_is_remembered_of_who_processed_all() -> None:
    made = owed.Owed()
    for epoch in range(1, 50):
        made.opened(epoch, epoch << 32, [("work", [A, B])])
        made.closed(epoch - 1, [7])
        for holder, count in ((A, 4), (B, 3)):
            made.processed(holder.client or 0, epoch - 1, 0, count)
    assert list(made.epochs) == [49]
    assert made.oldest == 49


def test_a_bounded_number_of_epochs_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "KEPT", 3)
    made = owed.Owed()
    given_up = 0
    for epoch in range(5):
        given_up += made.opened(epoch, 1, [("work", [A, B])])
        made.closed(epoch, [10])
    assert given_up == 20


def test_it_is_the_same_in_another_life() -> None:
    made = topic()
    made.speaks(1)
    made.processed(1, 1, 0, 2)
    made.opened(2, 5000, [("work", [B])], 1.0)
    made.closed(1, [11])
    lot = made.hand_over(1)
    assert lot is not None
    made.lot_of(2, "work")
    made.finish(lot, 1)
    made.processed(2, 2, 3, 4)
    stored = json.loads(json.dumps(made.export()))
    again = TopicOwed.load(stored)
    assert again.accounts() == made.accounts() == {"work": Orphans(4, 1, 3, 0)}
    assert json.loads(json.dumps(again.export())) == stored
    again_lot = again.lot_of(2, "work")
    assert again_lot is not None
    assert (again_lot.base, again_lot.done, again_lot.size) == (lot.base, 1, 4)
    assert again.only_open(7)
    again.tidy([])
    assert set(again.accounts()) == {"work"}


@pytest.mark.parametrize("change", [("lots", [[0]]), ("epochs", 3), ("epochs", [[1, 1, [], [1], [], []]]),
                                    ("counts", [["work", [1]]]), ("holders", [["1.2.3.4"]])])  # fmt: skip
def test_nonsense_is_refused(change: tuple[str, object]) -> None:
    stored = {**topic().export(), change[0]: change[1]}
    with pytest.raises((KeyError, TypeError, ValueError)):
        TopicOwed.load(stored)


def test_counts_of_groups_that_are_no_more_go_into_one_sum() -> None:
    made = topic()
    made.opened(2, 5000, [], 1.0)
    made.closed(1, [2])
    for client in (1, 2):
        lot = made.hand_over(client)
        assert lot is not None
        made.finish(lot, 1)
    made.tidy(["work"])
    assert made.accounts() == {"work": Orphans(2, 2, 0, 0)}
    made.closed(2, [])
    made.tidy([])
    assert made.accounts() == {FORMER: Orphans(2, 2, 0, 0)}


def test_processed_deliveries_are_told_until_they_are_heard() -> None:
    made = Processed(7)
    for sequence in (0, 1, 3):
        made.add(2, sequence)
    made.add(3, 0)
    rows = made.take(2)
    assert rows == [Consumed(7, 2, 0, 2), Consumed(7, 2, 3, 1)]
    assert made.has_news
    made.unheard(rows[1])
    made.add(2, 2)
    assert made.take(9) == [Consumed(7, 2, 2, 2), Consumed(7, 3, 0, 1)]
    assert not made.has_news
    made.tell_again()
    assert made.take(9) == [Consumed(7, 2, 0, 4), Consumed(7, 3, 0, 1)]
    made.forget(3)
    made.tell_again()
    assert made.take(9) == [Consumed(7, 3, 0, 1)]


@given(st.integers(0, 2**32), st.integers(0, 500), st.floats(0, 0.6))
def test_a_lot_comes_whole_once_and_in_order_over_a_lossy_way(seed: int, size: int, loss: float) -> None:
    chance = random.Random(seed)
    base = chance.getrandbits(32)
    gone = {index for index in range(size) if chance.random() < 0.05}
    given_out: list[tuple[int, bytes]] = []
    waiting: list[int] = []

    def hand_out(topic: int, copies: Sequence[Copy], first: int) -> list[bool]:
        taken = copies[: max(0, 41 - len(waiting))]
        for number, copy in enumerate(taken, first):
            waiting.append(number & 0xFFFFFFFF)
            given_out.append((number & 0xFFFFFFFF, copy.datagram))
        return [True] * len(taken)

    def some(indices: list[int], now: float) -> None:
        """Each by itself, or with those that follow it."""
        while indices:
            run = [indices.pop(0)]
            while indices and indices[0] == run[-1] + 1 and chance.random() < 0.5:
                run.append(indices.pop(0))
            lot.take((base + run[0]) & 0xFFFFFFFF, [Copy(3, b"%d" % index) for index in run], now)

    lot = Lot(7, hand_out)
    lot.is_announced = True
    now, done, turns = 0.0, 0, 0
    while done < size or not turns:
        turns += 1
        assert turns < 5000, "it comes to its end"
        now += 0.01
        while waiting and chance.random() < 0.9:
            lot.processed(waiting.pop(0))
        if not lot.is_due(now):
            continue
        asked = lot.taking()
        assert asked.room <= WINDOW
        if chance.random() < loss:
            continue
        if asked.lot == base and asked.have:
            done = max(done, asked.done)
        first = max(done, asked.have if asked.lot == base else 0)
        end = min(size, first + min(16, asked.room))
        left = (base, size) if done < size else (0, 0)
        answer = Handed(7, 0, *left, first, end, tuple((i, 1) for i in range(first, end) if i in gone))
        sent = [index for index in range(first, end) if index not in gone and chance.random() >= loss]
        sent += [index for index in sent if chance.random() < 0.2]
        if chance.random() < 0.5:
            chance.shuffle(sent)
        late = [index for index in sent if chance.random() < 0.5]
        some([index for index in sent if index not in late], now)
        if chance.random() >= loss:
            lot.handed(answer, now)
        some(late, now)
    wanted = [((base + index) & 0xFFFFFFFF, b"%d" % index) for index in range(size) if index not in gone]
    assert given_out == wanted


def test_what_comes_of_another_lot_is_left_alone() -> None:
    lot = Lot(7, lambda topic, copies, first: [True] * len(copies))
    lot.handed(Handed(7, 0, 100, 10, 0, 10, ()), 0.0)
    one = [Copy(0, b"")]
    assert not lot.take(99, one, 0.0)
    assert not lot.take(110, one, 0.0)
    assert lot.take(100, one, 0.0)
    assert not lot.take(100, one, 0.0)
    assert lot.taking() == Taking(7, 100, 0, 1, WINDOW - 1)
    lot.handed(Handed(7, 0, 110, 5, 2, 2, ()), 0.0)
    assert lot.taking() == Taking(7, 110, 2, 2, WINDOW)


@pytest.mark.parametrize("id_", [7, 300])
def test_datagrams(id_: int) -> None:
    datagram = encode_event(id_, 5, 6, 7, b"body")
    sent = encode_again(datagram, 259, 2**32 + 9)
    assert len(sent) == len(datagram)
    with pytest.raises(Exception, match="reserved"):
        decode_event(sent)
    again = decode_again(sent)
    assert again is not None
    assert (again.topic, again.number) == (id_, 9)
    event = decode_event(again.datagram)
    assert (event.epoch, event.publisher, event.sequence, bytes(event.bodies[0])) == (3, 5, 6, b"body")
    assert decode_again(datagram) is None
    assert decode_waiting(encode_waiting(2**63, id_)) == (2**63, id_)
    assert decode_waiting(datagram) is None
    together = encode_several(id_, 2**32 + 9, 259, [datagram, b"", datagram])
    assert decode_several(together) == (id_, 9, 3, (datagram, b"", datagram))
    assert decode_several(together[:-1]) is decode_several(together + b"\0") is None
    assert decode_several(datagram) is decode_several(sent) is None


class Slots:
    """A journal of so many events in which what is older is overwritten."""

    def __init__(self, slots: int) -> None:
        self.slots, self.written = slots, 0

    def find(self, event: lots.Event) -> bytes | None:
        position = event.first + event.ticket
        return b"%d" % position if self.written - self.slots <= position < self.written else None

    def keep(self, some: list[lots.Lot], most: int = 10**6, owing: owed.Owed | None = None) -> bool:
        kept = [lot.aside for lot in some] + (list(owing.kept()) if owing else [])
        room = most - sum(each.size for each in kept)
        live = (
            owing.unprocessed(lambda epoch, group: self.written - owing.epochs[epoch].first) if owing else ()
        )
        return aside.keep(some, live, aside.Ring(self.written, self.slots), room, self.find)


def test_what_is_about_to_be_overwritten_is_kept_aside_until_it_is_done_with() -> None:
    journal = Slots(4096)
    lot = lots.Lot(5, "work", [lots.Piece(1, 0, 0, 1, 2, 0, 1000), lots.Piece(2, 2000, 0, 0, 1, 0, 500)])
    journal.written = 1000
    assert not journal.keep([lot])
    assert len(lot.aside) == 0, "there is time"
    while journal.written < 20_000:
        journal.written += 300
        while journal.keep([lot]):
            pass
    assert len(lot.aside) == 1500
    assert [lot.aside.get(index) for index in (0, 999, 1000, 1499)] == [b"1", b"1999", b"2000", b"2499"]
    lot.finish(1200)
    assert (len(lot.aside), lot.aside.get(1199)) == (300, None)
    lot.finish(1500)
    assert lot.aside.size == 0


def test_what_is_kept_aside_is_bounded() -> None:
    journal = Slots(4096)
    some = [lots.Lot(base, "work", [lots.Piece(1, base, 0, 0, 1, 0, 500)]) for base in (0, 500, 1000)]
    journal.written = 1500
    while journal.written < 20_000:
        journal.written += 300
        while journal.keep(some, most=700 * (lots.Kept.EACH + 4)):
            pass
    assert 700 <= sum(len(lot.aside) for lot in some) <= 710
    assert len(some[0].aside) == 500, "the oldest first"


def test_what_the_living_have_not_processed_is_kept_aside_too_and_goes_into_their_lots() -> None:
    journal, made = Slots(4096), owed.Owed()
    made.opened(1, 1000, [("work", [A, B])])
    journal.written = 1500
    made.closed(1, [500])
    # The next epoch stands in the next slots, at other positions.
    made.opened(2, 1500 + 4096 * 9, [("work", [B])])
    made.processed(1, 1, 0, 100)
    made.processed(2, 1, 0, 250)
    journal.written = 1500 + 4096 * 9
    find = journal.find
    # What was written then is there as long as its slot is.
    journal.find = lambda event: (  # type: ignore[method-assign]
        find(event) if event.epoch == 2
        else b"%d" % (event.first + event.ticket) if journal.written < 5000 + 4096 * 9 else None
    )  # fmt: skip
    assert not journal.keep([], owing=made)
    assert sum(map(len, made.kept())) == 0, "there is time"
    while journal.written < 5200 + 4096 * 9:
        journal.written += 300
        made.processed(2, 2, 0, journal.written - 1500 - 4096 * 9)
        while journal.keep([], owing=made):
            pass
    assert sum(map(len, made.kept())) == 150
    # It has lived, and says so late.
    made.processed(1, 1, 100, 20)
    assert sum(map(len, made.kept())) == 130
    name, pieces, kept = made.take(1)
    lot = lots.Lot(7, name, pieces, aside=kept)
    assert (lot.size, len(lot.aside), lot.aside.get(0), lot.aside.get(129)) == (130, 130, b"1240", b"1498")
    assert sum(map(len, made.kept())) == 0


def test_of_who_processed_all_and_went_nothing_is_remembered_but_that_it_speaks() -> None:
    made = TopicOwed("orders")
    for client in range(1, 400):
        holder, epoch = Holder("10.0.0.1", client, client), 2 * client
        made.opened(epoch, 10 * epoch, [("work", [holder])], 0.0)
        made.speaks(client)
        made.listens(client, holder, None)
        if client % 2:
            made.processed(client, epoch, 0, 4)
        made.opened(epoch + 1, 10 * epoch + 10, [("work", [])], 1.0)
        made.closed(epoch, [4])
        made.said_last(client)
        if not client % 2:
            # It was looked at before it said so.
            assert made.absent({}, 1.0) == [client]
            made.processed(client, epoch, 0, 4)
        made.closed(epoch + 1, [0])
        assert made.absent({}, 2.0) == []
        assert made.holder(client) is None
    made.changed = False
    assert not made.is_busy, "nobody is waited for"
    told = made.export()
    assert (told["holders"], told["epochs"], len(told["speak"])) == ([], [], 399)
    kept = (made._listeners, made._since, made._left, made._last)
    assert not any(kept), kept
