"""The end of leases: a timer for the earliest, routes swapped of those that are over, accounts settled.

A broker that stood still, for its machine was busy, finds what members sent meanwhile at its control port,
and every timer due. So nobody is taken out before what waits there has been heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from tempos import Member
from tempos_broker.account.changes import Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.control.hearing import Hearing
from tempos_broker.membership import Registry
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks

#: Seconds between two settlings of accounts, where nothing else wakes us up.
SETTLE_EVERY = 1.0
#: The same between two looks whether all that waits has been heard.
HEAR = 0.002


class Expiry:
    """Takes members out whose lease has ended, and settles the account of who left a lease ago.

    Call :meth:`schedule` after whatever may begin one.
    """

    def __init__(self, registry: Registry, ledger: Ledger, routes: Routes, tasks: Tasks) -> None:
        self._registry = registry
        self._ledger = ledger
        self._routes = routes
        self._tasks = tasks
        self._timer: asyncio.TimerHandle | None = None
        #: What members have said by now counts.
        self.hearing = Hearing()

    def schedule(self) -> None:
        """Wake up when the earliest lease ends. Renewals only move it on, so waking early is harmless."""
        now = time.monotonic()
        delays = []
        if (expiry := self._registry.next_expiry()) is not None:
            delays.append(max(0.0, expiry - now))
        if (left := self._ledger.next_settlement()) is not None:
            delays.append(max(SETTLE_EVERY, left + self._routes.lease - now))
        self.cancel()
        if delays:
            self._wait(min(delays))

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.expire)

    def _is_early(self, now: float) -> bool:
        """Whether what would renew a lease, or belongs to an account that is closed, may wait to be heard."""
        ends, left = self._registry.next_expiry(), self._ledger.next_settlement()
        lease = self._routes.lease
        is_due = (ends is not None and ends <= now) or (left is not None and left + lease <= now)
        return is_due and not self.hearing.is_done(now, lease)

    def expire(self) -> None:
        """Take out those whose lease has ended by now, and settle with those that are gone since then."""
        if self._is_early(time.monotonic()):
            self.cancel()
            self._wait(HEAR)
            return
        self._ledger.settle(time.monotonic() - self._routes.lease)
        gone = self._registry.expire(time.monotonic())
        topics: dict[Member, list[int]] = {}
        for topic, members in gone.items():
            for member in members:
                topics.setdefault(member, []).append(topic)
        together: dict[tuple[int, ...], list[str]] = {}
        for member, those in topics.items():
            if member.is_nobody:
                self._nobody_came(those)
            else:
                together.setdefault(tuple(those), []).append(str(member))
        for ended, told in together.items():
            self._routes.changes.lease_ended(told, [*map(self._routes.topic_name, ended)])
        if gone:
            self._tasks.spawn(self._let_go(list(gone)), "expire members")
        self.schedule()

    def _nobody_came(self, topics: Sequence[int]) -> None:
        for name in map(self._routes.topic_name, topics):
            text = f"topic {name}: nobody came to a group without a member for too long; nothing waits for it"
            self._routes.changes.tell(Kind.LEFT, f"{text} any more", level=logging.WARNING, topic=name)

    async def _let_go(self, topics: Sequence[int]) -> None:
        await self._routes.swap_all(topics)
        # Only now is it known that they left: their accounts are to be settled, whatever else happens.
        self.schedule()

    def cancel(self) -> None:
        """Take nobody out any more, until the next :meth:`schedule`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
