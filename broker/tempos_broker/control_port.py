"""The control port: sockets that hand datagrams to the control server, and carry out what it decides.

Only when the routes are in force that a request changed is the one who asked answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import cast

from tempos import Unavailable
from tempos_broker.control import ControlServer, Decision
from tempos_broker.expiry import Expiry
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks

log = logging.getLogger("tempos.broker")

#: Bytes asked of the kernel for control datagrams that wait: what a thousand members send at once.
CONTROL_BUFFER = 1 << 20


class ControlPort:
    """The control sockets of a broker, one for each address."""

    def __init__(self, control: ControlServer, routes: Routes, expiry: Expiry, tasks: Tasks) -> None:
        self._control = control
        self._routes = routes
        self._expiry = expiry
        self._tasks = tasks
        self._sockets: list[asyncio.DatagramTransport] = []

    async def open(self, listen: Sequence[str], port: int) -> None:
        """Serve from now on; raises :class:`Unavailable`."""
        loop = asyncio.get_running_loop()
        for ip in listen:
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Socket(self._receive), local_addr=(ip, port)
                )
            except OSError as error:
                raise Unavailable(
                    f"cannot listen on {ip}:{port}/udp for control: {error.strerror or error}; "
                    "set broker.control_port to a free one"
                ) from error
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CONTROL_BUFFER)
            self._sockets.append(transport)

    def close(self) -> None:
        """Hear nothing any more, and answer nothing."""
        for transport in self._sockets:
            transport.close()

    def _receive(self, datagram: bytes, address: tuple[str, int], reply: Callable[[bytes], None]) -> None:
        decision = self._control.receive_datagram(datagram, address[0], time.monotonic())
        if decision is None:
            return
        if decision.changed:
            self._tasks.spawn(self._carry_out(decision, reply), "apply a control request")
        else:
            self._answer(decision, reply)

    async def _carry_out(self, decision: Decision, reply: Callable[[bytes], None]) -> None:
        for topic in decision.changed:
            await self._routes.swap(topic)
        self._expiry.schedule()
        self._answer(decision, reply)

    def _answer(self, decision: Decision, reply: Callable[[bytes], None]) -> None:
        if (answer := self._control.render(decision)) is not None:
            reply(answer)


class _Socket(asyncio.DatagramProtocol):
    """Hands control datagrams on, with a way to answer them."""

    def __init__(self, receive: Callable[[bytes, tuple[str, int], Callable[[bytes], None]], None]) -> None:
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        def reply(datagram: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(datagram, addr)

        self._receive(data, addr, reply)

    def error_received(self, exc: Exception) -> None:
        # An ICMP error about an earlier reply: the client is gone, its lease will end.
        log.debug("control socket: %s", exc)
