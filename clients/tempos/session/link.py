"""The asyncio shell around :class:`tempos.session.ControlSession`: a UDP socket and one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from tempos import _sockets
from tempos.errors import LocalError
from tempos.session.core import ControlSession
from tempos.session.events import Answered, Failed, SessionEvent, Subscribed

_T = TypeVar("_T", Answered, Subscribed)


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

    async def subscribe(self, topic: str, group: str | None) -> Subscribed:
        """Become a member and stay one; raises as :meth:`ask`."""
        return await self._wait(self._session.subscribe(topic, group, self._loop.time()), Subscribed)

    async def unsubscribe(self, topic: str) -> Answered | None:
        """Leave one topic; None if this is no member of it. Raises as :meth:`ask`."""
        request = self._session.unsubscribe(topic, self._loop.time())
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
        request = event.request if isinstance(event, (Answered, Failed, Subscribed)) else None
        future = self._waiting.get(request) if request is not None else None
        # The owner learns of a membership before anyone who waits for it runs.
        if future is None or isinstance(event, Subscribed):
            self._on_event(event)
        if future is None or future.done():
            return
        if isinstance(event, Failed):
            future.set_exception(event.error)
        else:
            future.set_result(event)
