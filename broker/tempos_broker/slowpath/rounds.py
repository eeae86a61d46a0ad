"""One round of sending: what goes out between two looks at the sockets, and in which order. And the last."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from tempos_broker.slowpath.core import Delivery, Load, SlowPath

LoadT = TypeVar("LoadT", bound=Load)

#: Seconds that a closing slow path waits for a link to take what was already taken from publishers.
PATIENCE = 2.0


class Outlet(Protocol[LoadT]):
    """Where deliveries go. May gather them; never raises for what the network does."""

    def stage(self, delivery: Delivery[LoadT]) -> bool:
        """Take over a delivery. False: the kernel takes no more now, offer nothing until it does."""
        ...

    def flush(self) -> bool:
        """Send what was gathered. False as for :meth:`stage`."""
        ...

    async def ready(self) -> None:
        """Wait until the kernel takes more; at once if it does."""
        ...


def serve(core: SlowPath[LoadT], outlet: Outlet[LoadT], limit: int, best_effort: bool = True) -> bool:
    """All of the strict class, then at most ``limit`` datagrams of best effort. False: the outlet is full.

    The rest of best effort waits for the next round, so that strict events are never behind more than
    one batch of it.
    """
    while (delivery := core.next_strict(limit)) is not None:
        if not outlet.stage(delivery):
            return False
    budget = limit if best_effort else 0
    while budget > 0 and (delivery := core.next_best_effort(budget)) is not None:
        budget -= delivery.count
        if not outlet.stage(delivery):
            return False
    return outlet.flush()


async def drain(core: SlowPath[LoadT], outlet: Outlet[LoadT], limit: int) -> bool:
    """Send all that waits, nothing more being received. False: not done within ``PATIENCE``."""

    async def rest() -> None:
        await outlet.ready()
        while core.queued:
            if not serve(core, outlet, limit):
                await outlet.ready()

    try:
        await asyncio.wait_for(rest(), PATIENCE)
    except asyncio.TimeoutError:
        return False
    return True
