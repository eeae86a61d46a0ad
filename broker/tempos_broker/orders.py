"""What an operator orders while the broker runs: a topic to another path, a member out of its group."""

from __future__ import annotations

import asyncio
import time

from tempos import PathPolicy, Topic
from tempos.control import Code
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.expiry import Expiry
from tempos_broker.membership import Refused, Registry
from tempos_broker.routes import Routes

#: Seconds between two looks at what a draining member has confirmed.
DRAIN_LOOK = 0.02


class Orders:
    """Each is carried out when it returns, and raises :class:`Refused` where it cannot be."""

    def __init__(self, registry: Registry, ledger: Ledger, routes: Routes, expiry: Expiry) -> None:
        self._registry = registry
        self._ledger = ledger
        self._routes = routes
        self._expiry = expiry
        self._stopping = False

    def stop_waiting(self) -> None:
        """Whoever waits for a member to confirm is told what is confirmed by now; nobody waits any more."""
        self._stopping = True

    async def move(self, name: str, policy: PathPolicy) -> None:
        """Let a topic take another path, until the next start or reload says otherwise.

        Its epoch and tickets stay, so nothing is lost or doubled. What waits in the slow path when the
        fast one takes over is sent after what comes then: at most a queue's length out of order.
        """
        await self._routes.move(self._registry.topic(name).id, policy)

    async def remove(self, name: str, group: str, endpoint: tuple[str, int]) -> None:
        """Take a member with a lease out at once."""
        topic = self._registry.topic(name)
        self._evict(topic, group, endpoint)
        await self._routes.swap(topic.id)
        self._expiry.schedule()

    async def drain(
        self, name: str, group: str, endpoint: tuple[str, int], patience: float
    ) -> tuple[int, int]:
        """Take a member with a lease out, and wait until it has confirmed what was ticketed for it.

        At most ``patience`` seconds, or until the broker stops. Gives what was ticketed and what of it is
        confirmed.
        """
        topic = self._registry.topic(name)
        holder = self._evict(topic, group, endpoint)
        deadline = time.monotonic() + patience
        self._registry.drain_one(holder, topic.id, deadline)
        await self._routes.swap(topic.id)
        self._expiry.schedule()
        account = self._ledger.account(topic.id, group, holder)
        while account is not None and account.outstanding and time.monotonic() < deadline:
            if self._stopping:
                break
            await asyncio.sleep(DRAIN_LOOK)
        ticketed = account.ticketed if account is not None else 0
        return ticketed, ticketed - (account.outstanding if account is not None else 0)

    def _evict(self, topic: Topic, group: str, endpoint: tuple[str, int]) -> Holder:
        holder = self._registry.evict(topic.id, group, endpoint)
        if holder is None:
            where = f"{endpoint[0]}:{endpoint[1]}"
            raise Refused(
                Code.UNKNOWN_MEMBER,
                f"{where} is no member with a lease in group {group!r} of {topic.name!r}",
                "static members are taken out of the configuration",
            )
        return holder
