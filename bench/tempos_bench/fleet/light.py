"""Members by the hundred in one process: each an endpoint and a control session, and nothing more.

One says that it hears every broker of the fleet, and takes what comes without a look at it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from tempos.session.core import ControlSession
from tempos.session.events import Listed, SessionEvent
from tempos.session.link import ControlLink
from tempos.session.proof import decode
from tempos_bench.compiled import traffic


class LightMember:
    """A member at the broker ``host``; ``hears``: the others, by number."""

    def __init__(self, host: str, control: int, hears: Sequence[int]) -> None:
        self._sock = traffic.open_socket(bind=traffic.Endpoint("127.0.0.1", 0))
        self._sock.setblocking(False)
        self._host, self._control = host, control
        client = int.from_bytes(os.urandom(8), "big")
        port = self._sock.getsockname()[1]
        self._session = ControlSession(client=client, broker=host, port=port)
        self._session.hears = list(hears)
        self._link: ControlLink | None = None
        self._confirmed = (0, 1)
        self._told = asyncio.Event()
        #: When all brokers had it in force, seconds of the event loop's clock.
        self.in_force = 0.0

    async def open(self) -> None:
        """Have a way to the broker; nothing is asked yet."""
        self._link = await ControlLink.open(self._host, self._control, self._session, self._heard)
        asyncio.get_running_loop().add_reader(self._sock, self._receive)

    async def join(self, topic: str, group: str) -> float:
        """Be a member everywhere; the seconds from asking on."""
        if self._link is None:
            await self.open()
        loop, link = asyncio.get_running_loop(), self._link
        assert link is not None, "open"
        began = loop.time()
        await link.subscribe([topic], group)
        while self._confirmed[0] < self._confirmed[1]:
            self._told.clear()
            link.look()
            await self._told.wait()
        self.in_force = loop.time()
        return self.in_force - began

    def _heard(self, event: SessionEvent) -> None:
        if isinstance(event, Listed) and event.fleet is not None:
            self._confirmed = event.fleet[1:]
            self._told.set()

    def _receive(self) -> None:
        told = decode(self._sock.recv(2048))
        if told is not None and self._link is not None:
            self._link.prove(*told, lambda: None)

    async def leave(self) -> None:
        """Be none any more."""
        if self._link is not None:
            await self._link.goodbye()
            await self._link.close()
            asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


async def others(host: str, control: int) -> list[int]:
    """The brokers of a fleet beside one, by number, as it tells."""
    client = int.from_bytes(os.urandom(8), "big")
    link = await ControlLink.open(
        host, control, ControlSession(client=client, broker=host), lambda event: None
    )
    try:
        told = (await link.ask("fleet")).fields
    finally:
        await link.close()
    return [row[0] for row in told["brokers"] if row[0] != told["me"]]
