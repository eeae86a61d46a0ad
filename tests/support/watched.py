"""A fast path inside the broker's node, and the broker's part of it: to install again when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from support.waiting import LIMIT
from tempos import Path, PathChoice, Route
from tempos_bench.nodes.topology import Topology
from tempos_fastpath.offload import Offload
from tempos_fastpath.starting import start


class Watched:
    """A fast path and a route for it."""

    def __init__(self, offload: Offload, route: Route) -> None:
        self.offload = offload
        self._route = route
        self._event = asyncio.Event()
        offload.on_change(self._event.set)

    async def until(self, wanted: Path, reason: str = "") -> PathChoice:
        """Install whenever told to, until the choice is the wanted one, for a reason that says so.

        Without one: with nobody left out.
        """
        while True:
            self.forget()
            choice = await self.offload.install(self._route)
            said = (reason or "left out") in choice.reason
            if choice.path is wanted and said == bool(reason):
                return choice
            await self.told()

    async def told(self) -> None:
        """Wait for the word that facts changed, since the last look at it."""
        await asyncio.wait_for(self._event.wait(), LIMIT)

    def forget(self) -> None:
        """Only what changes from now on counts."""
        self._event.clear()


def in_broker(topology: Topology, scenario: Callable[[Offload], Awaitable[None]], **options: object) -> None:
    """Run ``scenario`` with a fast path inside the broker's node; ``options`` as it is started with."""

    async def run() -> None:
        offload = await start(
            **{"listen": ["0.0.0.0"], "port": 9998, "mode": "auto", "interfaces": (), **options}
        )
        try:
            await scenario(offload)
        finally:
            await offload.close()

    topology.broker.call(lambda: asyncio.run(asyncio.wait_for(run(), 3 * LIMIT)))
