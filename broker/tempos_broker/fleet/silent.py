"""Members of other brokers that this one does not hear: nothing is sent to them from here until it does.

Their homes answer for their lives, not for the way between them and us. Rules: looks are counted, not time,
so that who was stopped itself takes nobody out for it; whoever is heard again is a member here again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from tempos_broker.account.changes import Changes, Kind
from tempos_broker.fleet import homes
from tempos_broker.membership import Registry

log = logging.getLogger("tempos.broker.fleet")

#: Looks in a lease, and looks in a row without a word after which one is out.
LOOKS, MOST = 4, 5
#: Members that one line names.
_NAMED = 4


def take_out(registry: Registry) -> tuple[list[str], set[int]]:
    """Look once: who is out from now on, and the topics that this changes."""
    gone, changed = [], set()
    for lease in list(registry.holdings.all()):
        if not lease.home or not lease.topics:
            continue
        lease.silent += 1
        if lease.silent > MOST:
            gone.append(f"{lease.holder.ip}:{lease.holder.port}, at home at {lease.home!r}")
            changed |= homes.release(registry, lease.holder)
    return gone, changed


async def watch(
    registry: Registry, changes: Changes, swap: Callable[[Iterable[int]], Awaitable[None]]
) -> None:
    """Look on and on; ``swap`` puts routes in force."""
    while True:
        await asyncio.sleep(registry.lease / LOOKS)
        gone, changed = take_out(registry)
        if gone:
            more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
            text = f"not heard here, so nothing is sent to them from here: {'; '.join(gone[:_NAMED])}{more}"
            changes.tell(Kind.FLEET, text, level=logging.WARNING)
            try:
                await swap(changed)
            except Exception:
                # The next one is to be looked at all the same.
                log.exception("the routes of %d topics without them could not be swapped", len(changed))
