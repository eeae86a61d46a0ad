"""Events on their way from the socket to the consumer: a bounded queue, in the order of arrival.

The events of a batch are made when they are taken: what waits is one small tuple for each datagram, and
an event that is used at once lives for no pass of Python's garbage collector. One thread puts in, one
consumer takes out; these may be different threads, and each of them writes what the other only reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any, NamedTuple, cast

from tempos import wire
from tempos.errors import LocalError

#: Events without a batch that are made ready with the first of them.
MOST_ALONE = 63

_U32 = 0xFFFFFFFF
#: ``new_event(Event, fields)``: what a NamedTuple's own constructor does, in half the time.
new_event = tuple.__new__


class Event(NamedTuple):
    """One event as it arrived. A tuple, because one is made for each: nothing immutable is cheaper.

    ``sent_ns`` and ``received_ns`` are wall clocks in nanoseconds, the publisher's and this machine's.
    ``missed`` is the number of datagrams sent to this member that are missing directly before this one;
    those that came and were not handed out (queue full, damaged) are among them. An event that comes late,
    after it was counted so, says -1: it takes that back. So the sum over a topic's events is what is
    missing of it, however the network has mixed them up; what may still come, comes before the end of a
    drain. A ``raw`` topic has no header, so publisher, the sequences, epoch and sent_ns are None.
    """

    topic: str
    topic_id: int
    body: bytes
    publisher: int | None
    sequence: int | None
    delivery_sequence: int | None
    epoch: int | None
    sent_ns: int | None
    received_ns: int
    missed: int

    @property
    def latency(self) -> float | None:
        """Seconds from publisher to here, as far as the two clocks agree; None where no time was sent."""
        return (self.received_ns - self.sent_ns) / 1e9 if self.sent_ns else None

    @property
    def is_request(self) -> bool:
        """Whether its publisher waits for an answer."""
        return False

    @property
    def is_replayed(self) -> bool:
        """Whether it is from before this was a member, out of the topic's journal; then it is no delivery."""
        return False

    @property
    def is_redelivered(self) -> bool:
        """Whether another member of the group was sent it, which is gone: it may have processed it."""
        return False

    def unpack(self) -> Any:
        """The body as msgpack; raises :class:`WireError` if it is none."""
        return wire.decode_body(self.body)

    def reply(self, body: object) -> Awaitable[None]:
        """Answer a request; await what it returns (not in code without asyncio: there it is sent by then).

        ``body``: bytes-like as it is, anything else as msgpack; up to what a datagram to the broker carries,
        less 56 bytes (60 with a wide topic). It goes back by the broker that the request came from. Raises
        :class:`LocalError` for an event that is no request, for one that was answered, and where there is no
        way to the broker; :class:`EventTooBig`, :class:`BodyError`. Of many in one turn of the event loop
        those of one size leave together at its end; what goes wrong with these is counted (`replies_failed`).
        """
        raise LocalError(f"this event of topic {self.topic!r} is no request: nobody waits for a reply")

    def reply_error(self, body: object) -> Awaitable[None]:
        """Answer a request with an error, which raises :class:`ReplyError` there; else as :meth:`reply`."""
        return self.reply(body)


class Kept(Event):
    """An event out of a journal."""

    @property
    def is_replayed(self) -> bool:
        return True


class Again(Event):
    """An event that another member was sent; the last one of its datagram has its ``number``."""

    number: int | None = None

    @property
    def is_redelivered(self) -> bool:
        return True


class Inbox:
    """Holds events until they are taken. ``limit``: how many wait at the most, the last batch not cut."""

    __slots__ = (
        "_last", "_limit", "_more_in", "_more_out", "_queue", "annexed", "limit", "processed", "ready",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = self.limit = limit
        # Events; for a batch the fields of its first one, but with a tuple of all bodies in place of one.
        self._queue: deque[Event | tuple[Any, ...]] = deque()
        # How many events more than entries came into the queue and left it with batches.
        self._more_in = self._more_out = 0
        #: The events that are next, for the consumer to take; once it is empty, :meth:`refill`.
        self.ready: deque[Event] = deque()
        #: Where what the consumer has done with is noted, as it stood in the queue; None: nobody asks.
        self.processed: deque[Event | tuple[Any, ...]] | None = None
        self._last: Event | tuple[Any, ...] | None = None
        #: By the identity of what stands in the queue: where it is noted, if not there (:class:`Annex`).
        self.annexed: dict[int, deque[Event | tuple[Any, ...]]] | None = None

    def __bool__(self) -> bool:
        """Whether there is an event."""
        return bool(self.ready or self._queue)

    @property
    def waiting(self) -> int:
        """Events that have not been taken."""
        return len(self._queue) + self._more_in - self._more_out + len(self.ready)

    def put(self, event: Event) -> bool:
        """Add an event; False if there is no room for it."""
        if len(self._queue) + self._more_in - self._more_out + len(self.ready) >= self._limit:
            return False
        self._queue.append(event)
        return True

    def put_batch(self, fields: tuple[Any, ...], bodies: tuple[bytes, ...]) -> bool:
        """Add the events of a batch, at least one; False if there is no room.

        ``fields`` are those of its first event, with the bodies in place of the body; the sequences of
        the others count on from it. With a tuple of all times in place of the time these are events of a
        datagram each, whose delivery sequences count on, too.
        """
        if self.waiting >= self._limit:
            return False
        self._more_in += len(bodies) - 1
        self._queue.append(fields)
        return True

    def put_all(self, events: Sequence[Event]) -> bool:
        """Add the events of a datagram, as they are; False if there is no room."""
        if self.waiting >= self._limit:
            return False
        self._queue.extend(events)
        return True

    def has_room(self, events: int) -> bool:
        """Whether there is room for all of so many that came alone."""
        return self.waiting + events <= self._limit

    def take(self) -> Event | None:
        """The next event, if there is one."""
        if self.ready or self.refill():
            return self.ready.popleft()
        return None

    def take_some(self, most: int) -> list[Event]:
        """Some of the next events, at most so many."""
        ready = self.ready
        if not ready and not self.refill():
            return []
        if len(ready) > most:
            return [ready.popleft() for _ in range(most)]
        events = list(ready)
        ready.clear()
        return events

    def finish(self) -> None:
        """The consumer asks for more: it has done with all that it took."""
        if self._last is not None and not self.ready:
            notes = self.processed
            if self.annexed is not None:
                notes = self.annexed.pop(id(self._last), notes)
            if notes is not None:
                notes.append(self._last)
            self._last = None

    def unfinished(self) -> list[Event | tuple[Any, ...]]:
        """What the consumer has not done with, as it stands in the queue."""
        elsewhere = self.annexed or {}
        return [each for each in self.all_unfinished() if id(each) not in elsewhere]

    def all_unfinished(self) -> list[Event | tuple[Any, ...]]:
        """The same with what is noted elsewhere."""
        return [*([] if self._last is None else [self._last]), *self._queue]

    def shut(self) -> list[tuple[int, int]]:
        """Take nothing more, and forget what waits: the topic and the events of each datagram."""
        self._limit = 0
        self.processed = self._last = self.annexed = None
        waits: list[tuple[int, int]] = []
        last: tuple[int | None, ...] = ()
        while (event := self.take()) is not None:
            this = (event.topic_id, event.epoch, event.delivery_sequence)
            # What is left of a batch is one datagram.
            events = 1 + (waits.pop()[1] if this == last and event.epoch is not None else 0)
            waits.append((event.topic_id, events))
            last = this
        return waits

    def refill(self) -> bool:
        """Put the next events into :attr:`ready`: a batch, or what came alone; False if there are none."""
        queue, ready = self._queue, self.ready
        noting = self.processed is not None or self.annexed is not None
        if noting:
            self.finish()
        if not queue:
            return False
        entry = queue.popleft()
        most = MOST_ALONE
        if noting:
            # One by one, so that it is known of each.
            self._last, most = entry, 0
        # A batch is a plain tuple.
        if type(entry) is not tuple:
            ready.append(cast("Event", entry))
            for _ in range(most):
                if not queue or type(queue[0]) is tuple:
                    break
                ready.append(cast("Event", queue.popleft()))
        else:
            events = _events(entry)
            self._more_out += len(events) - 1
            ready.extend(events)
        return True


class Annex(Inbox):
    """A second way into ``home``: what the consumer has done with of it is noted apart."""

    __slots__ = ("_home", "_notes")

    def __init__(self, home: Inbox) -> None:
        self._home = home
        self._notes: deque[Event | tuple[Any, ...]] | None = None
        super().__init__(home.limit)

    @property
    def processed(self) -> deque[Event | tuple[Any, ...]] | None:
        """As :attr:`Inbox.processed`, of what came by this way."""
        return self._notes

    @processed.setter
    def processed(self, notes: deque[Event | tuple[Any, ...]] | None) -> None:
        self._notes = notes
        if notes is not None and self._home.annexed is None:
            self._home.annexed = {}

    def __bool__(self) -> bool:
        return bool(self._home)

    @property
    def waiting(self) -> int:
        return self._home.waiting

    def put(self, event: Event) -> bool:
        return self._noted(event, put=self._home.put(event))

    def put_batch(self, fields: tuple[Any, ...], bodies: tuple[bytes, ...]) -> bool:
        return self._noted(fields, put=self._home.put_batch(fields, bodies))

    def put_all(self, events: Sequence[Event]) -> bool:
        put = self._home.put_all(events)
        for event in events:
            self._noted(event, put=put)
        return put

    def _noted(self, entry: Event | tuple[Any, ...], *, put: bool) -> bool:
        home = self._home
        if put and (home.processed is not None or home.annexed is not None):
            if home.annexed is None:
                home.annexed = {}
            home.annexed[id(entry)] = deque(maxlen=0) if self._notes is None else self._notes
        return put

    def unfinished(self) -> list[Event | tuple[Any, ...]]:
        mine = self._home.annexed or {}
        return [each for each in self._home.all_unfinished() if mine.get(id(each)) is self._notes]

    def shut(self) -> list[tuple[int, int]]:
        # Who discards has done so at home.
        return []


def _events(fields: tuple[Any, ...]) -> list[Event]:
    name, topic, bodies, publisher, sequence, delivery, epoch, sent_ns, now, missed = fields
    if type(sent_ns) is tuple:
        return _run(*fields)
    events: list[Event] = [
        new_event(Event, (name, topic, body, publisher, number, delivery, epoch, sent_ns, now, 0))
        for number, body in enumerate(bodies, sequence)
    ]
    if missed:
        events[0] = events[0]._replace(missed=missed)
    if sequence + len(events) > _U32:
        events = [event._replace(sequence=(event.sequence or 0) & _U32) for event in events]
    return events


def _run(
    name: str, topic: int, bodies: tuple[bytes, ...], publisher: int, sequence: int, delivery: int,
    epoch: int, sent: tuple[int, ...], now: int, missed: int,
) -> list[Event]:  # fmt: skip
    events: list[Event] = [
        new_event(Event, (name, topic, body, publisher, number, order, epoch, sent_ns, now, 0))
        for number, order, body, sent_ns in zip(count(sequence), count(delivery), bodies, sent, strict=False)
    ]
    if missed:
        events[0] = events[0]._replace(missed=missed)
    return events
