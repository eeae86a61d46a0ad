"""The asyncio shell around :class:`tempos.requests.core.Requests`: a publisher's requests and their answers.

Replies come to the socket that the publisher sends by, from the broker's data port: whatever is on the way
(conntrack, NAT) takes them for a part of the flow that the publisher began. Rules: nothing is asked twice of
its own accord; a caller that is cancelled leaves nothing behind; the return address is renewed long before it
is too old, and after a timeout, for the broker may have become another one.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, Protocol

from tempos import _abi, _sockets, wire
from tempos._awaitables import DONE, TURN, in_time
from tempos.errors import LocalError, NoMember, NoReply, NoWay, RemoteError, TemposError, WireError, one_line
from tempos.model import Topic
from tempos.requests import envelope
from tempos.requests.core import Answer, Requests
from tempos.sending.gathered import Gathered
from tempos.sending.outlet import Outlet, encode
from tempos.session.link import ControlLink

#: Seconds that a request waits where its caller does not say.
TIMEOUT = 5.0
#: Bytes of socket buffer asked for replies.
RECEIVE_BUFFER = 4 * 1024 * 1024
#: A return address is asked for anew after a timeout, but not more often than that, seconds.
RENEW_AFTER = 1.0
#: Tokens that are made at a time, and seconds that a timer may come early.
TOKENS, _TICK = 256, 0.002

_TOO_BIG = "the reply was too big for the way from the broker to here: ask for less, or raise the MTU there"


class Reply(NamedTuple):
    """The answer to a request. ``seconds``: from the request to it, on this machine's clock.

    ``sent_ns`` is the replier's wall clock in nanoseconds, ``received_ns`` this machine's.
    """

    topic: str
    body: bytes
    sent_ns: int
    received_ns: int
    seconds: float

    def unpack(self) -> Any:
        """The body as msgpack; raises :class:`WireError` if it is none."""
        return wire.decode_body(self.body)


class ReplyError(RemoteError):
    """The answer to a request is an error of who answered. ``body`` is what it said, as bytes."""

    def __init__(self, topic: str, body: bytes) -> None:
        super().__init__(f"the request on topic {topic!r} was answered with an error: {_shown(body)}")
        self.topic = topic
        self.body = body

    def unpack(self) -> Any:
        """The body as msgpack; raises :class:`WireError` if it is none."""
        return wire.decode_body(self.body)


def _shown(body: bytes) -> str:
    """A body of an error for people: text as it is, msgpack as Python writes it, else the bytes."""
    try:
        text = body.decode()
        if text.isprintable():
            return one_line(text) if text else "an empty one"
    except UnicodeDecodeError:
        pass
    try:
        value = wire.decode_body(body)
    except WireError:
        value = body
    return one_line(value if isinstance(value, str) else repr(value))


class Sending(Protocol):
    """What a publisher does for its requests."""

    id: int
    _gathered: Gathered

    def _outlet_of(self, topic: str | Topic) -> Outlet | None:
        """The topic as it is published to; None: the broker has to be asked for it first."""
        ...

    async def learn(self, name: str) -> Topic:
        """Ask the broker for it."""
        ...

    async def _control(self) -> ControlLink:
        """The way to the broker's control port."""
        ...

    def _fits(self, outlet: Outlet, size: int) -> None:
        """Raise :class:`EventTooBig` for a datagram of more bytes than can go to this topic."""
        ...

    def _sent(self, outlet: Outlet, datagram: bytes, events: int) -> bool:
        """Send if the socket takes it now."""
        ...

    def _send_now(self, waiting: Sequence[tuple[Outlet, bytes, int]]) -> Awaitable[None]:
        """Send datagrams, each with the number of its events; wait only where the socket is full."""
        ...

    def _note_refused(self, count: int) -> int:
        """Count datagrams that came back; all so far."""
        ...

    def _open_socket(self) -> socket.socket:
        """What it sends by; raises :class:`LocalError` where it is not open."""
        ...


class Asking:
    """The requests of one publisher."""

    def __init__(self, publisher: Sending) -> None:
        self.requests = Requests(publisher.id)
        self._publisher = publisher
        self._tokens: list[bytes] = []
        #: Whether the broker marks probes, as far as it has said.
        self.marks = False
        self._address = b""
        self._granted = self._renew_at = 0.0
        self._asking = asyncio.Lock()
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def request(self, topic: str | Topic, body: object, timeout: float) -> Reply:
        """See :meth:`tempos.Publisher.request`."""
        if not timeout > 0:
            raise LocalError(f"a request cannot be answered within {timeout:g} s: give it more than 0")
        publisher, loop, began = self._publisher, asyncio.get_running_loop(), time.perf_counter()
        due = time.monotonic() + timeout
        publisher._open_socket()
        outlet, address = publisher._outlet_of(topic), self._current_address()
        if outlet is None or not address:
            outlet, address = await self.prepare(topic, timeout)
        name = outlet.topic.name
        if not outlet.is_event:
            raise LocalError(
                f"topic {name!r} is raw: its datagrams have no header that an answer names; requests need "
                "the framing event"
            )
        data = body if type(body) is bytes else encode(outlet.topic, body)
        publisher._fits(outlet, outlet.header_len + envelope.LENGTH + len(data))
        # A batch that is open leaves before, so that the order stays.
        before = [(outlet, *outlet.take(publisher.id))] if outlet.bodies else ()
        token, sequence = self.token(), outlet.sequence
        data = envelope.request(address, token) + data
        datagram = outlet.request(publisher.id, time.time_ns(), data)
        future: asyncio.Future[Answer] = loop.create_future()
        note = name, timeout, publisher._note_refused(0)
        key = self.requests.begin(outlet.id, sequence, token, future, due, note, outlet.decryptor)
        if due < self._timer_at:
            self._set_timer(loop, due)
        try:
            sending = (
                publisher._send_now([*before, (outlet, datagram, 1)])
                if before
                else publisher._gathered.leave(loop, outlet, datagram, self.requests.out - 1)
            )
            if sending is not DONE and sending is not TURN:
                await self._send(sending, future)
        except BaseException as error:
            self.requests.end(key, "failed" if isinstance(error, TemposError) else "cancelled")
            if future.done() and not future.cancelled():
                # Nobody else asks for it.
                future.exception()
            raise
        try:
            kind, code, answer, sent_ns = await future
        finally:
            # If it has no answer.
            self.requests.end(key, "cancelled")
        if kind == _abi.KIND_ERROR:
            raise _error(name, code, answer)
        return Reply(name, answer, sent_ns, time.time_ns(), time.perf_counter() - began)

    def refused(self, datagram: bytes, error: LocalError) -> bool:
        """Tell who asks that the request, gathered with others, cannot be sent; whether anybody waits."""
        key = self.requests.key_of(datagram)
        waiting = None if key is None else self.requests.waiting_at(key)
        if key is None or waiting is None:
            return False
        self.requests.end(key, "failed")
        if not waiting.waiter.done():
            waiting.waiter.set_exception(error)
        return True

    def token(self) -> bytes:
        """What makes one request unguessable."""
        if not self._tokens:
            # By many at a time: asking the kernel takes longer than all else here.
            random = os.urandom(TOKENS * envelope.TOKEN_LEN)
            self._tokens = [
                random[at : at + envelope.TOKEN_LEN] for at in range(0, len(random), envelope.TOKEN_LEN)
            ]
        return self._tokens.pop()

    # One timer for all: most are answered long before, and a timer of its own for each is dear.

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(max(0.0, due - time.monotonic()), self._expire, loop)
        self._timer_at = due

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._timer_at = None, math.inf
        for waiting in self.requests.expire(time.monotonic() + _TICK):
            future, (topic, timeout, refused) = waiting.waiter, waiting.note
            if not future.done():
                self._renew_at = min(self._renew_at, self._granted + RENEW_AFTER)
                future.set_exception(_no_reply(topic, timeout, self._publisher._note_refused(0) - refused))
        if (due := self.requests.next_due()) is not None:
            self._set_timer(loop, due)

    def _current_address(self) -> bytes:
        """The return address if there is one that need not be renewed, else nothing."""
        return self._address if time.monotonic() < self._renew_at else b""

    async def prepare(self, topic: str | Topic, timeout: float) -> tuple[Outlet, bytes]:
        """Learn what a request takes: the topic, and where replies go."""
        name = topic if isinstance(topic, str) else topic.name

        async def learn() -> tuple[Outlet, bytes]:
            outlet = self._publisher._outlet_of(topic)
            if outlet is None:
                outlet = self._publisher._outlet_of(await self._publisher.learn(name))
                assert outlet is not None, "it has been learnt"
            return outlet, self._current_address() or await self._renew()

        try:
            return await in_time(learn(), timeout)
        except asyncio.TimeoutError:
            self.requests.count("timeouts")
            raise NoReply(
                f"no reply on topic {name!r} within {timeout:g} s: the broker's control port did not say "
                "where replies go: is it running there, and is UDP let through?"
            ) from None

    async def _renew(self) -> bytes:
        """Ask the broker where it takes replies for us; raises as :meth:`Publisher.resolve` does."""
        async with self._asking:
            # Another task may have been quicker.
            if known := self._current_address():
                return known
            link = await self._publisher._control()
            sock = self._publisher._open_socket()
            self._read(sock)
            answer = (await link.ask("return_address", port=sock.getsockname()[1])).fields
            address, lifetime = answer.get("address"), answer.get("lifetime_ms")
            if (
                type(address) is not bytes
                or len(address) != envelope.ADDRESS_LEN
                or type(lifetime) is not int
            ):
                raise WireError("the broker's answer holds no return address that can be used")
            if sock is not self._publisher._open_socket():
                raise NoWay("there is another way to the broker since a moment ago: ask again")
            self.marks = bool(answer.get("probes"))
            self._address, self._granted = address, time.monotonic()
            self._renew_at = self._granted + lifetime / 2000
            return address

    async def _send(self, sending: Awaitable[None], future: asyncio.Future[Answer]) -> None:
        """See it sent, or give up waiting when the request is over; then it goes when it can."""
        task = asyncio.ensure_future(sending)
        # If nobody waits for it by then.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        both: list[asyncio.Future[Any]] = [task, future]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()

    def close(self) -> None:
        """Give up all that waits; stop reading, before the socket is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiting in self.requests.waiting():
            if not waiting.waiter.done():
                waiting.waiter.set_exception(LocalError("the publisher was closed before the reply came"))
        self._stop_reading()

    def moved(self, sock: socket.socket) -> None:
        """The publisher sends by this socket now: replies have to be sent to it, and are asked for anew."""
        self._address, self._renew_at = b"", 0.0
        if self._sock is not None:
            self._stop_reading()
            self._read(sock)

    def _stop_reading(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock = None

    def _read(self, sock: socket.socket) -> None:
        if self._sock is not None:
            return
        _sockets.make_room(sock, RECEIVE_BUFFER)
        try:
            _sockets.WatchingReader(
                sock,
                self.requests.receive,
                lambda lost: self.requests.count("overruns", lost),
                lambda: self._publisher._note_refused(1),
            )
        except NotImplementedError as error:
            raise LocalError(
                "this event loop cannot watch a socket, so no reply would be seen: use a selector event loop"
            ) from error
        self._sock = sock


def _no_reply(topic: str, timeout: float, refused: int) -> NoReply:
    """What is said of a request that was not answered in time."""
    why = (
        f"nobody listens at the broker's data port ({refused} datagrams came back)"
        if refused
        else f"its members did not get it, or did not answer in time: tempos ledger {topic} tells which"
    )
    return NoReply(f"no reply on topic {topic!r} within {timeout:g} s: {why}")


def _error(topic: str, code: int, body: bytes) -> RemoteError:
    if code == _abi.ERROR_NO_MEMBER:
        return NoMember(f"no reply on topic {topic!r}: it has no member, so nobody is there to answer")
    if code == _abi.ERROR_TOO_BIG:
        return NoReply(f"no reply on topic {topic!r}: {_TOO_BIG}")
    return ReplyError(topic, body)
