"""The account of one topic: its open epochs, its groups, and what becomes of members and groups that went.

Groups and members are named by clients, who may always find new names; so each has an end here. Rules: who
left is waited for, for as long as it may still report, or until it has confirmed everything where many have
left; then its counts go into its group's sums. A group without accounts goes into the sum of all former ones,
under :data:`FORMER`. Of those that told one total over all epochs the last totals are remembered, should they
come back, but of no more than :data:`SETTLED_KEPT` groups and as many members of each. So what a change costs
goes by who is there, not by who ever was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tempos_broker.account.accounts import SETTLED_KEPT, Account, GroupAccount, Holder
from tempos_broker.config.model import OWN_GROUP

#: Under this name stands what went to groups that nobody is in any more; no group of a client has it.
FORMER = OWN_GROUP
#: Members that have left and are waited for, whatever they have confirmed.
LEFT_KEPT = 64
#: Seconds after it left in which a member that has confirmed everything may ask again what it got.
ASKS_AGAIN = 1.0

Place = tuple[str, Holder]


@dataclass(slots=True)
class TopicAccount:
    """See above; the ledger keeps one for each topic."""

    epoch: int = 0
    drawn: int = 0
    open: dict[int, list[tuple[str, tuple[Holder, ...]]]] = field(default_factory=dict)
    groups: dict[str, GroupAccount] = field(default_factory=dict)
    unequal: list[int] = field(default_factory=list)
    #: Whether members may have told totals, here or in an earlier account, that nobody remembers.
    forgot: bool = False
    #: Who is in the latest route; who is not any more and since when, in the order in which they left.
    here: dict[Place, None] = field(default_factory=dict)
    left: dict[Place, float] = field(default_factory=dict)
    #: Groups that nobody is in, of whose members the last totals are remembered; the oldest first.
    idle: dict[str, None] = field(default_factory=dict)

    def begin(
        self, epoch: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float, *, stamped: bool
    ) -> None:
        """A route is about to be in force; who is not in it any more has left."""
        self.epoch = epoch
        self.open[epoch] = [(name, tuple(holders)) for name, holders in groups]
        present = dict.fromkeys((name, holder) for name, holders in self.open[epoch] for holder in holders)
        for place in present:
            name, holder = place
            group = self.groups.setdefault(name, GroupAccount())
            account = group.accounts.get(holder)
            if account is None:
                account = group.accounts[holder] = Account(holder, stamped)
                account.unsure = holder in group.untold or (self.forgot and holder not in group.settled)
                group.untold.discard(holder)
                account.base, account.drop_base = group.settled.pop(holder, (0, 0))
            account.left_at = None
            self.left.pop(place, None)
            self.idle.pop(name, None)
        for place in self.here:
            if place not in present:
                self.groups[place[0]].accounts[place[1]].left_at = self.left[place] = now
        self.here = present

    def settle(self, before: float, confirmed: float, ending: Callable[[str], None], wall: float) -> bool:
        """Settle the accounts of those that left by ``before``; whether there were any.

        Where there are many, also of those that left by ``confirmed`` and have confirmed everything.
        ``ending`` is told the name of each group that is about to be forgotten. ``wall``: Unix seconds.
        """
        settled: list[Place] = []
        held: set[Holder] | None = None
        for place, at in self.left.items():
            if at > before and (at > confirmed or len(self.left) - len(settled) <= LEFT_KEPT):
                break
            if held is None:
                held = {each for groups in self.open.values() for _, holders in groups for each in holders}
            name, holder = place
            if holder in held or (at > before and self.groups[name].accounts[holder].outstanding):
                continue
            settled.append(place)
        for place in settled:
            del self.left[place]
            self._settle_one(self.groups[place[0]], place[1], wall)
        self.retire(dict.fromkeys(name for name, _ in settled), ending)
        return bool(settled)

    def totals(self) -> dict[str, dict[Holder, tuple[int, int]]]:
        """What members have told as one count, by group: received, dropped."""
        told: dict[str, dict[Holder, tuple[int, int]]] = {}
        for name, group in self.groups.items():
            here = {holder: each.totals for holder, each in group.accounts.items() if any(each.totals)}
            if here or group.settled:
                told[name] = {**group.settled, **here}
        return told

    def _settle_one(self, group: GroupAccount, holder: Holder, wall: float) -> None:
        account = group.accounts.pop(holder)
        if holder.client is None:
            group.gone_unknown += account.ticketed
            return
        arrived = account.ticketed - account.outstanding
        unused = min(account.dropped, arrived)
        group.gone_delivered += arrived - unused
        group.gone_dropped += unused
        group.gone_lost += account.outstanding
        if unused or account.outstanding:
            group.lost_at = wall
        group.gone_repaired += account.repaired
        group.gone_given_up += min(account.abandons, account.outstanding)
        if not account.stamped or any(account.totals):
            group.settled[holder] = account.totals
            if not account.stamped and account.outstanding:
                group.untold.add(holder)
            while len(group.settled) > SETTLED_KEPT:
                gone = next(iter(group.settled))
                del group.settled[gone]
                group.untold.discard(gone)
                self.forgot = True

    def retire(self, names: Iterable[str], ending: Callable[[str], None]) -> None:
        """Add up those of these groups that nobody is in any more, under one name."""
        for name in names:
            group = self.groups[name]
            if name == FORMER or group.accounts:
                continue
            if group.settled:
                self.idle[name] = None
            else:
                self._fold(name, ending)
        while len(self.idle) > SETTLED_KEPT:
            name = next(iter(self.idle))
            del self.idle[name]
            self.forgot = True
            self._fold(name, ending)

    def _fold(self, name: str, ending: Callable[[str], None]) -> None:
        ending(name)
        group = self.groups.pop(name)
        total = self.groups.setdefault(FORMER, GroupAccount())
        total.tickets += group.tickets
        total.unsent += group.unsent
        total.gone_delivered += group.gone_delivered
        total.gone_dropped += group.gone_dropped
        total.gone_lost += group.gone_lost
        total.lost_at = max(total.lost_at, group.lost_at)
        total.gone_unknown += group.gone_unknown
        total.gone_repaired += group.gone_repaired
        total.gone_given_up += group.gone_given_up
        total.filtered += group.filtered
        total.sampled += group.sampled

    def restored(self, now: float) -> None:
        """Groups and accounts have been put in; find out who is here and who is not."""
        for name, group in self.groups.items():
            for holder, account in group.accounts.items():
                if account.left_at is None:
                    self.here[name, holder] = None
                else:
                    self.left[name, holder] = now
        self.retire(list(self.groups), lambda name: None)

    def next_settlement(self) -> float | None:
        """Since when the first of those is gone that are waited for."""
        return next(iter(self.left.values()), None)
