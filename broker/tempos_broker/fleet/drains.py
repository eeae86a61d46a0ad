"""Brokers that are taken out of service: publishers and members go to the others, so its end costs nothing.

Whoever orders it writes a key; the broker that it names says that it leaves, and writes there how far it has
come. Its next life is in service again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from tempos.control import Code
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.fleet import rows
from tempos_broker.fleet.registry import Away, LeaseGone, Registry, Write
from tempos_broker.fleet.rows import Drained
from tempos_broker.fleet.view import View
from tempos_broker.membership import Refused
from tempos_broker.membership import Registry as Members

#: Seconds between two looks, and without an event until nobody is taken to publish here.
EVERY, QUIET = 0.5, 2.0


class Drains:
    """Of the broker ``name``. ``received``: how many events came here so far."""

    def __init__(
        self,
        name: str,
        view: View,
        store: Registry,
        members: Members,
        changes: Changes,
        received: Callable[[], int],
    ) -> None:
        self._name = name
        self._view = view
        self._store = store
        self._members = members
        self._changes = changes
        self._received = received
        self._count = -1
        self._quiet_since = 0.0
        self._told = False

    @property
    def is_leaving(self) -> bool:
        """Whether this broker is being taken out of service, and there is another one."""
        return self._name in self._view.drains and bool(self.in_service)

    @property
    def in_service(self) -> list[str]:
        """The others that are not."""
        return [each for each in self._view.brokers if each != self._name and each not in self._view.drains]

    async def order(self, name: str, *, on: bool) -> None:
        """Take a broker out of service, or back in; raises :class:`Refused`."""
        if name not in self._view.brokers:
            known = ", ".join(sorted(self._view.brokers))
            raise Refused(Code.UNKNOWN_MEMBER, f"no broker {name!r} is in the fleet", f"there are {known}")
        rest = self._view.brokers.keys() - self._view.drains.keys() - {name}
        if on and not rest:
            raise Refused(
                Code.LIMIT, f"{name!r} is the last broker of the fleet that is in service", "start another"
            )
        try:
            await self._store.write([Write(rows.DRAINS + name, Drained().value() if on else None)])
        except Away as error:
            raise Refused(Code.LIMIT, str(error), "try again when it answers") from error

    async def begin_anew(self) -> None:
        """A new life is in service."""
        await self._store.write([Write(rows.DRAINS + self._name, None)])
        self._view.drains.pop(self._name, None)

    async def watch(self) -> None:
        """Say how far this broker has come with it, while it is taken out."""
        while True:
            await asyncio.sleep(EVERY)
            known = self._view.drains.get(self._name)
            if (known is not None) != self._told:
                self._told = known is not None
                words = "taken out of service" if self._told else "in service again"
                self._changes.tell(Kind.FLEET, f"this broker is {words}: an operator's order")
                self._count = -1
            if known is None:
                continue
            now = self.look(time.monotonic())
            key = rows.DRAINS + self._name
            if now != known and key in self._view.written:
                with contextlib.suppress(Away, LeaseGone):
                    await self._store.write([Write(key, now.value(), self._view.written[key])])

    def look(self, now: float) -> Drained:
        """How far it is at this time, monotonic seconds."""
        count, home = self._received(), sum(
            bool(lease.wanted) and not lease.home for lease in self._members.holdings.all()
        )  # fmt: skip
        if count != self._count:
            self._count, self._quiet_since = count, now
        return Drained(home, now - self._quiet_since >= QUIET)
