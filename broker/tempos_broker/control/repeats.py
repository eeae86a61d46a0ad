"""Heartbeats that say the same as the one before, of members to whom there is nothing new to say.

A member at rest sends the same datagram every few seconds, but for its id, and gets the same answer. So what
came of it is kept: whose lease it renews, and the answer. It holds as long as nothing has happened that it
could depend on: the lease is that one, nobody has come, gone or been told anything since (the versions of
memberships), no epoch has begun or ended, nobody may do more or less than before, and no ticket was drawn of
what the member is in. All else a heartbeat does is done again; where any of this is not so, it is decided
upon as any other request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from tempos._fields import with_id, without_id
from tempos.control import Request
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger, Ticket
from tempos_broker.control.auth import Guard
from tempos_broker.control.decisions import Again, Decision
from tempos_broker.control.reports import Reports
from tempos_broker.fleet.desk import Desk
from tempos_broker.members.unheard import LOOKED_AT
from tempos_broker.membership import Registry

#: Once so many more than twice as many as there are members are known, those who left are forgotten.
SPARE = 64
#: What a heartbeat may say beside what does the same however often it is said.
_MORE = ("former", "dropped", "repairs", "lacking", "publishers", "hears", "topics")
#: From where it came, to which address of ours, and all that it says but its id.
_Key = tuple[str, "str | None", bytes]


@dataclass(frozen=True, slots=True)
class _Known:
    """``versions``: of all that it depends on; ``counters``: where its tickets are, ``drawn``: so many."""

    again: Again
    versions: tuple[int, int, int]
    counters: tuple[Ticket, ...]
    drawn: int
    answer: bytes


class Repeats:
    """Of one broker. ``instance``: of its account."""

    def __init__(
        self, registry: Registry, ledger: Ledger, reports: Reports, guard: Guard, fleet: Desk, instance: int
    ) -> None:
        self._fleet = fleet
        self._registry = registry
        self._ledger = ledger
        self._reports = reports
        self._guard = guard
        self._instance = instance
        self._known: dict[_Key, _Known] = {}
        #: What a member has said last, if that is known: only that it says again.
        self._latest: dict[Holder, _Key] = {}

    @property
    def known(self) -> int:
        """Of how many members a heartbeat is known."""
        return len(self._known)

    def marked(self, decision: Decision, request: Request, holder: Holder) -> Decision:
        """The decision on a heartbeat, marked where it would be the same again."""
        told, lease = request.fields, self._registry.lease_of(holder)
        if (
            # What a fleet is told changes without anybody's doing here.
            self._fleet.fleet is not None
            or lease is None or lease.joining or lease.missing or lease.gone or lease.untold
            # Of who was heard, or may be unheard, each one counts.
            or lease.progress.heard or lease.progress.beats
            or decision.changed or told["instance"] not in (None, self._instance)
            or any(told[name] for name in _MORE)
        ):  # fmt: skip
            return decision
        load = (told["waiting"] or 0, told["queue"], told["overruns"] or 0) if told["queue"] else None
        return decision._replace(again=Again(holder, lease, load, told["untold"] == 0))

    def forget(self, holder: Holder) -> None:
        """A member says something else."""
        if (key := self._latest.pop(holder, None)) is not None:
            del self._known[key]

    def _forget_who_left(self) -> None:
        lease_of, known = self._registry.lease_of, self._known
        for holder in [holder for holder, key in self._latest.items()
                       if lease_of(holder) is not known[key].again.lease]:  # fmt: skip
            self.forget(holder)

    def keep(self, datagram: bytes, ip: str, asked: str | None, decision: Decision, answer: bytes) -> None:
        """What came of a heartbeat that nobody signed."""
        said, told = without_id(datagram), without_id(answer)
        if said is None or told is None or decision.again is None or decision.way.admitted.key is not None:
            return
        lease = decision.again.lease
        places = [(topic, state.name) for topic, state in islice(lease.topics.items(), LOOKED_AT)]
        counters = tuple(self._ledger.counters(places))
        known = _Known(decision.again, self._versions(), counters, self._drawn(counters), told[1])
        # What was drawn since the heartbeat was heard is to be noticed by the next one.
        ticketed, _ = self._ledger.progress(lease.holder, places)
        if not lease.progress.is_behind(ticketed):
            if len(self._known) > 2 * len(self._registry.holdings) + SPARE:
                self._forget_who_left()
            self._latest[lease.holder] = key = ip, asked, said[1]
            self._known[key] = known

    def answer(self, datagram: bytes, ip: str, asked: str | None, now: float) -> bytes | None:
        """The answer to a heartbeat that is known, which has done what it does; None: it is to be decided."""
        said = without_id(datagram)
        known = self._known.get((ip, asked, said[1])) if said is not None else None
        if said is None or known is None:
            return None
        again = known.again
        lease = again.lease
        if (
            known.versions != self._versions()
            or self._registry.lease_of(again.holder) is not lease
            or self._drawn(known.counters) != known.drawn
            or not self._guard.allows(ip, now)
        ):
            self.forget(again.holder)
            return None
        lease.expires = now + self._registry.lease
        if again.load is not None:
            self._reports.consumers.told(again.holder, *again.load, now)
        if again.complete:
            self._ledger.publishers.complete(again.holder, now)
        return with_id(known.answer, said[0])

    def _versions(self) -> tuple[int, int, int]:
        return self._registry.holdings.news, self._ledger.turns, self._guard.turns

    def _drawn(self, counters: Iterable[Ticket]) -> int:
        tickets = self._ledger.tickets
        return 0 if tickets is None else sum(tickets(*each) for each in counters)
