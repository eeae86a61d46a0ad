"""What a member can tell of its publishers' losses before the broker: bounds that hold, whatever is lost."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tempos.delivery import AGAIN
from tempos.model import Topic
from tempos.receiving.feeds import Feed
from tempos.receiving.sources import FOLLOWED, KEPT_HOLES, PublisherAccount, Said

HEAT = Topic(7, "heat")
SINCE = 5


def member(group: str = "~10.0.0.1:5000", joined: int | None = SINCE) -> Feed:
    feed = Feed(HEAT, group)
    feed.tracker.in_force(1)
    feed.sources.joined = joined
    return feed


def take(feed: Feed, publisher: int, sequence: int, delivery: int, events: int = 1, epoch: int = 1) -> bool:
    """What the intake does with a datagram; whether all of it came before."""
    gap = feed.see(epoch, delivery)
    if gap == AGAIN:
        return True
    if gap > 0:
        feed.sources.skips += gap
    source = feed.source_of(publisher)
    if source is not None and source.expected == sequence:
        source.expected = sequence + events
        source.batched += events - 1
        return False
    return feed.sources.follow(publisher, sequence, events, alone=feed.alone())


def told(feed: Feed, drained: bool = False) -> dict[int, tuple[int, int | None]]:
    return {one.publisher: (one.at_least, one.at_most) for one in feed.publishers(drained=drained)}


def test_a_gap_in_the_numbers_without_one_in_the_deliveries_never_reached_the_broker() -> None:
    feed = member()
    for delivery, sequence in enumerate([0, 1, 2, 5, 6, 9]):
        take(feed, 1, sequence, delivery)
    assert list(feed.publishers(drained=False)) == [PublisherAccount("heat", 1, 6, 6, 0, 10, 4, 4)]
    # The broker had one of them late, and a delivery of another was late; one delivery is missing.
    take(feed, 1, 7, 6)
    take(feed, 1, 12, 8)
    # Not knowing that its datagrams hold one event each, the one may have held all of them.
    assert told(feed) == {1: (0, 5)}
    feed.sources.tell(1, 1, Said(13, 0, 13, SINCE))
    assert told(feed) == {1: (4, 5)}
    take(feed, 1, 11, 7)
    assert told(feed) == {1: (4, 4)}


def test_the_ends_are_known_by_what_the_publisher_says() -> None:
    feed = member()
    take(feed, 1, 2, 0)
    take(feed, 1, 3, 1)
    assert told(feed) == {1: (0, 0)}
    feed.sources.tell(1, 1, Said(6, 0, 6, SINCE))
    # What is lacking at the end may still be on its way, or be lost behind the broker.
    assert told(feed) == {1: (2, 4)}
    assert told(feed, drained=True) == {1: (4, 4)}
    assert feed.sources.heard == 1
    # Of those, one never left the publisher.
    feed.sources.tell(1, 2, Said(6, 1, 5, SINCE))
    assert told(feed, drained=True) == {1: (3, 3)}
    # It began before this was a member, or by another clock: the first two may have been before, too.
    for since, joined in ((SINCE - 1, SINCE), (SINCE, None), (SINCE | 1 << 48, SINCE)):
        feed.sources.joined = joined
        feed.sources.tell(1, 3, Said(6, 0, 6, since))
        assert told(feed, drained=True) == {1: (2, 2)}


def test_a_publisher_nothing_of_which_came_is_known_by_what_it_says() -> None:
    feed = member()
    feed.sources.tell(9, 1, Said(100, 3, 97, SINCE))
    feed.sources.tell(8, 2, Said(100, 0, 100, SINCE - 1))
    assert told(feed) == {9: (0, 97)}
    assert list(feed.publishers(drained=True)) == [PublisherAccount("heat", 9, 0, 0, None, None, 97, 97)]


def test_who_shares_a_group_says_nothing_of_what_others_may_have_got() -> None:
    feed = member("g")
    for delivery, sequence in enumerate([0, 3, 6, 5, 9]):
        take(feed, 1, sequence, delivery)
    (account,) = feed.publishers(drained=False)
    assert (account.events, account.first, account.at_least, account.at_most) == (5, 0, 0, None)
    assert account.lost_before is None
    # Alone from the next epoch on, as the broker says: what lies before stays what it is.
    feed.tracker.in_force(2)
    feed.sources.members(2, 1)
    for delivery, sequence in enumerate([14, 15, 18]):
        take(feed, 1, sequence, delivery, epoch=2)
    assert told(feed) == {1: (2, None)}
    # Another one joins.
    feed.tracker.in_force(3)
    feed.sources.members(3, 2)
    for delivery, sequence in enumerate([21, 24]):
        take(feed, 1, sequence, delivery, epoch=3)
    assert told(feed) == {1: (2, None)}


@pytest.mark.parametrize("told", [1, 2], ids=["after it is passed over", "before"])
def test_what_was_passed_over_when_it_might_have_been_others_is_no_double_when_it_comes(told: int) -> None:
    feed = member("g")
    came = [0, 3, 1, 2, 4, 1]
    again = []
    for delivery, sequence in enumerate(came):
        if delivery == (2 if told == 1 else 1):
            feed.sources.members(1, 1)
        again.append(take(feed, 1, sequence, delivery))
    assert again == [False] * 5 + [True], "only the last has come before"
    (account,) = feed.publishers(drained=True)
    assert (account.events, account.lost_before, feed.sources.repeated) == (5, 0, 1)


def test_a_named_group_of_one_tells_as_much_as_an_own_group() -> None:
    feed = member("g")
    feed.sources.members(1, 1)
    for delivery, sequence in enumerate([4, 5, 8]):
        take(feed, 1, sequence, delivery)
    assert told(feed) == {1: (2, 2)}


def test_what_came_by_another_ticket_before_is_known_and_counted() -> None:
    feed = member()
    assert [take(feed, 1, sequence, delivery) for delivery, sequence in enumerate([0, 1, 1, 3, 0, 2, 2])] == [
        False, False, True, False, True, False, True,
    ]  # fmt: skip
    assert feed.sources.repeated == 3
    (account,) = feed.publishers(drained=False)
    assert (account.events, account.lost_before) == (4, 0)


def test_numbers_wrap() -> None:
    feed = member()
    first = 2**32 - 3
    for delivery, place in enumerate([0, 1, 2, 3, 5, 9]):
        take(feed, 1, (first + place) & 0xFFFFFFFF, delivery)
    (account,) = feed.publishers(drained=False)
    assert (account.events, account.first, account.next, account.lost_before) == (6, first, first + 10, 4)
    take(feed, 1, (first + 4) & 0xFFFFFFFF, 6)
    assert told(feed) == {1: (3, 3)}
    feed.sources.tell(1, 1, Said(2**32 + 9, 0, 2**32 + 9, SINCE))
    assert told(feed, drained=True) == {1: (5, 5)}


def test_batches_are_counted_by_their_events_and_make_bounds_wider() -> None:
    feed = member()
    take(feed, 1, 0, 0, events=10)
    take(feed, 1, 20, 1, events=10)
    (account,) = feed.publishers(drained=False)
    assert (account.datagrams, account.events, account.lost_before) == (2, 20, 10)
    # One delivery is missing: it may have held all of the ten.
    take(feed, 1, 40, 3, events=10)
    assert told(feed) == {1: (0, 20)}
    take(feed, 1, 30, 2, events=10)
    assert told(feed) == {1: (10, 10)}


@st.composite
def histories(draw: st.DrawFn) -> tuple[random.Random, int, float, float, float, bool]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    loss = st.sampled_from([0.0, 0.05, 0.3])
    return (
        rng,
        draw(st.integers(1, 4)),
        draw(loss),
        draw(loss),
        draw(st.sampled_from([0, 3])),
        draw(st.booleans()),
    )


def way(rng: random.Random, things: Iterable[object], loss: float, shuffled: float) -> list[object]:
    """What comes out of a network, each displaced by so many places at most."""
    placed = [(place + rng.uniform(0, shuffled), thing) for place, thing in enumerate(things)]
    return [thing for _, thing in sorted(placed, key=lambda one: one[0]) if rng.random() >= loss]


@given(histories())
@example((random.Random(5), 2, 0.3, 0.3, 3, True))
def test_bounds_hold_whatever_is_lost_before_and_behind_the_broker(
    history: tuple[random.Random, int, float, float, float, bool],
) -> None:
    rng, publishers, before, behind, shuffled, batches = history
    counts = dict.fromkeys(range(publishers), 0)
    sent = []
    for _ in range(200):
        publisher = rng.randrange(publishers)
        events = rng.randint(1, 9) if batches and publisher % 2 else 1
        sent.append((publisher, counts[publisher], events))
        counts[publisher] += events
    tickets = [(*one, delivery) for delivery, one in enumerate(way(rng, sent, before, shuffled))]  # type: ignore[misc]
    came = way(rng, tickets, behind, shuffled)
    feed = member()
    truth = {p: counts[p] - sum(one[2] for one in tickets if one[0] == p) for p in counts}
    for one in came:
        publisher, sequence, events, delivery = one  # type: ignore[misc]
        assert not take(feed, publisher, sequence, delivery, events)
    datagrams = {p: sum(1 for one in sent if one[0] == p) for p in counts}
    for version, publisher in enumerate(counts):
        feed.sources.tell(publisher, version, Said(counts[publisher], 0, datagrams[publisher], SINCE))
    # What was handed to this member after the last that came may be on its way, as far as it knows.
    last = max((one[3] for one in came), default=-1)  # type: ignore[index]
    on_the_way = {p: sum(one[2] for one in tickets[last + 1 :] if one[0] == p) for p in counts}
    for account in feed.publishers(drained=False):
        assert account.at_most is not None
        lost = truth[account.publisher]
        assert account.at_least - on_the_way[account.publisher] <= lost <= account.at_most
    if len(came) == len(tickets):
        assert {a.publisher: a.lost_before for a in feed.publishers(drained=True)} == {
            publisher: lost for publisher, lost in truth.items() if counts[publisher]
        }
    for account in feed.publishers(drained=False):
        got = [one for one in came if one[0] == account.publisher]  # type: ignore[index]
        assert (account.datagrams, account.events) == (len(got), sum(one[2] for one in got))  # type: ignore[index]


def test_memory_is_bounded_and_what_falls_out_is_counted() -> None:
    feed = member()
    delivery = 0
    for publisher in range(FOLLOWED + 5):
        take(feed, publisher, 0, delivery)
        delivery += 1
    assert len(feed.sources.by_id) == FOLLOWED
    assert feed.lacking().unfollowed == 5
    # Told and quiet, one makes room.
    for _, row in list(feed.sources.news("g", 7, 0))[:20]:
        feed.sources.acknowledge(row)
    take(feed, 5000, 0, delivery)
    assert 5000 in feed.sources.by_id
    assert len(feed.sources.by_id) == FOLLOWED
    assert feed.lacking().unfollowed == 5
    for number in range(1, 3 * KEPT_HOLES):
        take(feed, 5000, 2 * number, delivery + number)
    assert told(feed)[5000] == (3 * KEPT_HOLES - 1, 3 * KEPT_HOLES - 1)
    source = feed.source_of(5000)
    assert source is not None
    assert len(source.holes) == KEPT_HOLES


@pytest.mark.parametrize("life", [False, True])
def test_rows_are_told_until_the_broker_has_them(life: bool) -> None:
    feed = member()
    take(feed, 1, 0, 0)
    take(feed, 2, 4, 1)
    rows = [row for _, row in feed.sources.news("g", 7, 0)]
    assert rows == [(7, "g", 1, 1, 1, 0, 1, 0), (7, "g", 2, 1, 1, 4, 1, 0)]
    feed.sources.acknowledge(rows[0])
    assert [row.publisher for _, row in feed.sources.news("g", 7, 0)] == [2]
    take(feed, 1, 3, 2)
    assert [row for _, row in feed.sources.news("g", 7, 0)] == [(7, "g", 1, 2, 2, 0, 4, 2), rows[1]]
    for _, row in feed.sources.news("g", 7, 0):
        feed.sources.acknowledge(row)
    assert not list(feed.sources.news("g", 7, 0))
    if life:
        feed.tell_again()
        assert len(list(feed.sources.news("g", 7, 0))) == 2
    else:
        feed.new_broker()
        assert not list(feed.publishers(drained=False))
