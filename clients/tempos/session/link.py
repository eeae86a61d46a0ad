"""The asyncio shell around :class:`tempos.session.ControlSession`: a UDP socket and one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tempos import _sockets
from tempos.errors import LocalError
from tempos.session.core import ControlSession
from tempos.session.events import Answered, Failed, Joined, SessionEvent
from tempos.session.rows import in_requests

_T = TypeVar("_T", Answered, Joined)


class ControlLink(asyncio.DatagramProtocol):
    """Moves the datagrams of one session. ``on_event`` gets what no request is waiting for."""

    def __init__(self, session: ControlSession, on_event: Callable[[SessionEvent], None]) -> None:
        self._session = session
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(
        cls, host: str, port: int, session: ControlSession, on_event: Callable[[SessionEvent], None]
    ) -> ControlLink:
        """Connect to a broker's control port; sends nothing yet."""
        sock = _sockets.connected(host, port)
        link = cls(session, on_event)
        await _sockets.attach(link, sock)
        return link

    async def ask(self, op: str, **fields: Any) -> Answered:
        """Ask and wait; raises :class:`ControlRefused` or :class:`NoAnswer`."""
        return await self._wait(self._session.ask(op, self._loop.time(), **fields), Answered)

    async def subscribe(self, wanted: str | Sequence[str], group: str | None) -> None:
        """Become a member of topics by name, and of what matches filters; raises as :meth:`ask`.

        When it returns, all that there are now are in force.
        """
        for some in in_requests([wanted] if isinstance(wanted, str) else wanted):
            await self._wait(self._session.subscribe(some, group, self._loop.time()), Joined)

    def look(self) -> None:
        """Find out soon of what this is a member."""
        self._session.look(self._loop.time())
        self._pump()

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LocalError("closed before the broker answered"))
        if self._transport is not None:
            self._transport.close()
            await asyncio.shield(self._closed)

    async def _wait(self, request: int, kind: type[_T]) -> _T:
        if self._transport is None or self._transport.is_closing():
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

    # asyncio calls these

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._session.receive_datagram(data, self._loop.time())
        self._pump()

    def error_received(self, exc: Exception) -> None:
        """An ICMP refusal: the broker is not up at this moment. The session's timers handle it."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    # The three-line shell methods

    def _on_timer(self) -> None:
        self._timer = None
        self._session.handle_timer(self._loop.time())
        self._pump()

    def _pump(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for datagram in self._session.datagrams_to_send(self._loop.time()):
            self._transport.sendto(datagram)
        while (event := self._session.next_event()) is not None:
            self._dispatch(event)
        if self._timer is not None:
            self._timer.cancel()
        at = self._session.get_timer()
        self._timer = None if at is None else self._loop.call_at(at, self._on_timer)

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
