"""What an operator orders while the broker runs: a topic to another path, members out of a group and in."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from tempos import PathPolicy, Topic
from tempos.control import Code
from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.expiry import Expiry
from tempos_broker.lives.continuity import Continuity
from tempos_broker.members.departures import KEPT_OUT, KeptOut, Place
from tempos_broker.membership import Refused, Registry
from tempos_broker.routes import Routes

#: Seconds between two looks at what a draining member has confirmed.
DRAIN_LOOK = 0.02
#: Leases for which whom an operator takes out stays out, if he gives no time.
KEEP_OUT_LEASES = 2.0


class KeepOut(NamedTuple):
    """For how long one is to stay out: ``seconds``, or until let in where it is None."""

    seconds: float | None


class Drained(NamedTuple):
    """What was ticketed for a member that was drained, what of it is confirmed, and how long it stays out."""

    ticketed: int
    confirmed: int
    kept_out: KeptOut | None


class Orders:
    """Each is carried out when it returns, and raises :class:`Refused` where it cannot be."""

    def __init__(
        self, registry: Registry, ledger: Ledger, routes: Routes, expiry: Expiry, past: Continuity
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._routes = routes
        self._expiry = expiry
        self._past = past
        self._stopping = False

    def stop_waiting(self) -> None:
        """Whoever waits for a member to confirm is told what is confirmed by now; nobody waits any more."""
        self._stopping = True

    async def move(self, name: str, policy: PathPolicy) -> None:
        """Let a topic take another path, until the next start or reload says otherwise.

        Its epoch and tickets stay, so nothing is lost or doubled. What waits in the slow path when the
        fast one takes over is sent after what comes then: at most a queue's length out of order.
        """
        while not await self._routes.move(self._registry.topic(name), policy):
            # A reload took it away, or gave it another id, while this waited for its turn.
            pass

    async def remove(
        self, name: str, group: str, endpoint: tuple[str, int], keep_out: KeepOut | None = None
    ) -> KeptOut | None:
        """Take a member with a lease out at once, and keep it out; None: it may come back at once.

        Without ``keep_out`` for :data:`KEEP_OUT_LEASES` leases; of one that is kept out it changes the time.
        """
        topic = self._registry.topic(name)
        place = Place(name, group, *endpoint)
        if keep_out is None or self._registry.departures.kept_out(place, time.monotonic()) is None:
            self._evict(topic, place)
        kept = self._keep_out(topic, place, keep_out)
        # What is about to be in force is written down first, and with it who is kept out.
        await self._routes.swap(topic.id)
        await self._past.keeper.save()
        self._expiry.schedule()
        return kept

    async def let_in(self, name: str, group: str, endpoint: tuple[str, int]) -> None:
        """Keep somebody out no more; it is back when it asks next."""
        place = Place(name, group, *endpoint)
        if not self._registry.departures.let_in(place, time.monotonic()):
            raise Refused(
                Code.UNKNOWN_MEMBER, f"nobody keeps {place}", "who is kept out: tempos ctl kept-out"
            )
        self._routes.changes.tell(Kind.LET_IN, f"an operator lets in again: {_at(place)}", topic=name)
        await self._past.keeper.save()

    async def drain(
        self,
        name: str,
        group: str,
        endpoint: tuple[str, int],
        patience: float,
        keep_out: KeepOut | None = None,
    ) -> Drained:
        """Take a member with a lease out, and wait until it has confirmed what was ticketed for it.

        At most ``patience`` seconds, or until the broker stops. It is kept out as by :meth:`remove`.
        """
        topic = self._registry.topic(name)
        place = Place(name, group, *endpoint)
        holder = self._evict(topic, place)
        kept = self._keep_out(topic, place, keep_out)
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
        return Drained(ticketed, ticketed - (account.outstanding if account is not None else 0), kept)

    def _evict(self, topic: Topic, place: Place) -> Holder:
        if self._registry.departures.is_full(place):
            raise Refused(
                Code.LIMIT, f"{KEPT_OUT} members are kept out already", "let some in: tempos ctl let-in"
            )
        endpoint = place.ip, place.port
        holder = self._registry.evict(topic.id, place.group, endpoint, time.monotonic())
        if holder is None:
            raise Refused(
                Code.UNKNOWN_MEMBER,
                f"{place.ip}:{place.port} is no member with a lease in group {place.group!r} "
                f"of {place.topic!r}",
                "static members are taken out of the configuration",
            )
        return holder

    def _keep_out(self, topic: Topic, place: Place, wanted: KeepOut | None) -> KeptOut | None:
        now = time.monotonic()
        seconds = self._routes.lease * KEEP_OUT_LEASES if wanted is None else wanted.seconds
        if seconds == 0:
            self._registry.departures.let_in(place, now)
            self._routes.changes.tell(Kind.OUT, f"an operator takes out: {_at(place)}", topic=topic.name)
            return None
        kept = self._registry.departures.keep_out(place, now, time.time(), seconds)
        self._registry.keep_waiting(topic, place, now)
        text = f"an operator takes out, {kept.when}: {_at(place)}"
        self._routes.changes.tell(Kind.OUT, text, topic=topic.name)
        return kept


def _at(place: Place) -> str:
    return f"{place.ip}:{place.port} in group {place.group!r} of {place.topic}"
