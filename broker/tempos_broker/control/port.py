"""The control port: sockets that hand datagrams to the control server, and carry out what it decides.

Only when the routes are in force that a request changed is the one who asked answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from tempos_broker.control.decisions import Decision
from tempos_broker.control.server import ControlServer
from tempos_broker.control.sockets import ControlSocket, Reply
from tempos_broker.expiry import Expiry
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks


class ControlPort:
    """The control sockets of a broker, one for each address."""

    def __init__(self, control: ControlServer, routes: Routes, expiry: Expiry, tasks: Tasks) -> None:
        self._control = control
        self._routes = routes
        self._expiry = expiry
        self._tasks = tasks
        self._sockets: list[ControlSocket] = []

    def open(self, listen: Sequence[str], port: int) -> None:
        """Have the sockets, in which requests wait; raises :class:`Unavailable`."""
        for ip in listen:
            self._sockets.append(ControlSocket(ip, port, self._receive, self._control.replies))

    def serve(self) -> None:
        """Hear and answer from now on; on the event loop."""
        for each in self._sockets:
            each.serve()

    def close(self) -> None:
        """Hear nothing any more, and answer nothing."""
        for each in self._sockets:
            each.close()

    def _receive(self, datagram: bytes, ip: str, asked: str | None, reply: Reply) -> None:
        decision = self._control.receive_datagram(datagram, ip, time.monotonic(), asked)
        if decision is None:
            return
        if decision.changed:
            self._tasks.spawn(self._carry_out(decision, reply), "apply a control request")
        else:
            self._answer(decision, reply)

    async def _carry_out(self, decision: Decision, reply: Reply) -> None:
        await self._routes.swap_all(decision.changed)
        self._expiry.schedule()
        self._answer(decision, reply)

    def _answer(self, decision: Decision, reply: Reply) -> None:
        if (answer := self._control.render(decision)) is not None:
            reply(answer)
