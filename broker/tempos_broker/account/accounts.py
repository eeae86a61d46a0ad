"""The accounts of members and groups: what they should have got, what they say they got, what is missing.

Values and arithmetic; which epochs there are and when they end is the ledger's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from tempos import Reason

#: Epochs of which single counts are kept. There are clients whose reports carry the low 8 bits of an epoch,
#: so older ones could not be told from newer ones.
EPOCHS_KEPT = 200
#: Epochs for which a datagram may still be on its way; fully confirmed ones are kept no longer than that.
LATE_EPOCHS = 16
#: Members of a group whose account is settled and whose last count is remembered, should they come back.
SETTLED_KEPT = 64
#: Values that are one object wherever they are the same, as who is in thousands of topics is: the latest, for
#: they are kept although nobody has them any more.
SHARED = 256


class Holder(NamedTuple):
    """Who holds a place in a group: an endpoint and the start of the client behind it (None: static)."""

    ip: str
    port: int
    client: int | None


@lru_cache(SHARED)
def shared_holder(ip: str, port: int, client: int | None) -> Holder:
    """Who holds a place: one object wherever it is the same."""
    return Holder(ip, port, client)


class Share(NamedTuple):
    """By member of a group, how many tickets it has; and those that are not for its members."""

    of: list[int]
    filtered: int = 0
    sampled: int = 0


def share(tickets: int, index: int, members: int) -> int:
    """How many of ``tickets`` go to member ``index`` of ``members``."""
    return tickets // members + (index < tickets % members)


@dataclass(slots=True)
class Account:
    """One holder in one group: what it should have got in closed epochs, and what it said it got.

    ``stamped``: reports are per epoch; otherwise they are one total. ``cut``: closed epochs whose last
    tickets nobody counted; reports beyond what was counted are in no account. ``drops``: what the holder said
    of those it did not give to its program. ``base`` and ``drop_base`` are in an earlier account;
    ``unsure``: how much that is, nobody remembers.
    """

    holder: Holder
    stamped: bool = True
    ticketed: int = 0
    delivered: int = 0
    left_at: float | None = None
    shares: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    base: int = 0
    drops: int = 0
    drop_base: int = 0
    unsure: bool = False
    #: Of what was delivered, what it had to ask for; of what was not, what it asks for no more; as told.
    repairs: int = 0
    abandons: int = 0
    #: The last row of a client that tells the low 8 bits of epochs, as it was told.
    said: tuple[int, int] | None = None
    _old: int = 0
    _old_surplus: int = 0

    @property
    def dropped(self) -> int:
        """Datagrams that arrived and were not given to the program."""
        return min(self.drops, self.delivered)

    @property
    def totals(self) -> tuple[int, int]:
        """What the holder has told as one count, in earlier accounts, too: received, dropped."""
        received = 0 if self.stamped else self.base + self.delivered
        return received, self.drop_base + self.drops

    @property
    def repaired(self) -> int:
        """Datagrams that were delivered when the member asked for them."""
        return min(self.repairs, self.delivered)

    @property
    def outstanding(self) -> int:
        """Events of closed epochs that the member has not reported."""
        if not self.stamped:
            return max(0, self.ticketed - self.delivered)
        confirmed = sum(min(self.counts.get(epoch, 0), share) for epoch, share in self.shares.items())
        return self.ticketed - confirmed - self._old

    def surplus(self, live: int = 0) -> int:
        """Datagrams reported beyond what was ticketed: delivered twice, or a false report."""
        if not self.stamped:
            return max(0, self.delivered - self.ticketed - live)
        over = sum(max(0, self.counts.get(epoch, 0) - share) for epoch, share in self.shares.items())
        return over + self._old_surplus

    def close(self, epoch: int, share: int, *, cut: bool = False) -> None:
        self.ticketed += share
        if not self.stamped:
            self.unsure |= cut
            return
        if share or self.counts.get(epoch):
            # Else nothing of it was for this member: many come and go where little is sent.
            self.shares[epoch] = share
        if cut and epoch in self.shares:
            self.cut.add(epoch)
            over = self.counts.get(epoch, 0) - share
            if over > 0:
                self.counts[epoch] = share
                self.delivered -= over
        for old in [e for e in self.shares if e <= epoch - LATE_EPOCHS]:
            if self.counts.get(old, 0) >= self.shares[old] or old <= epoch - EPOCHS_KEPT:
                self._fold(old)

    def learn_base(self, datagrams: int, ticketed: int) -> None:
        """What of this total cannot have been sent for this account is in an earlier one.

        That is at least so much, and exactly as soon as nothing is on its way.
        """
        self.base += max(0, datagrams - self.base - ticketed)

    def learn_drop_base(self, datagrams: int) -> None:
        """Of these drops what is beyond all that came for this account is in an earlier one."""
        self.drop_base += max(0, datagrams - self.drop_base - self.delivered)

    def report(self, epoch: int, datagrams: int) -> bool:
        """Whether this is news. Counts only grow; a smaller one is an old report that was overtaken."""
        if not self.stamped:
            epoch, datagrams = 0, datagrams - self.base
        elif epoch in self.cut:
            datagrams = min(datagrams, self.shares.get(epoch, 0))
        gained = datagrams - self.counts.get(epoch, 0)
        if gained <= 0:
            return False
        self.counts[epoch] = datagrams
        self.delivered += gained
        return True

    def report_dropped(self, datagrams: int) -> bool:
        """Whether this is news."""
        gained = datagrams - self.drop_base - self.drops
        self.drops += max(0, gained)
        return gained > 0

    def report_repairs(self, repaired: int, given_up: int) -> bool:
        """Whether this is news. What was given up may come all the same."""
        told = max(repaired, self.repairs), given_up
        news = told != (self.repairs, self.abandons)
        self.repairs, self.abandons = told
        return news

    def _fold(self, epoch: int) -> None:
        share, count = self.shares.pop(epoch), self.counts.pop(epoch, 0)
        self.cut.discard(epoch)
        self._old += min(share, count)
        self._old_surplus += max(0, count - share)

    def export(self) -> dict[str, Any]:
        return {
            "holder": list(self.holder),
            "left": self.left_at is not None,
            "sums": [self.ticketed, self.delivered, self.base, self._old, self._old_surplus],
            "shares": list(self.shares.items()),
            "counts": list(self.counts.items()),
            "cut": sorted(self.cut),
            "said": self.said,
            "drops": [self.drops, self.drop_base],
            "unsure": self.unsure,
            "repairs": [self.repairs, self.abandons],
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any], stamped: bool, now: float) -> Account:
        account = cls(holder_of(stored["holder"]), stamped, left_at=now if stored["left"] else None)
        account.ticketed, account.delivered, account.base, account._old, account._old_surplus = map(
            int, stored["sums"]
        )
        account.shares = {int(epoch): int(count) for epoch, count in stored["shares"]}
        account.counts = {int(epoch): int(count) for epoch, count in stored["counts"]}
        account.cut = set(map(int, stored["cut"]))
        said = stored.get("said")
        account.said = (int(said[0]), int(said[1])) if said else None
        account.drops, account.drop_base = map(int, stored.get("drops", (0, 0)))
        account.unsure = bool(stored.get("unsure"))
        account.repairs, account.abandons = map(int, stored.get("repairs", (0, 0)))
        return account


@dataclass(slots=True)
class GroupAccount:
    """A group over all epochs. What is settled of members that are forgotten stands in the sums."""

    tickets: int = 0
    unsent: int = 0
    accounts: dict[Holder, Account] = field(default_factory=dict)
    gone_delivered: int = 0
    gone_dropped: int = 0
    gone_lost: int = 0
    #: When the last of them was forgotten of whom anything is lost or dropped, Unix seconds; 0: none was.
    lost_at: float = 0.0
    gone_unknown: int = 0
    gone_repaired: int = 0
    gone_given_up: int = 0
    #: Tickets that were not for its members: by the senders, and as a sample.
    filtered: int = 0
    sampled: int = 0
    #: What members told as one count before their account was settled: received, dropped.
    settled: dict[Holder, tuple[int, int]] = field(default_factory=dict)
    #: Those of them that had not told of all that they were sent: they may tell it when they are back.
    untold: set[Holder] = field(default_factory=set)

    @property
    def all_untold(self) -> set[Holder]:
        """The same, with those whose account is not settled."""
        accounts = self.accounts.items()
        return self.untold | {holder for holder, each in accounts if not each.stamped and each.outstanding}


@dataclass(frozen=True, slots=True)
class MemberRow:
    """``ticketed`` includes open epochs; ``delivered`` and ``dropped`` are None for a static member: unknown.

    ``dropped``: arrived, but not given to its program. ``left``: out of the route, and what it has not
    reported counts as lost.
    """

    holder: Holder
    ticketed: int
    delivered: int | None
    dropped: int | None
    unconfirmed: int
    lost: int
    left: bool
    repaired: int = 0
    given_up: int = 0


class Orphans(NamedTuple):
    """``orphaned = redelivered + pending + lapsed``, of one group, in datagrams.

    ``orphaned``: sent to members that are gone, and not known to be processed; ``redelivered``: processed by
    others since; ``pending``: to be; ``lapsed``: not to be had any more.
    """

    orphaned: int = 0
    redelivered: int = 0
    pending: int = 0
    lapsed: int = 0


NO_ORPHANS = Orphans()


@dataclass(frozen=True, slots=True)
class GroupRow:
    """``tickets = delivered + dropped + unconfirmed + lost + unknown + filtered + sampled``.

    ``repaired``: of what arrived, what members had to ask for; ``given_up``: of what is unconfirmed or lost,
    what they ask for no more. ``lost_at``: of a group that nobody is in, nor awaited
    in, see :class:`GroupAccount`.
    ``unsent``: copies that a path knows it could not send, in what was not delivered; to which members they
    would have gone is not known.
    """

    name: str
    tickets: int
    delivered: int
    dropped: int
    unconfirmed: int
    lost: int
    unknown: int
    unsent: int
    members: tuple[MemberRow, ...]
    repaired: int = 0
    given_up: int = 0
    orphans: Orphans = NO_ORPHANS
    filtered: int = 0
    sampled: int = 0
    lost_at: float = 0.0


def holder_of(stored: Sequence[Any]) -> Holder:
    """A holder as it was stored."""
    ip, port, client = stored
    return shared_holder(str(ip), int(port), None if client is None else int(client))


def group_row(
    name: str,
    group: GroupAccount,
    current: Sequence[tuple[tuple[Holder, ...], int, Share]],
    unsent: int,
) -> tuple[GroupRow, list[tuple[Holder, int]]]:
    """The account of a group, and the holders that got too many with how many.

    ``current``: of open epochs, who is in it, the tickets, and how many of these each has.
    """
    live: dict[Holder, int] = {}
    for holders, _, shares in current:
        for holder, ticketed in zip(holders, shares.of, strict=True):
            live[holder] = live.get(holder, 0) + ticketed
    members = []
    excess = []
    delivered, dropped, unconfirmed = group.gone_delivered, group.gone_dropped, 0
    lost, unknown = group.gone_lost, group.gone_unknown
    repaired, given_up = group.gone_repaired, group.gone_given_up
    for holder, account in group.accounts.items():
        ticketed = account.ticketed + live.get(holder, 0)
        left = account.left_at is not None
        if holder.client is None:
            unknown += ticketed
            members.append(MemberRow(holder, ticketed, None, None, 0, 0, left))
            continue
        surplus = account.surplus(live.get(holder, 0))
        if surplus:
            excess.append((holder, surplus))
        confirmed = min(account.delivered - surplus, ticketed)
        missing = ticketed - confirmed
        unused = min(account.dropped, confirmed)
        delivered += confirmed - unused
        dropped += unused
        lost += missing if left else 0
        unconfirmed += 0 if left else missing
        open_, gone = (0, missing) if left else (missing, 0)
        abandoned = min(account.abandons, missing)
        repaired += account.repaired
        given_up += abandoned
        members.append(
            MemberRow(
                holder,
                ticketed,
                account.delivered - unused,
                unused,
                open_,
                gone,
                left,
                account.repaired,
                abandoned,
            )
        )
    tickets = group.tickets + sum(drawn for _, drawn, _ in current)
    failed = group.unsent + unsent
    row = GroupRow(name, tickets, delivered, dropped, unconfirmed, lost, unknown, failed, tuple(members),
                   repaired, given_up, filtered=group.filtered + sum(each.filtered for *_, each in current),
                   sampled=group.sampled + sum(each.sampled for *_, each in current),
                   lost_at=0.0 if members else group.lost_at)  # fmt: skip
    return row, excess


def unlike(
    received: int, fast: int, slow: int, refused: Mapping[Reason, int], drawn: int, slack: int
) -> Iterator[str]:
    """In what the counters of a topic contradict each other, or its tickets."""
    if received != fast + slow + sum(refused.values()):
        yield f"received {received} is not fast {fast} + slow {slow} + refused {sum(refused.values())}"
    forwarded = fast + slow + refused.get(Reason.NO_EGRESS, 0)
    if abs(drawn - forwarded) > slack:
        yield f"{forwarded} events were handed to groups, but {drawn} tickets drawn"
