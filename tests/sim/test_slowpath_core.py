"""The slow path's core against a plain model: any history of arrivals, swaps and dispatches."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tempos import Framing, Group, LocalError, Member, Overflow, Quality, Reason, Route, Topic
from tempos._abi import JOURNAL_TICKETS
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.book import BESIDE
from tempos_broker.slowpath.core import Delivery, SlowPath

TOPICS = {
    topic.id: topic
    for topic in (
        Topic(1, "brake", Quality.SQ, 7),
        Topic(2, "steer", Quality.SQ, 7),
        Topic(3, "speed", Quality.SQ, 0),
        Topic(10, "video", Quality.BQ, 5),
        Topic(11, "audio", Quality.BQ, 5),
        Topic(12, "logs", Quality.BQ, 0),
    )
}
FOREIGN = (0, 4, 200, 255)


class Numbers:
    """A load of numbered datagrams that knows whether somebody gave it up."""

    def __init__(self, numbers: list[int], released: list[int]) -> None:
        self.numbers = numbers
        self._released = released

    def split(self, count: int) -> tuple[Numbers, Numbers]:
        assert 0 < count < len(self.numbers)
        return Numbers(self.numbers[:count], self._released), Numbers(self.numbers[count:], self._released)

    def release(self) -> None:
        self._released += self.numbers


class SlowPathMachine(RuleBasedStateMachine):
    @initialize(queue_sq=st.integers(1, 30), queue_bq=st.integers(1, 30))
    def begin(self, queue_sq: int, queue_bq: int) -> None:
        self.tickets = LocalTickets()
        self.core: SlowPath[Numbers] = SlowPath(TOPICS.values(), self.tickets, queue_sq, queue_bq)
        self.room = {Quality.SQ: queue_sq, Quality.BQ: queue_bq}
        self.serial = 0
        self.released: list[int] = []
        self.sent: list[int] = []
        self.waiting: dict[int, deque[int]] = {topic: deque() for topic in TOPICS}
        self.expected_refusals: Counter[tuple[int, Reason]] = Counter()
        self.routes: dict[int, Route] = {}
        self.share: dict[tuple[int, int, str], list[int]] = {}

    def _load(self, count: int) -> Numbers:
        numbers = list(range(self.serial, self.serial + count))
        self.serial += count
        return Numbers(numbers, self.released)

    def _queued(self, quality: Quality) -> int:
        return sum(len(self.waiting[topic.id]) for topic in TOPICS.values() if topic.quality is quality)

    @rule(topic=st.sampled_from(sorted(TOPICS)), count=st.integers(1, 20))
    def arrive(self, topic: int, count: int) -> None:
        quality = TOPICS[topic].quality
        load = self._load(count)
        fits = min(count, self.room[quality] - self._queued(quality))
        self.waiting[topic].extend(load.numbers[:fits])
        before = len(self.released)
        self.core.arrived(topic, count, load)
        assert self.released[before:] == load.numbers[fits:], "the newest are refused, and only they"
        self.expected_refusals[topic, Reason.QUEUE_FULL] += count - fits

    @rule(topic=st.sampled_from(FOREIGN), count=st.integers(1, 5))
    def arrive_foreign(self, topic: int, count: int) -> None:
        self.core.arrived(topic, count, self._load(count))
        reason = Reason.RESERVED_TOPIC if topic in (0, 255) else Reason.UNKNOWN_TOPIC
        self.expected_refusals[topic, reason] += count

    @rule(
        reason=st.sampled_from((Reason.EMPTY, Reason.BAD_VERSION, Reason.CUT_SHORT)), count=st.integers(1, 5)
    )
    def refuse(self, reason: Reason, count: int) -> None:
        self.core.refused(3, reason, count)
        self.released += self._load(count).numbers
        self.expected_refusals[3, reason] += count

    @rule(topic=st.sampled_from(sorted(TOPICS)), sizes=st.lists(st.integers(1, 5), max_size=3))
    def swap(self, topic: int, sizes: list[int]) -> None:
        self._close_epoch(topic)
        old = self.routes.get(topic)
        epoch = old.epoch + 1 if old else 1
        groups = tuple(
            Group(f"g{index}", tuple(Member("10.0.0.1", port + 1) for port in range(size)))
            for index, size in enumerate(sizes)
        )
        self.routes[topic] = route = Route(TOPICS[topic], epoch, groups)
        self.tickets.reset(topic, epoch)
        self.core.swap(route)

    @precondition(lambda self: self._queued(Quality.SQ))
    @rule(limit=st.integers(1, 12))
    def dispatch_strict(self, limit: int) -> None:
        self._check(Quality.SQ, self.core.next_strict(limit), limit)

    @precondition(lambda self: self._queued(Quality.BQ))
    @rule(limit=st.integers(1, 12))
    def dispatch_best_effort(self, limit: int) -> None:
        self._check(Quality.BQ, self.core.next_best_effort(limit), limit)

    def _check(self, quality: Quality, delivery: Delivery[Numbers] | None, limit: int) -> None:
        highest = None
        while highest is None and self._queued(quality):
            highest = max(
                topic.priority
                for topic in TOPICS.values()
                if topic.quality is quality and self.waiting[topic.id]
            )
            # What has no member is refused on the way to the next that has one.
            for topic in TOPICS.values():
                route = self.routes.get(topic.id)
                if topic.quality is quality and topic.priority == highest and not (route and route.groups):
                    gone = [n for n in self.waiting[topic.id] if n in set(self.released)]
                    for number in gone:
                        self.waiting[topic.id].remove(number)
                    self.expected_refusals[topic.id, Reason.NO_MEMBER] += len(gone)
            if not any(
                self.waiting[t.id] for t in TOPICS.values() if t.quality is quality and t.priority == highest
            ):
                highest = None
        if delivery is None:
            assert not self._queued(quality)
            return
        topic = delivery.route.topic
        assert delivery.route is self.routes[topic.id], "a run goes out with the route of now"
        assert (topic.quality, topic.priority) == (quality, highest)
        assert 0 < delivery.count == len(delivery.load.numbers) <= limit
        assert delivery.load.numbers[0] == min(
            number
            for other in TOPICS.values()
            if other.quality is quality and other.priority == highest
            for number in self.waiting[other.id]
        ), "first come, first served inside a priority"
        for number in delivery.load.numbers:
            assert self.waiting[topic.id].popleft() == number, "the order of a topic is kept"
        self.sent += delivery.load.numbers
        for group, first in zip(delivery.route.groups, delivery.first_tickets, strict=True):
            tickets = self.share.setdefault((topic.id, delivery.route.epoch, group.name), [])
            tickets += range(first, first + delivery.count)

    def _close_epoch(self, topic: int) -> None:
        """Every group got every event of the epoch; members differ by at most one; sequences have no gap."""
        route = self.routes.get(topic)
        if route is None:
            return
        drawn = {self.tickets.read(topic, route.epoch, index) for index in range(len(route.groups))}
        assert len(drawn) <= 1
        for group in route.groups:
            tickets = self.share.get((topic, route.epoch, group.name), [])
            sequences: dict[int, list[int]] = defaultdict(list)
            for ticket in tickets:
                sequences[ticket % len(group.members)].append(ticket // len(group.members))
            assert tickets == list(range(len(tickets)))
            assert all(got == list(range(len(got))) for got in sequences.values())
            counts = [len(sequences[member]) for member in range(len(group.members))]
            assert max(counts) - min(counts) <= 1

    @invariant()
    def every_datagram_is_in_the_account_once(self) -> None:
        if not hasattr(self, "core"):
            return
        counters = self.core.counters()
        booked = sum(n for row in counters.values() for reason, n in row.items() if reason not in BESIDE)
        assert self.core.received == self.serial == booked + self.core.queued
        forwarded = sum(row.get(Reason.FORWARDED, 0) for row in counters.values())
        assert forwarded == len(self.sent)
        refused = {
            (topic, reason): n
            for topic, row in counters.items()
            for reason, n in row.items()
            if reason is not Reason.FORWARDED
        }
        assert refused == +self.expected_refusals
        assert len(self.released) == sum(refused.values()), "what is refused gives its slots back"
        assert not set(self.released) & set(self.sent)

    def teardown(self) -> None:
        for topic in getattr(self, "routes", {}):
            self._close_epoch(topic)


SlowPathMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_history_keeps_the_promises = SlowPathMachine.TestCase


def test_losses_are_kept_for_two_epochs_beside_the_account() -> None:
    core: SlowPath[Numbers] = SlowPath(TOPICS.values(), LocalTickets(), 10, 10)
    group = (Group("g", (Member("10.0.0.1", 1),)),)
    core.swap(Route(TOPICS[1], 256, group))
    core.arrived(1, 5, Numbers(list(range(5)), []))
    assert core.next_strict(5) is not None
    core.send_failed(1, 256 & 0xFF, 0, 3)
    core.swap(Route(TOPICS[1], 257, group))
    core.send_failed(1, 257 & 0xFF, 0, 2)
    assert (core.lost(1, 256, 0), core.lost(1, 257, 0)) == (3, 2)
    core.swap(Route(TOPICS[1], 258, group))
    assert (core.lost(1, 257, 0), core.lost(1, 258, 0)) == (2, 0)
    core.overrun(4)
    assert core.counters() == {
        0: {Reason.SOCKET_OVERRUN: 4},
        1: {Reason.FORWARDED: 5, Reason.SEND_ERROR: 5},
    }
    assert (core.received, core.queued) == (5, 0)


def test_reads_ahead_only_while_strict_events_have_a_member() -> None:
    core: SlowPath[Numbers] = SlowPath(TOPICS.values(), LocalTickets(), 10, 10)
    groups = (Group("g", (Member("10.0.0.1", 1),)),)
    core.swap(Route(TOPICS[10], 1, groups))
    assert core.read_ahead == 1
    core.swap(Route(TOPICS[1], 1, groups))
    assert core.read_ahead > 1
    core.swap(Route(TOPICS[1], 2, ()))
    assert core.read_ahead == 1


def test_groups_beyond_the_tickets_have_one_together_whoever_draws_beside() -> None:
    """So a journal, which has no room for more, knows theirs."""

    class Beside(LocalTickets):
        """Somebody else draws of a group whenever this one did."""

        def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
            first = super().draw(topic, epoch, group, count)
            super().draw(topic, epoch, group, group % 3)
            return first

    tickets = Beside()
    core: SlowPath[Numbers] = SlowPath(TOPICS.values(), tickets, 10, 10)
    groups = tuple(Group(f"g{number}", (Member("10.0.0.1", 1),)) for number in range(200))
    core.swap(Route(TOPICS[1], 1, groups))
    for _ in range(3):
        core.arrived(1, 1, Numbers([0], []))
        delivery = core.next_strict(10)
        assert delivery is not None
        assert len(delivery.first_tickets) == 200
    assert len(set(delivery.first_tickets)) > 1
    (together,) = {*delivery.first_tickets[JOURNAL_TICKETS - 1 :]}
    assert together == 2 + 2 * ((JOURNAL_TICKETS - 1) % 3)


@pytest.mark.parametrize("change", [{"framing": Framing.RAW}, {"name": "other"}, None])
def test_what_waits_of_a_topic_goes_nowhere_once_its_id_means_another_one(
    change: dict[str, object] | None,
) -> None:
    """It was checked by another framing: a raw datagram sent as an event had a length of its own making."""
    released: list[int] = []
    core: SlowPath[Numbers] = SlowPath(TOPICS.values(), LocalTickets(), 100, 100)
    for start, topic in enumerate((1, 2, 1, 3, 12, 1)):
        core.arrived(topic, 2, Numbers([2 * start, 2 * start + 1], released))
    after = [topic for topic in TOPICS.values() if topic.id != 1]
    if change:
        after.append(replace(TOPICS[1], **change))  # type: ignore[arg-type]
        core.put(after[-1])
    else:
        core.drop(1)
    assert sorted(released) == [0, 1, 4, 5, 10, 11]
    assert core.counters()[1] == {Reason.NO_MEMBER: 6}
    assert (core.waiting(Quality.SQ), core.waiting(Quality.BQ)) == (4, 2)
    for topic in after:
        core.swap(Route(topic, 1, (Group("g", (Member("10.0.0.1", 1),)),)))
    sent = []
    while (delivery := core.next_strict(10) or core.next_best_effort(10)) is not None:
        sent.append((delivery.route.topic.id, delivery.load.numbers))
    assert sent == [(2, [2, 3]), (3, [6, 7]), (12, [8, 9])]
    assert core.received == 12


def test_a_route_for_an_unknown_topic_is_the_callers_mistake() -> None:
    core: SlowPath[Numbers] = SlowPath(TOPICS.values(), LocalTickets(), 10, 10)
    with pytest.raises(LocalError, match="topic 99"):
        core.swap(Route(Topic(99, "who"), 1, ()))


def test_what_is_over_a_topics_rate_never_waits_and_is_in_the_account() -> None:
    limited = Topic(1, "brake", Quality.SQ, 7, rate=5)
    passing = Topic(2, "steer", Quality.SQ, 7, rate=5, overflow=Overflow.PASS)
    asked: list[tuple[int, int]] = []

    class Five:
        """Lets five pass in all."""

        left = 5

        def configure(self, topics: Sequence[Topic]) -> None:
            raise AssertionError("the broker configures the buckets, for both paths")

        def take(self, topic: int, count: int) -> int:
            asked.append((topic, count))
            granted = min(count, self.left)
            self.left -= granted
            return granted

    core: SlowPath[Numbers] = SlowPath([limited, passing, TOPICS[3]], LocalTickets(), 4, 4, limits=Five())
    released: list[int] = []
    core.arrived(1, 3, Numbers([0, 1, 2], released))
    core.arrived(1, 3, Numbers([3, 4, 5], released))
    core.arrived(1, 1, Numbers([6], released))
    core.arrived(2, 1, Numbers([7], released))
    core.arrived(3, 1, Numbers([8], released))
    assert asked == [(1, 3), (1, 3), (1, 1)], "only a topic that drops is asked for"
    # The bucket refuses the newest of a run; so does the queue, of what the bucket let pass.
    assert released == [5, 4, 6, 7, 8]
    assert core.counters() == {
        1: {Reason.OVER_RATE: 2, Reason.QUEUE_FULL: 1},
        2: {Reason.QUEUE_FULL: 1},
        3: {Reason.QUEUE_FULL: 1},
    }
    assert core.waiting(Quality.SQ) == core.queued == 4
    core.put(Topic(1, "brake", Quality.SQ, 7))
    core.arrived(1, 1, Numbers([9], released))
    assert len(asked) == 3, "a reload took the limit away"
