"""The slow path's decisions: which datagrams wait, which go next, to whom, and what is refused why.

No I/O, no clock, no bytes. The core handles *runs*: so many datagrams of one topic that arrived
together, whose contents are an opaque load. It decides once per run, which is what lets Python serve
a rate that it could not serve per datagram.

Rules it keeps:

* Strict before best effort, priority 7 before 0 inside a class, first come first served inside a
  priority. Hence the order of a topic is never changed.
* Queues are bounded per class; what finds its queue full is the newest and is refused.
* Tickets are drawn when a run goes out, never when it arrives: a route that was swapped while a run
  waited gets all of it, and an old epoch's tickets are final at the swap.
* Every datagram is in the account exactly once::

      received == queued + sum of counters over every reason that is not in BESIDE

  ``FORWARDED`` counts a datagram when it is dispatched to its groups. What then cannot be sent is
  lost to one group while others may get it, so it is counted *beside*, in copies rather than
  datagrams: ``SEND_ERROR`` per topic, and :meth:`SlowPath.lost` per group and epoch for the ledger.
  ``SOCKET_OVERRUN`` is beside too: those datagrams never reached the broker, and nobody knows their
  topic (row 0).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tempos import LocalError, Quality, Reason, Route, Topic
from tempos._abi import MAX_GROUPS, PRIORITIES, TOPIC_MAX, TOPIC_MIN, TOPICS
from tempos_broker.paths import Tickets
from tempos_broker.slowpath.book import Book, lost_index

if TYPE_CHECKING:
    from typing_extensions import Self

#: Full batches received before best effort gets its turn, while strict traffic may stand behind it in
#: the one socket. Reading ahead moves an overload out of the kernel's buffer, which knows no classes,
#: into the queues, which do. Four batches keep up with twice what one core can forward.
READ_AHEAD = 4

# Looking up a member of an enum costs as much as the counting itself.
_FORWARDED = int(Reason.FORWARDED)
_QUEUE_FULL = int(Reason.QUEUE_FULL)
_NO_MEMBER = int(Reason.NO_MEMBER)


class Load(Protocol):
    """The contents of a run."""

    def split(self, count: int) -> tuple[Self, Self]:
        """The first ``count`` datagrams (at least one, not all), and the rest."""
        ...

    def release(self) -> None:
        """Give up the contents unsent."""
        ...


LoadT = TypeVar("LoadT", bound=Load)


# Not frozen: one is made for every run, and freezing triples its cost.
@dataclass(slots=True)
class Delivery(Generic[LoadT]):
    """``count`` datagrams that go to every group of ``route``.

    Datagram i carries ticket ``first_tickets[g] + i`` in group g: its member there is ticket modulo the
    members, its delivery sequence the whole quotient.
    """

    route: Route
    first_tickets: list[int]
    count: int
    load: LoadT


class _Queue(Generic[LoadT]):
    """What waits in one class: a lane per priority, and a bit mask of the lanes that hold something."""

    __slots__ = ("lanes", "limit", "queued", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queued = 0
        self.waiting = 0
        self.lanes: list[deque[tuple[int, int, LoadT]]] = [deque() for _ in range(PRIORITIES)]


class SlowPath(Generic[LoadT]):
    """The sans-IO core. One thread, one event loop; nothing here blocks or raises for foreign input."""

    def __init__(
        self,
        topics: Iterable[Topic],
        tickets: Tickets,
        queue_sq: int,
        queue_bq: int,
        book: Book | None = None,
    ) -> None:
        """``queue_sq``, ``queue_bq``: datagrams that may wait per class. ``book``: None is one of its own."""
        self._tickets = tickets
        self._strict: _Queue[LoadT] = _Queue(queue_sq)
        self._best_effort: _Queue[LoadT] = _Queue(queue_bq)
        self._priority_of = [0] * TOPICS
        self._queue_of: list[_Queue[LoadT] | None] = [None] * TOPICS
        self._routes: list[Route | None] = [None] * TOPICS
        self._book = Book() if book is None else book
        self._counts, self._received, self._lost = self._book.counts, self._book.received, self._book.lost
        self.read_ahead = 1
        self.configure(topics)

    def configure(self, topics: Iterable[Topic]) -> None:
        """Serve these topics from now on, each by its class and priority, and no others.

        What waits keeps its place; of a topic that is gone it goes nowhere and is counted as that.
        """
        self._queue_of = [None] * TOPICS
        for topic in topics:
            self._priority_of[topic.id] = topic.priority
            self._queue_of[topic.id] = self._strict if topic.quality is Quality.SQ else self._best_effort
        for id_, queue in enumerate(self._queue_of):
            if queue is None:
                self._routes[id_] = None

    @property
    def queued(self) -> int:
        """Datagrams that wait."""
        return self._strict.queued + self._best_effort.queued

    @property
    def received(self) -> int:
        """Datagrams that arrived, whatever became of them."""
        return sum(self._received)

    def swap(self, route: Route) -> None:
        """Make ``route`` the route of its topic; what waits goes out with it."""
        topic = route.topic.id
        if self._queue_of[topic] is None:
            raise LocalError(f"route for topic {topic} ({route.topic.name}), which is not configured")
        self._routes[topic] = route
        for group in range(MAX_GROUPS):
            self._lost[lost_index(topic, route.epoch, group)] = 0
        strict_routed = any(
            other is not None and other.groups and self._queue_of[other.topic.id] is self._strict
            for other in self._routes
        )
        self.read_ahead = READ_AHEAD if strict_routed else 1

    def arrived(self, topic: int, count: int, load: LoadT) -> None:
        """``count`` datagrams whose payloads a data path may forward. Takes over the load."""
        self._received[topic] += count
        queue = self._queue_of[topic]
        if queue is None:
            known = TOPIC_MIN <= topic <= TOPIC_MAX
            self._counts[topic][Reason.UNKNOWN_TOPIC if known else Reason.RESERVED_TOPIC] += count
            load.release()
            return
        room = queue.limit - queue.queued
        if count > room:
            self._counts[topic][_QUEUE_FULL] += count - room
            if not room:
                load.release()
                return
            load, refused = load.split(room)
            refused.release()
            count = room
        priority = self._priority_of[topic]
        queue.queued += count
        queue.waiting |= 1 << priority
        queue.lanes[priority].append((topic, count, load))

    def refused(self, topic: int, reason: int, count: int) -> None:
        """``count`` datagrams not to be forwarded, for this :class:`Reason`; row 0 has what had no topic."""
        self._received[topic] += count
        self._counts[topic][reason] += count

    def overrun(self, count: int) -> None:
        """``count`` datagrams that the kernel dropped before anybody could read them."""
        self._counts[0][Reason.SOCKET_OVERRUN] += count

    def send_failed(self, topic: int, epoch: int, group: int, count: int) -> None:
        """``count`` copies for one group that the kernel refused to send; the epoch may be its low byte."""
        self._counts[topic][Reason.SEND_ERROR] += count
        self._lost[lost_index(topic, epoch, group)] += count

    def next_strict(self, limit: int) -> Delivery[LoadT] | None:
        """The next at most ``limit`` datagrams of strict quality, or None if none waits."""
        return self._next(self._strict, limit) if self._strict.waiting else None

    def next_best_effort(self, limit: int) -> Delivery[LoadT] | None:
        """The next at most ``limit`` datagrams of best-effort quality, or None if none waits."""
        return self._next(self._best_effort, limit) if self._best_effort.waiting else None

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Copies for this group that the kernel refused to send in this epoch.

        As with tickets, the two latest epochs are kept.
        """
        return self._lost[lost_index(topic, epoch, group)]

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Everything counted since the start, by topic and reason; zeros are left out."""
        return self._book.counters()

    def _next(self, queue: _Queue[LoadT], limit: int) -> Delivery[LoadT] | None:
        while queue.waiting:
            priority = queue.waiting.bit_length() - 1
            lane = queue.lanes[priority]
            topic, count, load = lane.popleft()
            if count > limit:
                load, rest = load.split(limit)
                lane.appendleft((topic, count - limit, rest))
                count = limit
            elif not lane:
                queue.waiting &= ~(1 << priority)
            queue.queued -= count
            route = self._routes[topic]
            if route is None or not route.groups:
                self._counts[topic][_NO_MEMBER] += count
                load.release()
                continue
            draw, epoch = self._tickets.draw, route.epoch
            first_tickets = []
            for group in range(len(route.groups)):
                first_tickets.append(draw(topic, epoch, group, count))  # noqa: PERF401 - one call less per run
            self._counts[topic][_FORWARDED] += count
            return Delivery(route, first_tickets, count, load)
        return None
