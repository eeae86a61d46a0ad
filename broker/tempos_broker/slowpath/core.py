"""The slow path's decisions: which datagrams wait, which go next, to whom, and what is refused why.

No I/O, no clock, no bytes. The core handles *runs*: so many datagrams of one topic that arrived
together, whose contents are an opaque load. It decides once per run, which is what lets Python serve
a rate that it could not serve per datagram.

Rules it keeps:

* Strict before best effort, priority 7 before 0 inside a class, first come first served inside a
  priority. Hence the order of a topic is never changed.
* A topic with a rate whose overflow is ``drop`` is held to it before anything of it waits.
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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tempos import LocalError, Overflow, Quality, Reason, Route, Topic
from tempos._abi import MAX_GROUPS, NARROW, PRIORITIES
from tempos._rows import UNKNOWN, is_topic
from tempos._slots import NUMBERS, TICKETS
from tempos_broker.paths import RateLimits, Tickets
from tempos_broker.slowpath.book import ARRIVED, Book

if TYPE_CHECKING:
    from typing_extensions import Self

#: Full batches received before best effort gets its turn, while strict traffic may stand behind it where
#: both come in by one socket. Reading ahead moves an overload out of the kernel's buffer, which knows no
#: classes, into the queues, which do. Four batches keep up with twice what one core can forward.
READ_AHEAD = 4

# Looking up a member of an enum costs as much as the counting itself.
_FORWARDED = int(Reason.FORWARDED)
_QUEUE_FULL = int(Reason.QUEUE_FULL)
_OVER_RATE = int(Reason.OVER_RATE)
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


def _let_go(topic: int, count: int, load: Load) -> None:
    load.release()


class SlowPath(Generic[LoadT]):
    """The sans-IO core. One thread, one event loop; nothing here blocks or raises for foreign input."""

    def __init__(
        self,
        topics: Iterable[Topic],
        tickets: Tickets,
        queue_sq: int,
        queue_bq: int,
        book: Book | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        """``queue_sq``, ``queue_bq``: datagrams that may wait per class. ``book``: None is one of its own.

        ``limits``: the token buckets, which somebody else configures; None: no topic is held to a rate.
        """
        self._tickets = tickets
        self._limits = limits
        self._limited: set[int] = set()
        self._strict: _Queue[LoadT] = _Queue(queue_sq)
        self._best_effort: _Queue[LoadT] = _Queue(queue_bq)
        # One for each class and priority, however many topics share it.
        self._places = {
            (quality, priority): (queue, priority)
            for quality, queue in ((Quality.SQ, self._strict), (Quality.BQ, self._best_effort))
            for priority in range(PRIORITIES)
        }
        #: By topic, what it waits in: its queue, and a lane of that.
        self._place_of: dict[int, tuple[_Queue[LoadT], int]] = {}
        self._routes: dict[int, Route] = {}
        #: By id; name and framing make a topic the same one.
        self._known: dict[int, Topic] = {}
        self._book = Book() if book is None else book
        self._counts = self._book.counts
        #: Takes over what found no member, once it is counted: a topic, how many, and the load.
        self.on_nobody: Callable[[int, int, LoadT], None] = _let_go
        #: Topics of strict quality whose events can go somewhere now.
        self._strict_routed: set[int] = set()
        for topic in topics:
            self.put(topic)

    def put(self, topic: Topic) -> None:
        """Serve this topic, too, or by its present class and priority; all others as they are.

        What waits keeps its place; where the id means another topic now, it goes nowhere and is counted as
        ``NO_MEMBER``: it was checked by what the former topic demands of its datagrams.
        """
        id_ = topic.id
        known = self._known.get(id_, topic)
        if (known.name, known.framing) != (topic.name, topic.framing):
            self._give_up({id_})
        self._known[id_] = topic
        (self._limited.add if self._is_limited(topic) else self._limited.discard)(id_)
        self._place_of[id_] = self._places[topic.quality, topic.priority]
        route = self._routes.get(id_)
        strict = route is not None and self._is_strict(route)
        (self._strict_routed.add if strict else self._strict_routed.discard)(id_)

    def drop(self, topic: int) -> None:
        """Serve this topic no more; all others as they are. What waits goes nowhere, and is counted."""
        self._give_up({topic})
        for each in (self._known, self._place_of, self._routes):
            each.pop(topic, None)
        self._limited.discard(topic)
        self._strict_routed.discard(topic)

    def _is_limited(self, topic: Topic) -> bool:
        return bool(self._limits is not None and topic.rate and topic.overflow is Overflow.DROP)

    @property
    def queued(self) -> int:
        """Datagrams that wait."""
        return self._strict.queued + self._best_effort.queued

    @property
    def read_ahead(self) -> int:
        """Full batches to receive before best effort gets its turn, where both classes come in together."""
        return READ_AHEAD if self._strict_routed else 1

    @property
    def strict_routed(self) -> bool:
        """Whether events of strict quality can go anywhere now."""
        return bool(self._strict_routed)

    def waiting(self, quality: Quality) -> int:
        """Datagrams that wait in a class."""
        return self._strict.queued if quality is Quality.SQ else self._best_effort.queued

    @property
    def received(self) -> int:
        """Datagrams that arrived, whatever became of them."""
        return self._book.received

    def swap(self, route: Route) -> None:
        """Make ``route`` the route of its topic; what waits goes out with it."""
        topic = route.topic.id
        if topic not in self._place_of:
            raise LocalError(f"route for topic {topic} ({route.topic.name}), which is not configured")
        self._routes[topic] = route
        self._book.begin(topic, route.epoch)
        (self._strict_routed.add if self._is_strict(route) else self._strict_routed.discard)(topic)

    def arrived(self, topic: int, count: int, load: LoadT) -> None:
        """``count`` datagrams whose payloads a data path may forward. Takes over the load."""
        place = self._place_of.get(topic)
        if place is None:
            reason = Reason.UNKNOWN_TOPIC if is_topic(topic) else Reason.RESERVED_TOPIC
            self.refused(topic, reason, count)
            load.release()
            return
        queue, priority = place
        counts = self._counts[topic]
        counts[ARRIVED] += count
        if topic in self._limited:
            assert self._limits is not None, "no topic is limited without"
            granted = self._limits.take(topic, count)
            if granted < count:
                counts[_OVER_RATE] += count - granted
                if not granted:
                    load.release()
                    return
                load, refused = load.split(granted)
                refused.release()
                count = granted
        room = queue.limit - queue.queued
        if count > room:
            counts[_QUEUE_FULL] += count - room
            if not room:
                load.release()
                return
            load, refused = load.split(room)
            refused.release()
            count = room
        queue.queued += count
        queue.waiting |= 1 << priority
        queue.lanes[priority].append((topic, count, load))

    def draw_now(self, topic: int) -> tuple[Route, list[int]] | None:
        """One datagram goes out before what waits: its route, and its ticket of each group.

        None: it goes nowhere, and is counted as what became of it.
        """
        counts, route = self._counts[topic], self._routes.get(topic)
        counts[ARRIVED] += 1
        if topic in self._limited:
            assert self._limits is not None, "no topic is limited without"
            if not self._limits.take(topic, 1):
                counts[_OVER_RATE] += 1
                return None
        if route is None or not route.groups:
            counts[_NO_MEMBER] += 1
            return None
        tickets = self._draw(route, 1)
        counts[_FORWARDED] += 1
        return route, tickets

    def taken(self, topic: int) -> int:
        """Datagrams of a topic that arrived, whatever became of them."""
        return self._book.taken(topic)

    def settled(self, topic: int) -> int:
        """Those of them of which it is decided what becomes: all but those that wait."""
        return self._book.settled(topic)

    def refused(self, topic: int, reason: int, count: int) -> None:
        """``count`` datagrams not to be forwarded, for this :class:`Reason`; row 0 has what had no topic.

        What has a wide id that no topic has is in one row, whatever id that is.
        """
        counts = self._counts[topic if topic < NARROW or topic in self._place_of else UNKNOWN]
        counts[ARRIVED] += count
        counts[reason] += count

    def overrun(self, count: int) -> None:
        """``count`` datagrams that the kernel dropped before anybody could read them."""
        self._counts[0][Reason.SOCKET_OVERRUN] += count

    def send_failed(self, topic: int, epoch: int, group: int, count: int) -> None:
        """``count`` copies for one group that the kernel refused to send; the epoch may be its low byte."""
        self._counts[topic][Reason.SEND_ERROR] += count
        self._book.lose(topic, epoch, group, count)

    def picked(self, topic: int, epoch: int, place: int, count: int) -> None:
        """A member that is picked by the source, by its place in the route, is handed ``count`` copies."""
        self._tickets.draw(topic, epoch, MAX_GROUPS + place, count)

    def meant(self, topic: int, epoch: int, number: int, count: int) -> int:
        """So many datagrams of a topic are of a group's senders; which number the first of them has."""
        return self._tickets.draw(topic, epoch, number, count)

    def next_strict(self, limit: int, copies: int | None = None) -> Delivery[LoadT] | None:
        """The next at most ``limit`` datagrams of strict quality, or None if none waits.

        ``copies``: fewer, if to all groups they were more copies than that (None: 64 of each); but at least
        one datagram.
        """
        return self._next(self._strict, limit, copies) if self._strict.waiting else None

    def next_best_effort(self, limit: int, copies: int | None = None) -> Delivery[LoadT] | None:
        """The next of best-effort quality; as :meth:`next_strict`."""
        return self._next(self._best_effort, limit, copies) if self._best_effort.waiting else None

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Copies for this group that the kernel refused to send in this epoch.

        As with tickets, the two latest epochs are kept.
        """
        return self._book.lost(topic, epoch, group)

    def counters(self, topics: Collection[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Everything counted since the start, by topic and reason, or of these; zeros are left out."""
        return self._book.counters(topics)

    def _give_up(self, topics: set[int]) -> None:
        """Let nothing wait any more of these topics."""
        if not topics:
            return
        for queue in (self._strict, self._best_effort):
            for priority, lane in enumerate(queue.lanes):
                kept = [run for run in lane if run[0] not in topics]
                if len(kept) == len(lane):
                    continue
                for topic, count, load in lane:
                    if topic in topics:
                        queue.queued -= count
                        self._counts[topic][_NO_MEMBER] += count
                        self.on_nobody(topic, count, load)
                lane.clear()
                lane.extend(kept)
                if not kept:
                    queue.waiting &= ~(1 << priority)

    def _is_strict(self, route: Route) -> bool:
        return bool(route.groups) and self._place_of[route.topic.id][0] is self._strict

    def _next(self, queue: _Queue[LoadT], limit: int, copies: int | None) -> Delivery[LoadT] | None:
        while queue.waiting:
            priority = queue.waiting.bit_length() - 1
            lane = queue.lanes[priority]
            topic, count, load = lane.popleft()
            route = self._routes.get(topic)
            most = limit
            if route is not None and route.groups and (copies is not None or len(route.groups) > NUMBERS):
                room = limit * NUMBERS if copies is None else copies
                most = max(1, min(limit, room // len(route.groups)))
            if count > most:
                load, rest = load.split(most)
                lane.appendleft((topic, count - most, rest))
                count = most
            elif not lane:
                queue.waiting &= ~(1 << priority)
            queue.queued -= count
            if route is None or not route.groups:
                self._counts[topic][_NO_MEMBER] += count
                self.on_nobody(topic, count, load)
                continue
            first_tickets = self._draw(route, count)
            self._counts[topic][_FORWARDED] += count
            return Delivery(route, first_tickets, count, load)
        return None

    def _draw(self, route: Route, count: int) -> list[int]:
        """So many tickets of each group of a route; the first of each."""
        draw, topic, epoch, groups = self._tickets.draw, route.topic.id, route.epoch, len(route.groups)
        if groups <= TICKETS:
            return [draw(topic, epoch, group, count) for group in range(groups)]
        together = groups - TICKETS + 1
        first = [draw(topic, epoch, group, count) for group in range(TICKETS - 1)]
        return first + [draw(topic, epoch, TICKETS - 1, count, together)] * together
