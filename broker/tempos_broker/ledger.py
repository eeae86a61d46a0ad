"""The ledger: where every event of every epoch went, to the event.

Sans-IO bookkeeping over three facts. A route's epoch *opens* with its groups and members; it *closes*
with the final number of tickets of each group, once both paths have let go of it; members *report* how
many datagrams of an epoch reached them. From an epoch's tickets follows what each member should have
got: member i of n gets every n-th ticket, beginning with ticket i.

Identities (per topic, all told by :meth:`Ledger.topic`):

* ``received = fast + slow + sum(refused)``
* every event forwarded drew one ticket of every group of its epoch
* per group ``tickets = delivered + unconfirmed + lost + unknown``

``unconfirmed`` is what members in the route have not reported yet, ``lost`` what those that left never
reported, ``unknown`` what went to members that do not speak the control protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tempos import Reason
from tempos_broker.config.model import OWN_GROUP

#: Epochs of which single counts are kept. Reports carry the low 8 bits of an epoch, so older ones
#: could not be told from newer ones.
EPOCHS_KEPT = 200


class Holder(NamedTuple):
    """Who holds a place in a group: an endpoint and the start of the client behind it (None: static)."""

    ip: str
    port: int
    client: int | None


@dataclass(slots=True)
class Account:
    """One holder in one group: what it should have got in closed epochs, and what it said it got."""

    holder: Holder
    ticketed: int = 0
    delivered: int = 0
    left_at: float | None = None
    shares: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    _old: int = 0

    @property
    def outstanding(self) -> int:
        """Events of closed epochs that the member has not reported."""
        confirmed = sum(min(self.counts.get(epoch, 0), share) for epoch, share in self.shares.items())
        return self.ticketed - confirmed - self._old

    @property
    def surplus(self) -> int:
        """Datagrams reported beyond an epoch's share: delivered twice, or a false report."""
        return sum(max(0, self.counts.get(epoch, 0) - share) for epoch, share in self.shares.items())

    def close(self, epoch: int, share: int) -> None:
        self.ticketed += share
        self.shares[epoch] = share
        while len(self.shares) > EPOCHS_KEPT:
            oldest = min(self.shares)
            self._old += min(self.shares.pop(oldest), self.counts.pop(oldest, 0))

    def report(self, epoch: int, datagrams: int) -> None:
        """Counts of an epoch only grow; a smaller one is an old report that was overtaken."""
        gained = datagrams - self.counts.get(epoch, 0)
        if gained > 0:
            self.counts[epoch] = datagrams
            self.delivered += gained


@dataclass(slots=True)
class _Group:
    """A group over all epochs. What is settled of members that are forgotten stands in the sums."""

    tickets: int = 0
    accounts: dict[Holder, Account] = field(default_factory=dict)
    gone_delivered: int = 0
    gone_lost: int = 0
    gone_unknown: int = 0


@dataclass(slots=True)
class _Topic:
    epoch: int = 0
    drawn: int = 0
    open: dict[int, list[tuple[str, tuple[Holder, ...]]]] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    unequal: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MemberRow:
    """``ticketed`` includes the open epoch; ``delivered`` is None for a static member: unknown."""

    holder: Holder
    ticketed: int
    delivered: int | None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """``tickets = delivered + unconfirmed + lost + unknown``."""

    name: str
    tickets: int
    delivered: int
    unconfirmed: int
    lost: int
    unknown: int
    members: tuple[MemberRow, ...]


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """The account of one topic; ``problems`` says in words what does not add up."""

    received: int
    fast: int
    slow: int
    refused: dict[Reason, int]
    groups: tuple[GroupRow, ...]
    problems: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        return not self.problems


def share(tickets: int, index: int, members: int) -> int:
    """How many of ``tickets`` go to member ``index`` of ``members``."""
    return tickets // members + (index < tickets % members)


class Ledger:
    """The account of all topics."""

    def __init__(self) -> None:
        self._topics: dict[int, _Topic] = {}

    def opened(
        self, topic: int, epoch: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float
    ) -> None:
        """A route is in force: its groups with their holders, in the order of the route."""
        state = self._topics.setdefault(topic, _Topic())
        state.epoch = epoch
        state.open[epoch] = [(name, tuple(holders)) for name, holders in groups]
        present = {(name, holder) for name, holders in state.open[epoch] for holder in holders}
        for name, holder in present:
            accounts = state.groups.setdefault(name, _Group()).accounts
            accounts.setdefault(holder, Account(holder)).left_at = None
        for name, group in state.groups.items():
            for holder, account in group.accounts.items():
                if (name, holder) not in present and account.left_at is None:
                    account.left_at = now

    def closed(self, topic: int, epoch: int, tickets: Sequence[int]) -> None:
        """No packet uses this epoch's route any more; ``tickets`` of its groups are final."""
        state = self._topics[topic]
        groups = state.open.pop(epoch)
        if len(set(tickets)) > 1:
            state.unequal.append(epoch)
        state.drawn += tickets[0] if tickets else 0
        for (name, holders), drawn in zip(groups, tickets, strict=True):
            group = state.groups[name]
            group.tickets += drawn
            for index, holder in enumerate(holders):
                account = group.accounts[holder]
                account.close(epoch, share(drawn, index, len(holders)))

    def report(self, topic: int, group: str, holder: Holder, epoch: int, datagrams: int) -> None:
        """What a member says; ``epoch`` may be its low 8 bits. Foreign claims are ignored."""
        state = self._topics.get(topic)
        known = state.groups.get(group) if state else None
        account = known.accounts.get(holder) if known else None
        if state is None or account is None:
            return
        full = state.epoch - ((state.epoch - epoch) & 0xFF)
        if full in account.shares or any(
            name == group and holder in holders for name, holders in state.open.get(full, ())
        ):
            account.report(full, datagrams)

    def accounts(self, holder: Holder) -> list[Account]:
        """Every account of a holder, over topics and groups."""
        return [
            account
            for state in self._topics.values()
            for group in state.groups.values()
            if (account := group.accounts.get(holder)) is not None
        ]

    def settle(self, before: float) -> None:
        """Settle the accounts of those that left by ``before``: nothing they may still say is awaited."""
        for state in self._topics.values():
            for group in state.groups.values():
                for holder, account in list(group.accounts.items()):
                    if account.left_at is None or account.left_at > before:
                        continue
                    del group.accounts[holder]
                    if holder.client is None:
                        group.gone_unknown += account.ticketed
                    else:
                        group.gone_delivered += account.ticketed - account.outstanding
                        group.gone_lost += account.outstanding
            self._fold(state)

    def _fold(self, state: _Topic) -> None:
        """Add up groups of one endpoint's own that nobody is in any more, under one name."""
        present = {name for groups in state.open.values() for name, _ in groups}
        for name, group in list(state.groups.items()):
            if name == OWN_GROUP or not name.startswith(OWN_GROUP) or group.accounts or name in present:
                continue
            del state.groups[name]
            total = state.groups.setdefault(OWN_GROUP, _Group())
            total.tickets += group.tickets
            total.gone_delivered += group.gone_delivered
            total.gone_lost += group.gone_lost
            total.gone_unknown += group.gone_unknown

    def topic(
        self,
        topic: int,
        *,
        live: Sequence[int],
        received: int,
        fast: int,
        slow: int,
        refused: dict[Reason, int],
        slack: int = 0,
    ) -> TopicLedger:
        """The account as of now. ``live``: tickets drawn so far from the open epoch's groups.

        ``fast`` and ``slow`` are events handed to the groups, ``received`` what came in, by the paths'
        own counters; ``refused`` those that were not handed on. ``slack``: events that passed while the
        counters were read one after the other.
        """
        state = self._topics.get(topic, _Topic())
        current = state.open.get(state.epoch, [])
        drawn_now = {name: (holders, count) for (name, holders), count in zip(current, live, strict=True)}
        rows = tuple(_group_row(name, group, drawn_now.get(name)) for name, group in state.groups.items())
        problems = [
            f"in epoch {epoch} the groups drew different numbers of tickets" for epoch in state.unequal
        ]
        if received != fast + slow + sum(refused.values()):
            problems.append(
                f"received {received} is not fast {fast} + slow {slow} + refused {sum(refused.values())}"
            )
        drawn = state.drawn + (live[0] if live else 0)
        forwarded = fast + slow + refused.get(Reason.NO_EGRESS, 0)
        if abs(drawn - forwarded) > slack:
            problems.append(f"{forwarded} events were handed to groups, but {drawn} tickets drawn")
        for name, group in state.groups.items():
            problems += [
                f"group {name}: {account.holder.ip}:{account.holder.port} got {account.surplus} too many"
                for account in group.accounts.values()
                if account.surplus
            ]
        return TopicLedger(received, fast, slow, dict(refused), rows, tuple(problems))


def _group_row(name: str, group: _Group, current: tuple[tuple[Holder, ...], int] | None) -> GroupRow:
    holders, drawn = current or ((), 0)
    live = {holder: share(drawn, index, len(holders)) for index, holder in enumerate(holders)}
    members = []
    delivered, unconfirmed = group.gone_delivered, 0
    lost, unknown = group.gone_lost, group.gone_unknown
    for holder, account in group.accounts.items():
        ticketed = account.ticketed + live.get(holder, 0)
        if holder.client is None:
            unknown += ticketed
        else:
            confirmed = min(account.delivered - account.surplus, ticketed)
            delivered += confirmed
            if account.left_at is not None:
                lost += ticketed - confirmed
            else:
                unconfirmed += ticketed - confirmed
        if account.left_at is None:
            members.append(MemberRow(holder, ticketed, None if holder.client is None else account.delivered))
    return GroupRow(name, group.tickets + drawn, delivered, unconfirmed, lost, unknown, tuple(members))
