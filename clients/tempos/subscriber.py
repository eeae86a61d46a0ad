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
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from tempos import _abi, _sockets, names
from tempos._awaitables import in_time
from tempos.auth import Key, Signer
from tempos.control import MAX_PATIENCE, Code
from tempos.encryption import TopicKeys
from tempos.errors import ControlRefused, LocalError, NoAnswer, NoWay, RemoteError
from tempos.model import Member, Topic
from tempos.receiving import loan
from tempos.receiving.batches import Batches
from tempos.receiving.consumed import Consumed
from tempos.receiving.drained import Drained
from tempos.receiving.elsewhere import Confirm, InFleet, Others, together
from tempos.receiving.inbox import Annex, Event
from tempos.receiving.intake import Bell, Duplicates, Intake
from tempos.receiving.replay import Start, Wanted, replay
from tempos.receiving.sources import PublisherAccount
from tempos.receiving.standing import Standing
from tempos.receiving.stats import SubscriberStats
from tempos.repair.repairer import PATIENCE
from tempos.requests.answer import Request
from tempos.session import forks
from tempos.session.following import FollowingSession
from tempos.session.link import ControlLink
from tempos.session.place import ports_at
from tempos.session.scout import choose
from tempos.session.way import Patience, Roaming, Way, words

#: Bytes of socket buffer asked for, and events that may wait for the consumer.
RECEIVE_BUFFER = 8 * 1024 * 1024
QUEUE = 65536
#: Seconds: how long the consumer may go on without a turn of the event loop, and how long a close waits for
#: the broker's answer.
TURN_AFTER = 0.02
GOODBYE_LIMIT = 1.0
#: Seconds that a drain waits for what is on its way, and that a close does.
DRAIN_PATIENCE, CLOSE_PATIENCE = 5.0, 1.0
#: How often a close empties the socket at most: against a flood it would never be empty.
CLOSING_READS = 1000

__all__ = ["Drained", "Event", "PublisherAccount", "Request", "Subscriber", "SubscriberStats"]

_log = logging.getLogger("tempos.subscriber")


class Subscriber(Consumed):
    """Subscribes to topics.

        async with Subscriber("10.0.1.1", "temperature", group="workers") as sub:
            async for event in sub:
                print(event.topic, event.unpack(), event.latency)

    ``broker``: HOST or HOST:CONTROL_PORT, as on the command line; of a fleet several: the first that answers.
    Topics are named, as many as one likes, or asked for by filters (``"plant/+/press/#"``, by MQTT's rules):
    then this is a member of every topic that matches, also of those that are made later. However many of the
    names and filters match a topic, its events come once. ``event.topic`` tells the name.

    Each event goes to one member of every group; without ``group`` this subscriber is a group of its
    own and gets them all. ``port``: UDP port for the events (0: any); ``receive_buffer``: bytes of socket
    buffer to ask for; ``queue``: events that may wait for the consumer, the newest are dropped and counted.
    ``duplicates``: events that a network has doubled behind the broker are handed out again ("deliver") or
    not ("drop"), and counted either way. ``auth``: the key that signs what is asked of the broker. ``keys``:
    topics of which only encrypted events are taken, each once; what cannot be decrypted is counted (in the
    statistics, under ``malformed``) and handed to nobody.
    ``repair``: seconds for which what is missing is asked for, of topics that are repaired (0: not at all);
    ``ordered``: what follows a gap is held back until that is filled or given up, broker by broker.
    ``confirm``: where the broker is in a fleet, entering waits until all of its brokers have this member in
    force ("fleet"; 2 s at most, see :attr:`fleet`), or not ("home"). Their events come here, too.
    ``wait``: seconds that entering waits for a broker that is not there yet (True: for ever).
    ``start``: what topics' journals have is handed out first: the last event of each ("last"), the last so
    many (a number), or what is no older (a timedelta), and then what is live, with nothing between and
    nothing twice; such an event ``is_replayed``. Without it so is the last one of topics that are retained,
    unless it is "live".

    Entering raises :class:`ControlRefused` (unknown topic, limit reached), :class:`NoAnswer`, :class:`NoWay`,
    and :class:`LocalError` (port taken, a ``raw`` topic whose duplicates are to be dropped). A broker that
    restarts is subscribed to again without the consumer noticing more than the gap, and so is a topic of many
    that this was taken out of; until then :attr:`away` says why. When this machine's address changes, or that
    of the broker's name, this goes on at the new one, as a member in place of the former. The iterator ends
    when the subscriber is closed.

    Leaving the ``async with`` drains; what has come by then and nobody has taken is thrown away and counted
    as ``discarded``, here and in the broker's ledger. Close or drain it before, and it can still be read.
    """

    def __init__(
        self,
        broker: str | Sequence[str] = "127.0.0.1",
        *topics: str | Sequence[str],
        group: str | None = None,
        control_port: int = _abi.CONTROL_PORT,
        port: int = 0,
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
        duplicates: Duplicates = "deliver",
        auth: Key | None = None,
        keys: TopicKeys | None = None,
        wait: float = 0,
        start: Start | None = None,
        repair: float = PATIENCE,
        ordered: bool = False,
        confirm: Confirm = "fleet",
    ) -> None:
        every = [one for each in topics for one in ((each,) if isinstance(each, str) else each)]
        if not every:
            raise LocalError("a subscriber needs at least one topic")
        self.broker, self._control_port, _ = ports_at(broker, control_port)
        self._topics = tuple(dict.fromkeys(map(names.check_filter, every)))
        self._group = group
        self._port = port
        self._signer = None if auth is None else Signer(auth, time.time)
        self._patience = Patience(wait)
        self._wanted = Wanted.of(start, queue, encrypted=keys is not None)
        self._roaming: Roaming | None = None
        self._static: tuple[Topic, ...] = ()
        self._member: Member | None = None
        self._broker_at = ""
        self._intake = Intake(queue, duplicates, receive_buffer, keys, repair=repair, ordered=ordered)
        self._standing = Standing(self.broker, self._intake)
        self._others = Others(
            self._intake,
            lambda: Intake(queue, duplicates, receive_buffer, keys, repair=repair, inbox=Annex(self._inbox)),
            lambda: None if auth is None else Signer(auth, time.time),
            self._standing,
            confirm,
        )
        self._feeds, self._inbox = self._intake.feeds, self._intake.inbox
        self._ready = self._inbox.ready
        self._turn = 0.0
        self._reader: _sockets.Reader | None = None
        self._link: ControlLink | None = None
        self._loan: loan.Loan | None = None
        self._closed = False
        forks.watch(self)
        # Who has waited here for an event, last.
        self._consumer: asyncio.Task[Any] | None = None
        self._closing: asyncio.Future[Drained | None] | None = None

    @classmethod
    def listen(
        cls,
        address: str,
        port: int,
        *,
        topics: Sequence[Topic],
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
        duplicates: Duplicates = "deliver",
        keys: TopicKeys | None = None,
    ) -> Subscriber:
        """A subscriber without control: a static member of a broker's configuration, or of no broker.

        It sends no heartbeats, so what it received is unknown to the broker. ``topics`` tell the framing.
        """
        names = [topic.name for topic in topics]
        subscriber = cls(
            address, *names, port=port, receive_buffer=receive_buffer, queue=queue, duplicates=duplicates,
            keys=keys,
        )  # fmt: skip
        subscriber._static = tuple(topics)
        return subscriber

    @property
    def member(self) -> Member:
        """The endpoint of this subscriber. Raises :class:`LocalError` when it was never opened."""
        if self._member is None:
            raise self.not_open()
        return self._member

    @property
    def stats(self) -> SubscriberStats:
        """What came and what did not; ``missed`` is final once the subscriber has drained or is closed."""
        return self._others.stats(self._intake.stats)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this is a member of, by name, as far as it knows."""
        if self._static or self._link is None:
            return tuple(topic.name for topic in self._static)
        return self._others.home_of(self._link).topics

    @property
    def away(self) -> Mapping[str, str]:
        """The topics of which this is no member now, and why; of these it is asked again and again.

        Its lease may have ended, an operator may have taken it out or keep it out, a reload may have changed
        the topic: what the broker says.
        """
        return self._others.standing_of(self._standing).away

    @property
    def fleet(self) -> InFleet | None:
        """The broker's fleet, and how many of it have this member in force; None: it is in none."""
        return self._others.fleet

    @property
    def silence(self) -> float:
        """Seconds for which the broker has not answered, once that is longer than the lease; else 0.

        Nobody can say then whether this is a member still; it asks on, and is one when the broker is back.
        """
        return self._others.standing_of(self._standing).silence

    @property
    def publishers(self) -> tuple[PublisherAccount, ...]:
        """Whose events came, and what can be told of those that never reached a ticket of this group.

        Exact, or at least and at most; final once the subscriber has drained or is closed. Publishers of a
        ``raw`` topic cannot be told apart.
        """
        return self._intake.publishers() + self._others.publishers()

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
        consumer = self._consumer
        if consumer is None or consumer.done() or consumer is asyncio.current_task():
            # Nobody is there to take what is left, or still to come.
            if kind is None:
                self.finished()
            self._intake.discard()
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
        return Batches(self._ready, lambda: self._turn, self._until_ready)

    async def _until_ready(self) -> None:
        """Wait until there is an event that is ready; raises StopAsyncIteration at the end."""
        inbox = self._inbox
        self._consumer = asyncio.current_task()
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
            self._inbox.finish()
            if self._closed:
                raise LocalError("the subscriber is closed")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            await self._until_woken(left)
        return True

    def poll(self) -> Event | None:
        """The next event if there is one now. Safe from any thread, for one consumer.

        Raises :class:`LocalError` where none can ever come: it was never opened.
        """
        event = self._inbox.take()
        if event is None:
            self.check_open()
        return event

    def on_events(self, call: Callable[[], None]) -> None:
        """Have ``call`` called soon whenever there are events, and at the end, in place of a task that waits.

        It takes them by :meth:`take`, and comes again by itself for those that it leaves. A subscriber has
        one consumer, of whatever kind; raises :class:`LocalError` where there is one, or it is not open.
        """
        self.check_sole()
        self._intake.waiter = Bell(call)
        self._intake.wake()

    def take(self, most: int) -> list[Event]:
        """Some of the events that are there, at most so many, perhaps none. Raises as :meth:`poll`."""
        if not (events := self._inbox.take_some(most)):
            self.check_open()
        return events

    @property
    def waiting(self) -> int:
        """Events that are there and nobody has taken."""
        return self._inbox.waiting

    def finished(self) -> None:
        """The consumer has done with what it took, although it asks for no more."""
        self._inbox.finish()

    def lend(self, to: loan.Borrower) -> loan.Loan | None:
        """Lend the data socket to another process, where that can be; ends with the loan."""
        if self._closing is not None or self._reader is None or not self._others.is_empty:
            return None
        self._loan = loan.lend(self._reader, self._intake, to)
        return self._loan

    def replies_block(self) -> None:
        """For consumers without an event loop: `Event.reply` itself waits while the socket is full."""
        self._intake.replies.blocks = True
        self.entering = "with"

    async def unsubscribe(self, topic: str) -> None:
        """Leave one of the topics, or what one of the filters matches, as it was given to this subscriber.

        What another of them matches, too, stays. Nothing new of the others is sent to this member when it
        returns. What was on its way is still handed out and told to the broker. Raises :class:`LocalError`
        for what this has not subscribed to, :class:`ControlRefused` and :class:`NoAnswer`.
        """
        if self._link is None or not await self._others.unsubscribe(self._link, topic):
            raise LocalError(f"this subscriber is no member of {topic!r}")

    def discard(self) -> None:
        """Throw away what has arrived and all that still comes; leaving follows, by :meth:`drain` or close.

        For who has had enough: the broker's ledger gets to know what was not used, and the statistics say it
        (``discarded``). Leaving the ``async with`` does it, unless another task reads this subscriber.
        """
        self._intake.discard()

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
        drained = None
        if self._roaming is not None:
            await self._roaming.end()
        link, reader = self._link, self._reader
        try:
            # First those: once the home knows of it, they take this out before all that they sent is told.
            others = await self._others.leave(patience)
            if link is not None and link.is_subscribed and not self._others.has_left(link):
                drained = await self._say_leave(link, patience)
            self._read_what_is_there()
            await self._intake.end()
        finally:
            self._intake.repairs.end()
            self._closed = True
            self._intake.wake()
            self._intake.replies.close()
            try:
                if reader is not None:
                    await reader.close()
            finally:
                if link is not None:
                    await link.close()
        return together(drained, others)

    async def _say_leave(self, link: ControlLink, patience: float) -> Drained | None:
        """Drain, or at least say goodbye; the lease ends the membership where the broker hears of neither."""
        self._read_what_is_there()
        if (known := self._intake.told()) is not None:
            # Who has left is not told any more of which topic something is.
            await asyncio.wait({known}, timeout=GOODBYE_LIMIT)
        patience = min(max(patience, 0.0), MAX_PATIENCE / 1000)
        try:
            answer = (await link.drain(patience)).fields
            told = [answer.get(name) for name in ("ticketed", "delivered", "lost")]
            counts = [count for count in told if type(count) is int]
            if len(counts) == len(told):
                drained = Drained(*counts)
                self._intake.drained = not drained.lost
                self._intake.lost_at_end(drained.lost)
                return drained
        except ControlRefused as error:
            if error.code == Code.UNKNOWN_MEMBER:
                return None
        except (RemoteError, LocalError):
            return None
        with contextlib.suppress(RemoteError, asyncio.TimeoutError):
            await in_time(link.goodbye(), GOODBYE_LIMIT)
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
        self._turn = time.monotonic() + TURN_AFTER
        self._patience.begin()
        if self._static:
            host = (await _sockets.addresses_of(self.broker))[0]
            await self._listen(_sockets.bound(host, self._port, self._intake.receive_buffer), None)
            for topic in self._static:
                self._feeds.put(topic, "")
        else:
            way = await self._find_way()
            await self._listen(self._bound(way.ours, self._port), way.broker)
            await self._subscribe(way)
            assert self._link is not None, "it has subscribed"
            assert self._reader is not None, "it listens"
            await self._others.enter(self._link, self.member, self._reader)
            await replay(self._link, self._intake, self.member.port, self._wanted)
        self._intake.begin()
        self._others.begin()

    async def _find_way(self) -> Way:
        while True:
            try:
                return await choose(self.broker, self._control_port, self._signer)
            except NoWay as error:
                await self._patience.again(error)

    async def _listen(self, sock: socket.socket, broker: str | None) -> None:
        """Take events by this socket from now on; ``broker``: where replies go, None where requests tell."""
        try:
            ip, port = sock.getsockname()
            reader = await self._intake.read(sock, None if self._static else self._intake.doorman)
        except BaseException:
            sock.close()
            raise
        self._reader = reader
        if (lent := self._loan) is not None:
            lent.void()
        self._intake.granted = _sockets.receive_buffer(sock)
        self._intake.replies.open(sock, broker)
        self._member = Member(ip, port)

    async def _subscribe(self, way: Way) -> None:
        session = FollowingSession(
            client=int.from_bytes(os.urandom(8), "big"), broker=f"{self.broker}:{self._control_port}",
            port=self.member.port, counts=self._intake, signer=self._signer,
        )  # fmt: skip
        self._broker_at = way.broker
        told = self._standing.on_event
        self._link = link = await ControlLink.open(way.broker, self._control_port, session, told)
        link.keep_alive = self._keep_alive
        self._intake.connect(session.client, self._signer, link, lambda: self.member.port)
        self._roaming = Roaming(
            way.broker if "," in self.broker else self.broker,
            self._control_port,
            way,
            move=self._move,
            is_silent=lambda: link.is_silent,
            every=lambda: link.interval,
            level=logging.WARNING,
        )
        link.on_trouble = self._roaming.look
        while True:
            try:
                return await link.subscribe(self._topics, self._group)
            except NoAnswer as error:
                await self._patience.again(error)

    def _keep_alive(self, port: int) -> None:
        """Have whatever is between let through what comes from the broker, at the latest from ``port``."""
        doorman = self._intake.doorman
        # On one machine there is nothing between.
        if self._broker_at != self.member.ip and not self._broker_at.startswith("127."):
            doorman.keep_alive(doorman.broker or (self._broker_at, port))

    async def _move(self, way: Way) -> None:
        """Go on by another way: new sockets, and a member there in place of the one here."""
        link, former, before = self._link, self.member, self._reader
        assert link is not None, "it is the link's way"
        assert before is not None, "it reads what comes by it"
        sock = None
        if way.ours != former.ip:
            sock = self._bound_again(way.ours, former.port)
        try:
            await link.move(way.broker, self._control_port)
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        why = words(Way(self._broker_at, former.ip), way, self.broker)
        self._broker_at = way.broker
        if sock is None:
            self._intake.replies.open_at(way.broker)
            link.moved(former.port, None, why)
            return
        self._read_what_is_there()
        await self._listen(sock, way.broker)
        link.moved(self.member.port, (former.ip, former.port), why)
        await before.close()

    def _bound_again(self, ip: str, port: int) -> socket.socket:
        """A data socket at another address: with the same port, or any where that is taken and may be."""
        try:
            return self._bound(ip, port)
        except LocalError:
            if self._port:
                raise
            return self._bound(ip, 0)

    def _bound(self, ip: str, port: int) -> socket.socket:
        """A data socket, with a doorman, who knows nobody yet."""
        return _sockets.bound(ip, port, self._intake.receive_buffer, self._intake.doorman)

    # Waiting

    def forked(self) -> None:
        """See :mod:`tempos.session.forks`."""
        self._forked = True
        self._link = self._reader = self._roaming = None
        self._inbox.shut()

    def _begin_waiting(self) -> asyncio.Future[None]:
        self.check_sole()
        self._consumer = asyncio.current_task()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._intake.waiter = waiter
        return waiter

    def _end_waiting(self) -> None:
        self._intake.waiter = None
        self._turn = time.monotonic() + TURN_AFTER

    async def _until_woken(self, timeout: float | None) -> None:
        """Wait for an event, the close or the end of ``timeout`` seconds, whichever is first."""
        waiter = self._begin_waiting()
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._intake.wake)
        try:
            await waiter
        finally:
            self._end_waiting()
            if timer is not None:
                timer.cancel()
