"""The asyncio publisher.

An event becomes one datagram, or one of the bodies of a batch; which of the two is decided per
publisher (``linger``) or for a stretch of code (``batch()``). Rules: nothing is ever fragmented; what
does not fit is refused with both sizes; a full socket buffer makes the caller wait, never lose; and
the common case, a socket that takes the datagram at once, runs without a turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from tempos import _abi, _sockets, names, wire
from tempos._awaitables import DONE
from tempos._remarks import Remark
from tempos.auth import Key, Signer
from tempos.control import Code
from tempos.encryption import TopicKeys
from tempos.errors import ControlRefused, EventTooBig, LocalError, NoWay
from tempos.model import Topic
from tempos.requests.ask import TIMEOUT, Asking, Reply, ReplyError
from tempos.requests.core import RequestStats
from tempos.requests.tracing import WITHIN, Enough, Trace, Tracing
from tempos.sending.confirming import Confirming
from tempos.sending.gathered import Gathered
from tempos.sending.outlet import MAX_PAYLOAD, PREFIX, Outlet, are_one, encode, hear_sizes
from tempos.sending.outlets import Outlets
from tempos.sending.room import Room
from tempos.sending.stats import PublisherStats
from tempos.sending.telling import Telling
from tempos.session import forks
from tempos.session.events import topic_of
from tempos.session.link import ControlLink
from tempos.session.place import ports_at
from tempos.session.reach import Reach

__all__ = ["Publisher", "PublisherStats", "Reply", "ReplyError", "RequestStats"]

#: Bytes that a batch grows to, if the path carries them: the payload of one Ethernet frame. That every
#: hop behind the broker takes it is worth more than what loopback would take.
BATCH_BYTES = 1500 - wire.IP_UDP_OVERHEAD
#: As a limit of datagrams, the least: the header of a wide topic and a little more.
MIN_DATAGRAM = 96

#: A datagram that waits for the socket, with the number of its events.
_Waiting = tuple[Outlet, bytes, int]

_log = logging.getLogger("tempos.publisher")


class Publisher(forks.OfOneProcess):
    """Publishes events to one broker.

        async with Publisher("10.0.1.1") as pub:
            await pub.publish("temperature", {"c": 21.5})

    ``broker``: HOST, HOST:CONTROL_PORT or HOST:CONTROL_PORT:DATA_PORT, as on the command line. Of a fleet
    several, as a list or with commas between: it goes on at the next when one is gone, with a new :attr:`id`.
    ``topics`` are known beforehand and not asked of the broker: with them a publisher works where no
    control port is, and straight to a receiver. With ``linger`` (seconds) events wait for at most that
    long to travel together in one datagram. ``send_buffer``: bytes of socket buffer to ask for. ``auth``:
    the key that signs what is asked of the broker (events are not signed). ``keys``: topics whose bodies are
    encrypted, from here to their subscribers. ``wait``: seconds that entering waits for a broker that is not
    there yet (True: for ever). ``max_datagram``: bytes of a datagram at most, headers included, as an MTU
    counts; without it as many as the way to the broker and all members take. ``window``: keeps so many bytes
    of what was sent, to send again what the broker finds lacking, and for :meth:`confirmed`.

    Entering raises :class:`NoWay` when there is no way to the broker, and :class:`NoAnswer` where it waits in
    vain. When this machine's address changes, or that of the broker's name, a publisher goes on by the new
    one; while there is none, what is published raises :class:`NoWay`. It belongs to the event loop it was
    entered in.
    """

    def __init__(
        self,
        broker: str | Sequence[str] = "127.0.0.1",
        *,
        data_port: int = _abi.DATA_PORT,
        control_port: int = _abi.CONTROL_PORT,
        topics: Sequence[Topic] | None = None,
        linger: float = 0,
        send_buffer: int | None = None,
        auth: Key | None = None,
        keys: TopicKeys | None = None,
        wait: float = 0,
        max_datagram: int | None = None,
        window: int | None = None,
    ) -> None:
        if max_datagram is not None and max_datagram < MIN_DATAGRAM:
            raise LocalError(f"max_datagram is {max_datagram} bytes, at least {MIN_DATAGRAM} are needed")
        if linger < 0:
            raise LocalError(f"linger is {linger} s, it cannot be negative")
        self.broker, control_port, data_port = ports_at(broker, control_port, data_port)
        #: The random u32 that tells this publisher's events apart from those of its other starts.
        self.id = int.from_bytes(os.urandom(4), "big")
        self._data_port = data_port
        self._linger = linger
        signer = None if auth is None else Signer(auth, time.time)
        self._confirming = confirming = None if window is None else Confirming(
            self.id, window, lambda: self._topics.all, self._control, signer,
        )  # fmt: skip
        self._topics = Outlets(topics, keys, None if confirming is None else confirming.window)
        self._outlets = self._topics.now
        self._batching = 1 if linger else 0
        self._limit = 0
        self._most = MAX_PAYLOAD if max_datagram is None else max_datagram - wire.IP_UDP_OVERHEAD
        self._entered = False
        self._socket: Any = forks.Closed()
        forks.watch(self)
        self._reach = Reach(
            self.broker, data_port, control_port, signer=signer, wait=wait, asks=topics is None,
            send_buffer=send_buffer, take=self._take, refusals=self.refusals, elsewhere=self._begin_anew,
        )  # fmt: skip
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._room = Room()
        self._telling = Telling(self.id, self._topics.words, self._look, self._hear)
        self._datagrams = self._bytes = self._refused = self._failed = 0
        self._gathered = Gathered(self)
        self._asking = Asking(self)
        self._tracing = Tracing(self._asking, self)
        self._unsent = Remark(_log, "batched events are sent again", level=logging.WARNING)

    @property
    def stats(self) -> PublisherStats:
        self._gathered.depart()
        numbers = self._datagrams, self._topics.events, self._bytes, self._refused, self._failed
        return PublisherStats(*numbers, self._confirming.window.resent if self._confirming else 0)

    @property
    def requests(self) -> RequestStats:
        """What became of the requests."""
        return self._asking.requests.stats

    def refusals(self) -> int:
        """How many datagrams came back so far, the news that the socket has by now included.

        On one machine the kernel says it before the next line runs: what was published between two equal
        numbers did not come back. Raises :class:`LocalError` where this is not open.
        """
        self._gathered.depart()
        if self._open_socket().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused += 1
        return self._refused

    async def __aenter__(self) -> Publisher:
        if self._entered:
            raise LocalError("a publisher is opened once: make another one")
        self._entered = True
        self._loop = asyncio.get_running_loop()
        try:
            await self._reach.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def publish(self, topic: str | Topic, body: object) -> Awaitable[None]:
        """Publish one event; await what it returns.

        ``body``: bytes-like as it is, anything else as msgpack; a ``raw`` topic takes bytes-like only.
        An awaitable that is done at once is the common case; it waits where the socket is full or the
        topic's name has to be asked of the broker. Of many in one turn of the event loop those of one size
        leave together, at its end at the latest; what goes wrong with them is raised by the next call.

        Raises :class:`EventTooBig`, :class:`BodyError`, :class:`LocalError` (not open), :class:`NoWay`, and
        for a name to resolve :class:`ControlRefused` or :class:`NoAnswer`.
        """
        # Once for each event, and in a batch the only thing that is: hence type(), and this order.
        if type(topic) is str:
            try:
                outlet = self._outlets[topic]
            except KeyError:
                return self._publish_unresolved(topic, body)
        else:
            outlet = self._topics.of(cast("Topic", topic), self._limit)
        data = body if type(body) is bytes else encode(outlet.topic, body)
        left = outlet.left - len(data) - PREFIX
        if left >= 0:
            outlet.left = left
            outlet.bodies.append(data)
            return DONE
        now = time.time_ns()
        if not outlet.is_event:
            datagram = outlet.raw(data)
        elif self._batching:
            return self._put(outlet, data)
        else:
            datagram = outlet.single(self.id, now, data)
        size = len(datagram)
        if size > outlet.limit:
            self._check_size(outlet, size)
        gathered = self._gathered
        if gathered.is_open:
            return gathered.put(outlet, datagram, size)
        try:
            self._socket.send(datagram)
        except OSError as error:
            if not self._sent_after(error, datagram, 1):
                return self._send_patiently(outlet, datagram, 1)
        self._datagrams = datagrams = self._datagrams + 1
        outlet.events += 1
        if outlet.kept is not None and outlet.is_event:
            outlet.kept.put(datagram, 1)
        self._bytes += size
        return gathered.left_alone(self._loop, now, datagrams)

    async def request(self, topic: str | Topic, body: object, timeout: float = TIMEOUT) -> Reply:
        """Publish a request and wait for its answer, at most ``timeout`` seconds.

        It goes to one member of every group of the topic, like any event, in no batch and at once (of many in
        one turn of the event loop, at its end); who gets it may answer (:meth:`Event.reply`), and the first
        answer is the one. Nothing is repeated: who asks again should know that the first request may have
        been served. Any number may be under way.

        Raises :class:`NoReply` when no answer came in time, :class:`NoMember` when the topic has no member
        (at once), :class:`ReplyError` for an answer that is an error, :class:`LocalError` for a ``raw`` topic
        and when the publisher is closed meanwhile, and what :meth:`publish` raises.
        """
        return await self._asking.request(topic, body, timeout)

    async def trace(self, topic: str | Topic, timeout: float = WITHIN, enough: Enough | None = None) -> Trace:
        """Send a probe by the way of the topic's events; returns what its members report of it, and when.

        Ends after ``timeout`` seconds, or as soon as ``enough`` says so of the reports so far. Raises
        :class:`LocalError` for a ``raw`` topic, and what :meth:`request` raises where nothing was sent.
        """
        return await self._tracing.trace(topic, timeout, enough)

    def known(self, topic: str | Topic) -> Topic | None:
        """The topic if it can be published to without asking the broker."""
        if not isinstance(topic, str):
            return topic
        outlet = self._outlets.get(topic)
        return None if outlet is None else outlet.topic

    async def learn(self, name: str) -> Topic:
        """Ask the broker for a topic and keep what it says; raises as :meth:`resolve`.

        If it is another one by now than it was, what is published by its name goes there from now on.
        """
        answer = await self._ask_for(name)
        topic, clock = topic_of(answer), answer.get("clock")
        known = self._outlets.get(name)
        if known is not None and not are_one(known.topic, topic):
            await self._leave(known)
        outlet = self._topics.learnt(name, topic, clock if type(clock) is int else None, self._limit)
        self._hear(answer)
        if self._reach.link is not None:
            self._telling.begin(self._reach.link)
        return outlet.topic

    def check(self, topic: Topic, body: object) -> bytes:
        """The body as it will travel; raises :class:`BodyError` and :class:`EventTooBig` like a publish."""
        data = encode(topic, body)
        # Perhaps not in the loop's thread: nothing is put in here.
        outlet = self._outlets.get(topic.name) or self._topics.new(topic)
        outlet.narrow(self._limit)
        self._fits(outlet, len(data) + outlet.header_len)
        return data

    async def hello(self) -> None:
        """Return once the broker has answered; raises :class:`ControlRefused` and :class:`NoAnswer`."""
        await (await self._control()).ask("hello")

    async def resolve(self, name: str) -> tuple[Topic, int]:
        """Ask the broker for a topic by its name: the topic, and how many members it has now.

        Raises :class:`ControlRefused` for a topic that is not configured, and :class:`NoAnswer`.
        """
        answer = await self._ask_for(name)
        members = answer.get("members")
        return topic_of(answer), members if isinstance(members, int) else 0

    async def _ask_for(self, name: str) -> Mapping[str, Any]:
        """The broker's answer about a topic, with a topic in it."""
        names.check_name(name)
        self._socket.fileno()
        answer = (await (await self._control()).ask("resolve", topic=name)).fields
        self._reach.told_port(answer.get("data_port"))
        return answer

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Inside, events of ``event`` topics are put together into as few datagrams as the path allows.

        Full datagrams leave at once, the last one at the end of the block.
        """
        await self._gathered.flush()
        self._batching += 1
        try:
            yield
        finally:
            self._batching -= 1
            if not self._batching:
                self._seal()
                await self.flush()

    async def flush(self) -> None:
        """Send what waits in batches; returns when the socket has taken it. Raises as :meth:`publish`."""
        self._socket.fileno()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            await asyncio.shield(self._flushing)
        await self._gathered.flush()
        for outlet in list(self._outlets.values()):
            if outlet.bodies:
                await self._send_patiently(outlet, *outlet.take(self.id))
        # The news of the last datagrams would otherwise wait for a send that does not come.
        self.refusals()

    async def confirmed(self, timeout: float | None = 10.0) -> None:
        """Return when all that was published is known to be at the broker: in the journals of its topics.

        What is lacking there is sent again meanwhile. Raises :class:`Unconfirmed`, once, with how many events
        are not and why: for what was given up since the last call, and, after ``timeout`` seconds, for what
        is asked for still, of which later calls tell; :class:`LocalError` without a ``window``.
        """
        if self._confirming is None:
            raise LocalError("nothing is confirmed without a window: Publisher(..., window=BYTES)")
        await self.flush()
        await self._confirming.confirmed(timeout)

    async def close(self) -> None:
        """Flush and release everything; safe to call twice."""
        if isinstance(self._socket, forks.Elsewhere):
            return
        self._asking.close()
        if self._confirming is not None:
            self._confirming.close()
        try:
            await self._reach.end()
            if not isinstance(self._socket, forks.Closed):
                await self.flush()
        finally:
            self._gathered.give_up(LocalError("the publisher was closed"))
            sock, self._socket = self._socket, forks.Closed()
            self._seal()
            if self._timer is not None:
                self._timer.cancel()
            # They are told that this is closed.
            self._room.let_go(sock)
            sock.close()
            try:
                if self._flushing is not None:
                    await self._flushing
            finally:
                if self._reach.link is not None:
                    try:
                        # Those that waited for the socket know by now that it is closed.
                        await self._telling.end(self._reach.link)
                    finally:
                        await self._reach.link.close()

    # Topics

    async def _look(self, number: int) -> None:
        """See whether a topic is what it was; if not, the next event for its name asks the broker anew."""
        outlet = self._topics.by_id(number)
        if outlet is None:
            return
        name = outlet.topic.name
        try:
            answer = await self._ask_for(name)
            self._hear(answer)
            found = topic_of(answer)
            if are_one(found, outlet.topic):
                return
            why = f"it has id {found.id} and framing {found.framing.value} now"
        except ControlRefused as error:
            if error.code != Code.UNKNOWN_TOPIC:
                return
            why = str(error)
        if self._outlets.get(name) is not outlet:
            return
        _log.warning("topic %s (%d) is not what it was, events since then went to nobody: %s",
                     name, number, why)  # fmt: skip
        await self._leave(outlet)

    async def _leave(self, outlet: Outlet) -> None:
        """A topic is no more, or another one by now: the next event for its name does not go there."""
        self._topics.gone(outlet.topic.name)
        if outlet.bodies:
            await self._send_patiently(outlet, *outlet.take(self.id))

    def _outlet_of(self, topic: str | Topic) -> Outlet | None:
        return self._outlets.get(topic) if isinstance(topic, str) else self._topics.of(topic, self._limit)

    async def _publish_unresolved(self, topic: Any, body: object) -> None:
        if isinstance(self._socket, forks.Elsewhere):
            self._open_socket()
        await self.publish(await self.learn(topic), body)

    async def _control(self) -> ControlLink:
        return await self._reach.control()

    def _take(self, sock: socket.socket) -> None:
        """Send by this socket from now on."""
        before, self._socket = self._socket, sock
        self._set_limit(self._path_takes())
        self._gathered.new_way()
        if isinstance(before, forks.Closed):
            return
        self._room.let_go(before)
        self._asking.moved(sock)
        before.close()

    async def _begin_anew(self) -> None:
        """Another broker is sent to; one with a window goes on there with what it finds lacking."""
        if self._confirming is None:
            self.id, waiting = self._telling.begin_anew(self._topics)
            await self._send_all(waiting)

    # Batches

    def _put(self, outlet: Outlet, data: bytes) -> Awaitable[None]:
        """Begin a batch with this event, or send it by itself if it fits into none; an older batch leaves."""
        size = outlet.header_len + len(data)
        if size > outlet.limit:
            self._check_size(outlet, size)
        self._socket.fileno()
        waiting: list[_Waiting] = []
        if outlet.bodies:
            datagram, count = outlet.take(self.id)
            if not self._sent(outlet, datagram, count):
                waiting.append((outlet, datagram, count))
        room = min(BATCH_BYTES, outlet.limit)
        if size + PREFIX <= room:
            outlet.open(room, time.time_ns())
            outlet.left -= len(data) + PREFIX
            outlet.bodies.append(data)
            if self._linger and self._timer is None:
                self._timer = self._loop.call_later(self._linger, self._on_linger)
        else:
            datagram = outlet.single(self.id, time.time_ns(), data)
            if waiting or not self._sent(outlet, datagram, 1):
                waiting.append((outlet, datagram, 1))
        if waiting:
            return self._send_all(waiting)
        return self._gathered.turn(self._datagrams)

    def _seal(self) -> None:
        """Let nothing more into the batches that are open."""
        for outlet in self._outlets.values():
            outlet.seal()

    def _on_linger(self) -> None:
        """Send what has waited long enough; where the socket is full, a task goes on with it."""
        self._timer = None
        waiting: list[_Waiting] = []
        for outlet in list(self._outlets.values()):
            if not outlet.bodies:
                continue
            datagram, count = outlet.take(self.id)
            try:
                if waiting or not self._sent(outlet, datagram, count):
                    waiting.append((outlet, datagram, count))
                else:
                    self._unsent.gone()
            except LocalError as error:
                self._note_failed(count, error)
        if waiting:
            work = self._flush_late(waiting, self._flushing)
            self._flushing = asyncio.create_task(work, name="tempos publisher flush")

    async def _flush_late(self, waiting: list[_Waiting], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        for outlet, datagram, count in waiting:
            try:
                await self._send_patiently(outlet, datagram, count)
            except LocalError as error:
                self._note_failed(count, error)
            else:
                self._unsent.gone()

    def _note_refused(self, count: int) -> int:
        self._refused += count
        return self._refused

    def _note_failed(self, events: int, error: LocalError) -> None:
        self._failed += events
        self._unsent(f"batched events are not sent, and only counted as failed: {error}")

    # Sending

    def _sent(self, outlet: Outlet, datagram: bytes, events: int) -> bool:
        """Send if the socket takes it now, and count; raises :class:`LocalError`."""
        if self._gathered.waits and not self._gathered.depart(raises=True):
            return False
        try:
            self._socket.send(datagram)
        except OSError as error:
            if not self._sent_after(error, datagram, events):
                return False
        self._datagrams += 1
        outlet.events += events
        outlet.gathered += events - 1
        if outlet.kept is not None and outlet.is_event:
            outlet.kept.put(datagram, events)
        self._bytes += len(datagram)
        return True

    def _sent_after(self, error: OSError, datagram: bytes, events: int) -> bool:
        """Go on after a send that failed: True if the datagram is sent, False if patience will send it."""
        if error.errno in _sockets.RETURNED:
            # The news of an earlier datagram, in place of a send. The next try is about this one.
            self._refused += 1
            self._reach.trouble()
            try:
                return bool(self._socket.send(datagram))
            except OSError as second:
                error = second
        if error.errno in _sockets.BUSY:
            return False
        if error.errno == errno.EMSGSIZE:
            # The path has become narrower. What the kernel has just refused cannot be the limit.
            self._set_limit(min(self._path_takes(), len(datagram) - 1))
            if events > 1:
                return False
            raise EventTooBig(len(datagram) + wire.IP_UDP_OVERHEAD, self._limit + wire.IP_UDP_OVERHEAD)
        if error.errno in _sockets.NO_WAY and self._reach.has_other_way(self._socket):
            try:
                return bool(self._socket.send(datagram))
            except OSError as second:
                error = second
        raise NoWay(
            f"cannot send to the broker at {self.broker}:{self._data_port}: {error.strerror}"
        ) from error

    async def _send_patiently(self, outlet: Outlet, datagram: bytes, events: int) -> None:
        while not self._sent(outlet, datagram, events):
            if events > 1 and len(datagram) > self._limit:
                await self._send_all([(outlet, *half) for half in outlet.halves(datagram)])
                return
            await self._until_writable()

    def forked(self) -> None:
        """See :mod:`tempos.session.forks`."""
        self._gathered.forget()
        self._socket = forks.Elsewhere()
        self._topics.forked()

    def _open_socket(self) -> socket.socket:
        self._socket.fileno()
        return cast("socket.socket", self._socket)

    def _send_now(self, waiting: Sequence[_Waiting]) -> Awaitable[None]:
        for index, each in enumerate(waiting):
            if not self._sent(*each):
                return self._send_all(waiting[index:])
        return DONE

    async def _send_all(self, waiting: Sequence[_Waiting]) -> None:
        for each in waiting:
            await self._send_patiently(*each)

    async def _until_writable(self) -> None:
        await self._room.wait(self._socket)

    def _path_takes(self) -> int:
        """Bytes of payload, by what the kernel knows now and this publisher may."""
        return min(_sockets.largest_payload(self._socket), self._most)

    def _check_size(self, outlet: Outlet, size: int) -> None:
        """Refuse a datagram that is larger than can go to this topic, by what the kernel knows now."""
        self._socket.fileno()
        self._set_limit(self._path_takes())
        if size > outlet.limit:
            if outlet.limit < self._limit:
                self._telling.was_too_large(outlet.id)
            raise outlet.too_big(size, self._limit, self._most)

    def _fits(self, outlet: Outlet, size: int) -> None:
        if size > outlet.limit:
            self._check_size(outlet, size)

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self._topics.narrow(limit)

    def _hear(self, told: Mapping[str, Any]) -> None:
        self._gathered.single = told.get("single") is True
        hear_sizes(told.get("largest"), self._outlets.values(), self._limit)
