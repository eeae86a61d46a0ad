"""The asyncio subscriber: a member of one group of each of its topics, read as an async iterator.

Rules: every datagram that arrives is an event or is counted under a name; nothing that arrives can
raise; the queue towards the consumer is bounded; heartbeats go on however slow the consumer is; what
this member has missed shows on the next event and in the statistics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from tempos import _abi, _sockets, wire
from tempos._control_link import ControlLink
from tempos._feeds import Feed, Feeds
from tempos._inbox import Event, Inbox, new_event
from tempos.auth import Key, Signer
from tempos.control import MAX_PATIENCE, Code
from tempos.errors import ControlRefused, LocalError, RemoteError, WireError
from tempos.model import Framing, Member, Topic
from tempos.session import (
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    ControlSession,
    Failed,
    Forgotten,
    RenewalFailed,
    SessionEvent,
    Subscribed,
)

#: Bytes of socket buffer asked for, and events that may wait for the consumer.
RECEIVE_BUFFER = 8 * 1024 * 1024
QUEUE = 65536
#: Datagrams kept while the answer to `subscribe`, which tells their framing, is on its way.
EARLY = 1024
#: Seconds: how long the consumer may go on without a turn of the event loop, how long a close waits for
#: the broker's answer, and how far apart two warnings about losses are.
TURN_AFTER = 0.02
GOODBYE_LIMIT = 1.0
#: Seconds that a drain waits for what is on its way, and that a close does.
DRAIN_PATIENCE, CLOSE_PATIENCE = 5.0, 1.0
WARN_EVERY = 10.0
#: How often a close empties the socket at most: against a flood it would never be empty.
CLOSING_READS = 1000

_VERSION = _abi.WIRE_VERSION << 4
#: Whatever else is set in the version byte of a datagram, it is malformed.
_ODD_BITS = 0xFF & ~(_abi.FLAG_BATCH | _abi.FLAG_DUP | _abi.FLAG_TRACE)
_unpack_header = _abi.EVENT_HEADER.unpack_from

__all__ = ["Drained", "Event", "Subscriber", "SubscriberStats"]

_log = logging.getLogger("tempos.subscriber")


@dataclass(frozen=True, slots=True)
class SubscriberStats:
    """What a subscriber has received and lost, in datagrams but for ``events``.

    ``missed``: sent to this member and not here so far; ``late``: came out of order; ``duplicates``: came
    twice; ``unstamped``: came past the broker; ``malformed``: by reason; ``queue_full``: dropped because
    the consumer was slow; ``overruns``: lost by the kernel because the socket buffer was full, as far as
    it has told; ``receive_buffer``: bytes of socket buffer that the kernel gave.
    """

    datagrams: int
    events: int
    bytes: int
    missed: int
    late: int
    duplicates: int
    unstamped: int
    malformed: Mapping[str, int]
    queue_full: int
    overruns: int
    receive_buffer: int


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to, in datagrams over the whole membership, by the broker's account.

    ``ticketed``: meant for this member; ``delivered``: arrived here; ``lost``: did not.
    """

    ticketed: int
    delivered: int
    lost: int


class Subscriber:
    """Subscribes to topics of one broker.

        async with Subscriber("10.0.1.1", "temperature", group="workers") as sub:
            async for event in sub:
                print(event.topic, event.unpack(), event.latency)

    Each event goes to one member of every group; without ``group`` this subscriber is a group of its
    own and gets them all. ``port``: UDP port for the events (0: any); ``receive_buffer``: bytes of socket
    buffer to ask for; ``queue``: events that may wait for the consumer, the newest are dropped and counted.
    ``auth``: the key that signs what is asked of the broker.

    Entering raises :class:`ControlRefused` (unknown topic, limit reached), :class:`NoAnswer`, and
    :class:`LocalError` (no way there, port taken). A broker that restarts is subscribed to again without
    the consumer noticing more than the gap. The iterator ends when the subscriber is closed.
    """

    def __init__(
        self,
        broker: str = "127.0.0.1",
        *topics: str,
        group: str | None = None,
        control_port: int = _abi.CONTROL_PORT,
        port: int = 0,
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
        auth: Key | None = None,
    ) -> None:
        if not topics:
            raise LocalError("a subscriber needs at least one topic")
        if queue < 1:
            raise LocalError(f"a queue of {queue} events holds nothing, at least 1 is needed")
        self.broker = broker
        self._topics = tuple(dict.fromkeys(topics))
        self._group = group
        self._control_port = control_port
        self._port = port
        self._receive_buffer = receive_buffer
        self._signer = None if auth is None else Signer(auth, time.time)
        self._static: tuple[Topic, ...] = ()
        self._member: Member | None = None
        self._feeds = Feeds()
        self._inbox = Inbox(queue)
        self._ready = self._inbox.ready
        self._early: list[bytes] | None = []
        self._waiter: asyncio.Future[None] | None = None
        self._turn = 0.0
        self._reader: _sockets.Reader | None = None
        self._link: ControlLink | None = None
        self._closed = False
        self._closing: asyncio.Future[Drained | None] | None = None
        self._granted = 0
        self._datagrams = self._events = self._bytes = self._queue_full = self._overruns = 0
        self._malformed: Counter[str] = Counter()
        self._warned: dict[str, float] = {}

    @classmethod
    def listen(
        cls,
        address: str,
        port: int,
        *,
        topics: Sequence[Topic],
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
    ) -> Subscriber:
        """A subscriber without control: a static member of a broker's configuration, or of no broker.

        It sends no heartbeats, so what it received is unknown to the broker. ``topics`` tell the framing.
        """
        names = [topic.name for topic in topics]
        subscriber = cls(address, *names, port=port, receive_buffer=receive_buffer, queue=queue)
        subscriber._static = tuple(topics)
        return subscriber

    @property
    def member(self) -> Member:
        """The endpoint of this subscriber. Raises :class:`LocalError` when it was never opened."""
        if self._member is None:
            raise LocalError("this subscriber is not open: use it inside 'async with Subscriber(...)'")
        return self._member

    @property
    def stats(self) -> SubscriberStats:
        trackers = [feed.tracker for feed in self._feeds]
        return SubscriberStats(
            datagrams=self._datagrams,
            events=self._events,
            bytes=self._bytes,
            missed=sum(tracker.missed for tracker in trackers),
            late=sum(tracker.late for tracker in trackers),
            duplicates=sum(tracker.duplicates for tracker in trackers),
            unstamped=sum(tracker.unstamped for tracker in trackers),
            malformed=dict(self._malformed),
            queue_full=self._queue_full,
            overruns=self._overruns,
            receive_buffer=self._granted,
        )

    async def __aenter__(self) -> Subscriber:
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Event:
        ready = self._ready
        if not ready or time.monotonic() >= self._turn:
            await self._until_ready()
        return ready.popleft()

    def batches(self) -> AsyncIterator[list[Event]]:
        """The events as lists of what has arrived, never empty: for those who take very many.

            async for events in sub.batches():
                for event in events:
                    ...

        A list holds what one batch of a publisher held, or what came alone. It ends with the subscriber,
        as the iteration over single events does.
        """
        return _Batches(self)

    async def _until_ready(self) -> None:
        """Wait until there is an event that is ready; raises StopAsyncIteration at the end."""
        inbox = self._inbox
        if inbox and time.monotonic() >= self._turn:
            # A consumer that always finds an event would keep heartbeats and reading from their turn.
            await asyncio.sleep(0)
            self._turn = time.monotonic() + TURN_AFTER
        while not (inbox.ready or inbox.refill()):
            if self._closed:
                raise StopAsyncIteration
            waiter = self._begin_waiting()
            try:
                await waiter
            finally:
                self._end_waiting()

    async def next(self, timeout: float | None = None) -> Event:
        """The next event; raises :class:`TimeoutError` after ``timeout`` seconds without one.

        Raises :class:`LocalError` when the subscriber is closed and nothing is left. An event is never
        lost to a timeout or a cancellation.
        """
        if not await self.wait(timeout):
            raise TimeoutError(f"no event within {timeout:g} s")
        return await self.__anext__()

    async def wait(self, timeout: float | None = None) -> bool:
        """Whether there is an event, waiting at most ``timeout`` seconds for one; :meth:`poll` takes it.

        Raises :class:`LocalError` when the subscriber is closed and nothing is left.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._inbox:
            if self._closed:
                raise LocalError("the subscriber is closed")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            await self._until_woken(left)
        return True

    def poll(self) -> Event | None:
        """The next event if there is one now. Safe from any thread, for one consumer."""
        return self._inbox.take()

    async def unsubscribe(self, topic: str) -> None:
        """Leave one of the topics. Nothing new is sent to this member when it returns.

        What was on its way is still handed out and told to the broker. Raises :class:`LocalError` for a
        topic this subscriber is no member of, :class:`ControlRefused` and :class:`NoAnswer`.
        """
        if self._link is None or await self._link.unsubscribe(topic) is None:
            raise LocalError(f"this subscriber is no member of {topic!r}")

    async def drain(self, patience: float = DRAIN_PATIENCE) -> Drained | None:
        """Leave the groups, losing nothing, and close; None if there was nothing to leave or nobody answered.

        The broker sends nothing new from the moment it hears of this, and answers when all that was on
        its way has arrived, or after ``patience`` seconds (at most 60). What arrives meanwhile is handed
        out as ever; after that the iterator ends. Call it beside the consumer, or read on afterwards.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._leave(patience))
        # A caller that gives up must not leave the sockets open behind it.
        return await asyncio.shield(self._closing)

    async def close(self) -> None:
        """Leave the groups and release everything; safe to call twice.

        Drains, but waits no longer than a second for what is on its way. Events that have arrived can
        still be read.
        """
        await self.drain(CLOSE_PATIENCE)

    async def _leave(self, patience: float) -> Drained | None:
        link, reader = self._link, self._reader
        drained = None
        try:
            if link is not None and any(self._feeds):
                drained = await self._say_leave(link, patience)
            self._read_what_is_there()
        finally:
            self._closed = True
            self._wake()
            try:
                if reader is not None:
                    await reader.close()
            finally:
                if link is not None:
                    await link.close()
        return drained

    async def _say_leave(self, link: ControlLink, patience: float) -> Drained | None:
        """Drain, or at least say goodbye; the lease ends the membership where the broker hears of neither."""
        self._read_what_is_there()
        patience = min(max(patience, 0.0), MAX_PATIENCE / 1000)
        try:
            answer = (await link.drain(patience)).fields
            told = [answer.get(name) for name in ("ticketed", "delivered", "lost")]
            counts = [count for count in told if type(count) is int]
            if len(counts) == len(told):
                return Drained(*counts)
        except ControlRefused as error:
            if error.code == Code.UNKNOWN_MEMBER:
                return None
        except (RemoteError, LocalError):
            return None
        with contextlib.suppress(RemoteError, asyncio.TimeoutError):
            await asyncio.wait_for(link.goodbye(), GOODBYE_LIMIT)
        return None

    def _read_what_is_there(self) -> None:
        """Take in what the socket holds, so that the first counts told are not already old."""
        if self._reader is not None:
            for _ in range(CLOSING_READS):
                if not self._reader.read_now():
                    break

    # Opening

    async def _open(self) -> None:
        if self._member is not None:
            raise LocalError("a subscriber is opened once: make another one")
        host = await _sockets.address_of(self.broker)
        self._turn = time.monotonic() + TURN_AFTER
        source = host if self._static else _sockets.source_address(host, self._control_port)
        sock = _sockets.bound(source, self._port, self._receive_buffer)
        try:
            ip, port = sock.getsockname()
            self._granted = _sockets.receive_buffer(sock)
            self._reader = await _sockets.read(sock, self._receive, self._on_overrun)
        except BaseException:
            sock.close()
            raise
        self._member = Member(ip, port)
        if self._static:
            for topic in self._static:
                self._feeds.put(topic, "")
        else:
            await self._subscribe(host, port)
        early, self._early = self._early or [], None
        for datagram in early:
            self._receive(datagram)

    async def _subscribe(self, host: str, port: int) -> None:
        session = ControlSession(
            client=int.from_bytes(os.urandom(8), "big"),
            broker=f"{self.broker}:{self._control_port}",
            port=port,
            counts=self._feeds,
            signer=self._signer,
        )
        self._link = link = await ControlLink.open(host, self._control_port, session, self._on_session_event)
        tasks = [
            asyncio.create_task(link.subscribe(topic, self._group), name=f"tempos subscribe {topic}")
            for topic in self._topics
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _on_session_event(self, event: SessionEvent) -> None:
        if isinstance(event, Subscribed):
            feed = self._feeds.put(event.topic, event.group)
            if feed.is_event:
                feed.tracker.joined(event.epoch & 0xFF)
            if event.renewed:
                _log.warning("the broker at %s had forgotten this member: subscribed again", self.broker)
        elif isinstance(event, BrokerChanged):
            for feed in self._feeds:
                feed.tracker.new_broker()
                feed.tally.new_broker()
        elif isinstance(event, Forgotten):
            for feed in self._feeds:
                feed.tally.forgotten()
        elif isinstance(event, RenewalFailed):
            _log.warning("cannot subscribe to %s again, will go on trying: %s", event.topic, event.error)
        elif isinstance(event, BrokerSilent):
            _log.warning("the broker at %s has not answered for %.0f s", self.broker, event.seconds)
        elif isinstance(event, BrokerBack):
            _log.warning("the broker at %s answers again, after %.0f s", self.broker, event.seconds)
        elif isinstance(event, Failed):
            _log.warning("%s: %s", event.op, event.error)

    # Receiving

    def _receive(self, datagram: bytes) -> None:
        """Take one datagram from the socket; never raises."""
        if self._early is not None:
            self._keep_early(datagram)
            return
        now = time.time_ns()
        size = len(datagram)
        self._datagrams += 1
        self._bytes += size
        feed = self._feeds.by_id[datagram[0]] if size else None
        if feed is None:
            reason = _abi.Reason.UNKNOWN_TOPIC if size else _abi.Reason.EMPTY
            self._malformed[reason.label] += 1
            return
        if feed.is_event:
            if size < wire.HEADER_LEN:
                self._malformed[_abi.Reason.SHORT_HEADER.label] += 1
                return
            topic, version, reserved, epoch, publisher, sequence, delivery, sent_ns = _unpack_header(datagram)
            if version & _ODD_BITS != _VERSION or reserved:
                self._malformed[wire.check_payload(datagram, Framing.EVENT).label] += 1
                return
            feed.missed += feed.see(epoch, delivery)
            body = datagram[wire.HEADER_LEN :]
            if version & _abi.FLAG_BATCH:
                try:
                    bodies = wire.split_batch(body)
                except WireError:
                    self._malformed["bad_batch"] += 1
                    return
                events = len(bodies)
                taken = self._inbox.put_batch(
                    (feed.name, topic, bodies, publisher, sequence, delivery, epoch, sent_ns, now,
                     feed.missed), bodies
                )  # fmt: skip
            else:
                events = 1
                taken = self._inbox.put(new_event(Event, (
                    feed.name, topic, body, publisher, sequence, delivery, epoch, sent_ns, now,
                    feed.missed,
                )))  # fmt: skip
        else:
            feed.tally.datagrams += 1
            events = 1
            taken = self._inbox.put(new_event(Event, (
                feed.name, datagram[0], datagram[1:], None, None, None, None, None, now, feed.missed
            )))  # fmt: skip
        if not taken:
            self._drop_newest(feed)
            return
        feed.missed = 0
        self._events += events
        if self._waiter is not None:
            self._wake()

    def _keep_early(self, datagram: bytes) -> None:
        assert self._early is not None
        if len(self._early) < EARLY:
            self._early.append(datagram)
        else:
            self._datagrams += 1
            self._drop_newest(None)

    def _drop_newest(self, feed: Feed | None) -> None:
        self._queue_full += 1
        if feed is not None:
            feed.missed += 1
        if self._may_warn("queue"):
            _log.warning(
                "%d datagrams dropped so far: %d events wait already. The consumer is too slow: add members "
                "to the group, or do less per event",
                self._queue_full,
                self._inbox.waiting,
            )

    def _on_overrun(self, lost: int) -> None:
        self._overruns += lost
        if self._may_warn("overrun"):
            _log.warning(
                "%d datagrams lost so far: the socket buffer of %d bytes was full. Raise net.core.rmem_max "
                "(sysctl -w net.core.rmem_max=%d), or read faster",
                self._overruns,
                self._granted,
                max(self._receive_buffer, 2 * self._granted),
            )

    def _may_warn(self, about: str) -> bool:
        now = time.monotonic()
        if now - self._warned.get(about, -WARN_EVERY) < WARN_EVERY:
            return False
        self._warned[about] = now
        return True

    # Waiting

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _begin_waiting(self) -> asyncio.Future[None]:
        if self._waiter is not None:
            raise LocalError("two consumers read one subscriber: give each a subscriber of the same group")
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def _end_waiting(self) -> None:
        self._waiter = None
        self._turn = time.monotonic() + TURN_AFTER

    async def _until_woken(self, timeout: float | None) -> None:
        """Wait for an event, the close or the end of ``timeout`` seconds, whichever is first."""
        waiter = self._begin_waiting()
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._wake)
        try:
            await waiter
        finally:
            self._end_waiting()
            if timer is not None:
                timer.cancel()


class _Batches:
    """The iterator of :meth:`Subscriber.batches`."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> list[Event]:
        subscriber = self._subscriber
        ready = subscriber._ready
        if not ready or time.monotonic() >= subscriber._turn:
            await subscriber._until_ready()
        events = list(ready)
        ready.clear()
        return events
