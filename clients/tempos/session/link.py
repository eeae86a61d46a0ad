"""The asyncio shell around :class:`tempos.session.ControlSession`: a UDP socket and one timer.

The socket is connected, so a client whose address changes goes on by another one: :meth:`ControlLink.move`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tempos import _sockets
from tempos.errors import LocalError
from tempos.session.core import ControlSession
from tempos.session.events import Answered, Failed, Joined, SessionEvent
from tempos.session.following import FollowingSession
from tempos.session.rows import in_requests

_T = TypeVar("_T", Answered, Joined)
#: Seconds by which a timer is late only where this process did not run.
LATE = 0.05


class _Ear(asyncio.DatagramProtocol):
    """One socket of a link. What it hears goes to the link as long as that listens to it."""

    def __init__(self, link: ControlLink) -> None:
        self._link: ControlLink | None = link
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.DatagramTransport | None = None

    async def close(self) -> None:
        """Hear nothing any more; safe to call twice."""
        self._link = None
        if self.transport is not None:
            self.transport.close()
            await asyncio.shield(self._closed)

    # asyncio calls these

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._link is not None:
            self._link.received(data)

    def error_received(self, exc: Exception) -> None:
        if self._link is not None:
            self._link.returned()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)


class ControlLink:
    """Moves the datagrams of one session. ``on_event`` gets what no request is waiting for.

    ``on_trouble`` is called when the broker does not answer, or what was sent to it came back; ``keep_alive``
    before what has the broker send to our data port is sent, with the port that it sends from.
    """

    def __init__(self, session: ControlSession, on_event: Callable[[SessionEvent], None]) -> None:
        self._session = session
        self._on_event = on_event
        self.on_trouble: Callable[[], None] = lambda: None
        self.keep_alive: Callable[[int], None] = lambda port: None
        #: Whether what came is no answer to the session, but to what was sent by :meth:`send_aside`.
        self.aside: Callable[[bytes], bool] = lambda data: False
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ear: _Ear | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._returned = self._was_silent = False

    @classmethod
    async def open(
        cls, host: str, port: int, session: ControlSession, on_event: Callable[[SessionEvent], None]
    ) -> ControlLink:
        """Connect to a broker's control port; sends nothing yet."""
        link = cls(session, on_event)
        link._ear = await link._connect(host, port)
        return link

    async def _connect(self, host: str, port: int) -> _Ear:
        ear = _Ear(self)
        await _sockets.attach(ear, _sockets.connected(host, port))
        return ear

    async def move(self, host: str, port: int) -> None:
        """Go on by another socket, connected anew; raises :class:`LocalError` if that cannot be had."""
        ear = await self._connect(host, port)
        before, self._ear = self._ear, ear
        self._returned = False
        self._session.repeat(self._loop.time())
        self._pump()
        if before is not None:
            await before.close()

    @property
    def is_silent(self) -> bool:
        """Whether the broker does not answer, or what was sent to it last came back."""
        return self._returned or self._session.is_unanswered

    @property
    def is_leaving(self) -> bool:
        """Whether the broker is to be home to nobody: it does not answer, or is about to leave its fleet."""
        return self.is_silent or self._session.broker_leaves

    @property
    def has_us(self) -> bool:
        """Whether the broker answers, and has this member, be it of no topic yet."""
        session = self._session
        return not self.is_silent and isinstance(session, FollowingSession) and session.is_known

    @property
    def instance(self) -> int:
        """Of the broker; 0: it tells none."""
        instance = self._session.instance
        return instance if isinstance(instance, int) else 0

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._session.interval

    def moved(self, port: int, former: tuple[str, int] | None, why: str) -> None:
        """Be a member again, at another place: see :meth:`ControlSession.moved`."""
        self._session.moved(port, former, why, self._loop.time())
        self._pump()

    async def ask(self, op: str, **fields: Any) -> Answered:
        """Ask and wait; raises :class:`ControlRefused` or :class:`NoAnswer`."""
        return await self._wait(self._session.ask(op, self._loop.time(), **fields), Answered)

    async def subscribe(self, wanted: str | Sequence[str], group: str | None) -> None:
        """Become a member of topics by name, and of what matches filters; raises as :meth:`ask`.

        When it returns, all that there are now are in force.
        """
        for some in in_requests([wanted] if isinstance(wanted, str) else wanted):
            await self._wait(self._session.subscribe(some, group, self._loop.time()), Joined)

    @property
    def client(self) -> int:
        """The number of the client."""
        return self._session.client

    def hear(self, numbers: Sequence[int]) -> None:
        """Let the broker know of which brokers of its fleet this takes events, with what is asked next."""
        self._session.hears = list(numbers)

    @property
    def wanted(self) -> Mapping[str, str | None]:
        """What is subscribed to here, names and filters, each with its group."""
        return self._session.wanted if isinstance(self._session, FollowingSession) else {}

    def resign(self) -> None:
        """Ask for nothing more here: another broker is the home."""
        if isinstance(self._session, FollowingSession):
            self._session.resign()

    def look(self) -> None:
        """Find out soon of what this is a member."""
        self._session.look(self._loop.time())
        self._pump()

    def prove(self, client: int, proof: bytes, admit: Callable[[], None]) -> bool:
        """What came to the data socket, to be told the broker; False: it is somebody else's.

        ``admit`` is called before: once the broker has heard it, events come from where the proof came.
        """
        if not self._session.prove(client, proof, self._loop.time()):
            return False
        admit()
        self._pump()
        return True

    def send_aside(self, datagram: bytes) -> None:
        """Send a request that is not the session's, once, while there is a way."""
        if (out := self._out) is not None:
            out.sendto(datagram)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this is a member of, by name."""
        return tuple(self._session.topics)

    @property
    def is_subscribed(self) -> bool:
        """Whether there is anything to leave."""
        return self._session.is_subscribed

    def wants(self, name: str) -> bool:
        """Whether this is subscribed to the topic of this name, by itself or by a filter."""
        return self._session.wants(name)

    async def unsubscribe(self, wanted: str) -> Answered | None:
        """Leave what was subscribed to by this name or filter; None if it was not. Raises as :meth:`ask`."""
        request = self._session.unsubscribe(wanted, self._loop.time())
        return None if request is None else await self._wait(request, Answered)

    async def goodbye(self) -> Answered:
        """Leave everything with the final counts; raises as :meth:`ask`."""
        return await self._wait(self._session.goodbye(self._loop.time()), Answered)

    async def drain(self, patience: float) -> Answered:
        """Leave everything, losing nothing, within ``patience`` seconds; raises as :meth:`ask`."""
        return await self._wait(self._session.drain(self._loop.time(), patience), Answered)

    async def close(self) -> None:
        """Stop at once, whatever is unanswered; safe to call twice."""
        if self._session.has_given_up and not self.is_subscribed:
            # Once: a broker that has taken a subscription which nobody waits for any more ends it so.
            self._session.has_given_up = False
            self._session.goodbye(self._loop.time())
            self._pump()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LocalError("closed before the broker answered"))
        if self._ear is not None:
            await self._ear.close()

    async def _wait(self, request: int, kind: type[_T]) -> _T:
        if self._out is None:
            self._session.forget(request)
            raise LocalError("the way to the broker is closed")
        future: asyncio.Future[_T] = self._loop.create_future()
        self._waiting[request] = future
        self._pump()
        try:
            answer = await future
        finally:
            self._waiting.pop(request, None)
            self._session.forget(request)
        assert isinstance(answer, kind)
        return answer

    @property
    def _out(self) -> asyncio.DatagramTransport | None:
        """What sends; None: it is closed."""
        transport = self._ear.transport if self._ear is not None else None
        return None if transport is None or transport.is_closing() else transport

    # The socket calls these

    def received(self, data: bytes) -> None:
        """A datagram has come."""
        self._returned = False
        if self.aside(data):
            return
        self._session.receive_datagram(data, self._loop.time())
        self._pump()

    def returned(self) -> None:
        """What was sent has come back, or cannot leave: the broker is not up at this moment, or not there."""
        self._returned = True
        self.on_trouble()

    # The three-line shell methods

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() > self._due + LATE:
            # This process stood still: what came meanwhile is heard first, for which two turns are enough in
            # any loop.
            self._loop.call_soon(self._loop.call_soon, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._session.handle_timer(self._loop.time())
        self._pump()

    def _pump(self) -> None:
        if (out := self._out) is None:
            return
        datagrams = self._session.datagrams_to_send(self._loop.time())
        if self._session.opens_way:
            self.keep_alive(self._session.data_port)
        for datagram in datagrams:
            out.sendto(datagram)
        while (event := self._session.next_event()) is not None:
            self._dispatch(event)
        if self._timer is not None:
            self._timer.cancel()
        at = self._session.get_timer()
        self._timer = None if at is None else self._loop.call_at(at, self._on_timer)
        self._due = 0.0 if at is None else at
        silent, before = self._session.is_unanswered, self._was_silent
        self._was_silent = silent
        if silent and not before:
            self.on_trouble()

    def _dispatch(self, event: SessionEvent) -> None:
        request = event.request if isinstance(event, (Answered, Failed, Joined)) else None
        future = self._waiting.get(request) if request is not None else None
        if future is None:
            self._on_event(event)
        if future is None or future.done():
            return
        if isinstance(event, Failed):
            future.set_exception(event.error)
        else:
            future.set_result(event)
