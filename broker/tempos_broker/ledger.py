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

Datagrams of a ``raw`` topic carry no epoch, so its members report one count since they began; their
accounts compare totals instead of epochs.

:meth:`Ledger.export` gives a topic's account as JSON values, :meth:`Ledger.restore` takes it back in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tempos import Reason
from tempos_broker.config.model import OWN_GROUP

#: Epochs of which single counts are kept. There are clients whose reports carry the low 8 bits of an epoch,
#: so older ones could not be told from newer ones.
EPOCHS_KEPT = 200
#: Epochs for which a datagram may still be on its way; fully confirmed ones are kept no longer than that.
LATE_EPOCHS = 16
#: Members of a group whose account is settled and whose last count is remembered, should they come back.
SETTLED_KEPT = 64


class Holder(NamedTuple):
    """Who holds a place in a group: an endpoint and the start of the client behind it (None: static)."""

    ip: str
    port: int
    client: int | None


@dataclass(slots=True)
class Account:
    """One holder in one group: what it should have got in closed epochs, and what it said it got.

    ``stamped``: reports are per epoch; otherwise they are one total. ``cut``: closed epochs whose last
    tickets nobody counted; reports beyond what was counted are in no account.
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
    #: The last row of a client that tells the low 8 bits of epochs, as it was told.
    said: tuple[int, int] | None = None
    _old: int = 0
    _old_surplus: int = 0

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
            return
        self.shares[epoch] = share
        if cut:
            self.cut.add(epoch)
            over = self.counts.get(epoch, 0) - share
            if over > 0:
                self.counts[epoch] = share
                self.delivered -= over
        for old in [e for e in self.shares if e <= epoch - LATE_EPOCHS]:
            if self.counts.get(old, 0) >= self.shares[old] or old <= epoch - EPOCHS_KEPT:
                self._fold(old)

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
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any], stamped: bool, now: float) -> Account:
        account = cls(_holder(stored["holder"]), stamped, left_at=now if stored["left"] else None)
        account.ticketed, account.delivered, account.base, account._old, account._old_surplus = map(
            int, stored["sums"]
        )
        account.shares = {int(epoch): int(count) for epoch, count in stored["shares"]}
        account.counts = {int(epoch): int(count) for epoch, count in stored["counts"]}
        account.cut = set(map(int, stored["cut"]))
        said = stored.get("said")
        account.said = (int(said[0]), int(said[1])) if said else None
        return account


@dataclass(slots=True)
class _Group:
    """A group over all epochs. What is settled of members that are forgotten stands in the sums."""

    tickets: int = 0
    unsent: int = 0
    accounts: dict[Holder, Account] = field(default_factory=dict)
    gone_delivered: int = 0
    gone_lost: int = 0
    gone_unknown: int = 0
    settled: dict[Holder, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Topic:
    epoch: int = 0
    drawn: int = 0
    open: dict[int, list[tuple[str, tuple[Holder, ...]]]] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    unequal: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MemberRow:
    """``ticketed`` includes open epochs; ``delivered`` is None for a static member: unknown.

    ``left``: out of the route, and what it has not reported counts as lost.
    """

    holder: Holder
    ticketed: int
    delivered: int | None
    unconfirmed: int
    lost: int
    left: bool


@dataclass(frozen=True, slots=True)
class GroupRow:
    """``tickets = delivered + unconfirmed + lost + unknown``.

    ``unsent``: copies that a path knows it could not send, in what was not delivered; to which members they
    would have gone is not known.
    """

    name: str
    tickets: int
    delivered: int
    unconfirmed: int
    lost: int
    unknown: int
    unsent: int
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
    """The account of all topics. ``unstamped``: ids of topics whose datagrams carry no epoch."""

    def __init__(self, unstamped: Iterable[int] = ()) -> None:
        self._topics: dict[int, _Topic] = {}
        self._unstamped = frozenset(unstamped)
        #: Topics whose account has changed; whoever stores them takes them out.
        self.changed: set[int] = set()

    def configure(self, unstamped: Iterable[int]) -> None:
        """Other topics without epochs from now on; only for topics that have no account."""
        self._unstamped = frozenset(unstamped)

    def forget(self, topic: int) -> None:
        """The topic is no more."""
        self._topics.pop(topic, None)
        self.changed.discard(topic)

    def opened(
        self, topic: int, epoch: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float
    ) -> None:
        """A route is about to be in force: its groups with their holders, in the order of the route."""
        state = self._topics.setdefault(topic, _Topic())
        state.epoch = epoch
        state.open[epoch] = [(name, tuple(holders)) for name, holders in groups]
        present = dict.fromkeys((name, holder) for name, holders in state.open[epoch] for holder in holders)
        for name, holder in present:
            group = state.groups.setdefault(name, _Group())
            account = group.accounts.get(holder)
            if account is None:
                account = group.accounts[holder] = Account(holder, topic not in self._unstamped)
                account.base = group.settled.pop(holder, 0)
            account.left_at = None
        for name, group in state.groups.items():
            for holder, account in group.accounts.items():
                if (name, holder) not in present and account.left_at is None:
                    account.left_at = now
        self.changed.add(topic)

    def closed(
        self,
        topic: int,
        epoch: int,
        tickets: Sequence[int],
        unsent: Sequence[int] = (),
        *,
        cut: bool = False,
    ) -> None:
        """No packet uses this epoch's route any more; ``tickets`` of its groups are final.

        ``unsent``: copies for each group that could not be sent; none: of no group. ``cut``: both are
        what was last known; a few more may have been drawn by a broker that died.
        """
        state = self._topics[topic]
        groups = state.open.pop(epoch)
        if len(set(tickets)) > 1:
            state.unequal.append(epoch)
        state.drawn += tickets[0] if tickets else 0
        unsent = unsent or [0] * len(groups)
        for (name, holders), drawn, failed in zip(groups, tickets, unsent, strict=True):
            group = state.groups[name]
            group.tickets += drawn
            group.unsent += failed
            for index, holder in enumerate(holders):
                account = group.accounts[holder]
                account.close(epoch, share(drawn, index, len(holders)), cut=cut)
        self.changed.add(topic)

    def open_epochs(self, topic: int) -> dict[int, int]:
        """Epochs that are not closed, oldest first, with the number of their groups."""
        state = self._topics.get(topic)
        return {epoch: len(groups) for epoch, groups in sorted(state.open.items())} if state else {}

    def route(self, topic: int, epoch: int) -> list[tuple[str, tuple[Holder, ...]]]:
        """The groups of an open epoch with their holders, in the order of the route."""
        return self._topics[topic].open[epoch]

    def epoch(self, topic: int) -> int:
        """The latest epoch that was opened; 0 for a topic without an account."""
        state = self._topics.get(topic)
        return state.epoch if state else 0

    def drawn(self, topic: int) -> int:
        """Tickets of one group in all closed epochs: how many events went to the groups."""
        state = self._topics.get(topic)
        return state.drawn if state else 0

    def report(
        self, topic: int, group: str, holder: Holder, epoch: int, datagrams: int, *, full: bool = False
    ) -> None:
        """What a member says; ``epoch`` is 8 bits of it unless ``full``. Foreign claims are ignored."""
        state = self._topics.get(topic)
        known = state.groups.get(group) if state else None
        account = known.accounts.get(holder) if known else None
        if state is None or account is None:
            return
        said = (epoch, datagrams)
        if not full and account.stamped:
            if said == account.said:
                # Who got nothing since repeats itself, also when these 8 bits mean another epoch by now.
                return
            epoch = state.epoch - ((state.epoch - epoch) & 0xFF)
        if (
            not account.stamped
            or epoch in account.shares
            or any(name == group and holder in holders for name, holders in state.open.get(epoch, ()))
        ):
            account.said = None if full else said
            if account.report(epoch, datagrams):
                self.changed.add(topic)

    def accounts(self, holder: Holder) -> list[Account]:
        """Every account of a holder, over topics and groups."""
        return [
            account
            for state in self._topics.values()
            for group in state.groups.values()
            if (account := group.accounts.get(holder)) is not None
        ]

    def account(self, topic: int, group: str, holder: Holder) -> Account | None:
        """The account of a holder in one group."""
        state = self._topics.get(topic)
        known = state.groups.get(group) if state else None
        return known.accounts.get(holder) if known else None

    def settle(self, before: float) -> None:
        """Settle the accounts of those that left by ``before``: nothing they may still say is awaited."""
        for topic, state in self._topics.items():
            held = {holder for groups in state.open.values() for _, holders in groups for holder in holders}
            for group in state.groups.values():
                for holder, account in list(group.accounts.items()):
                    if account.left_at is None or account.left_at > before or holder in held:
                        continue
                    del group.accounts[holder]
                    self.changed.add(topic)
                    if holder.client is None:
                        group.gone_unknown += account.ticketed
                        continue
                    group.gone_delivered += account.ticketed - account.outstanding
                    group.gone_lost += account.outstanding
                    if not account.stamped:
                        group.settled[holder] = account.base + account.delivered
                        while len(group.settled) > SETTLED_KEPT:
                            del group.settled[next(iter(group.settled))]
            self._fold(state)

    def _fold(self, state: _Topic) -> None:
        """Add up groups of one endpoint's own that nobody is in any more, under one name."""
        present = {name for groups in state.open.values() for name, _ in groups}
        for name, group in list(state.groups.items()):
            if name == OWN_GROUP or not name.startswith(OWN_GROUP) or group.accounts or name in present:
                continue
            if group.settled:
                # It may come back; it is forgotten with the last of what is kept for that.
                own = sum(1 for other, each in state.groups.items() if each.settled and other != OWN_GROUP)
                if own <= SETTLED_KEPT:
                    continue
            del state.groups[name]
            total = state.groups.setdefault(OWN_GROUP, _Group())
            total.tickets += group.tickets
            total.unsent += group.unsent
            total.gone_delivered += group.gone_delivered
            total.gone_lost += group.gone_lost
            total.gone_unknown += group.gone_unknown

    def topic(
        self,
        topic: int,
        *,
        live: Mapping[int, Sequence[int]],
        unsent: Mapping[int, Sequence[int]] | None = None,
        received: int,
        fast: int,
        slow: int,
        refused: dict[Reason, int],
        slack: int = 0,
    ) -> TopicLedger:
        """The account as of now.

        ``live``: epoch -> tickets drawn so far from an open epoch's groups, ``unsent`` the same of copies
        that could not be sent.
        ``fast`` and ``slow`` are events handed to the groups, ``received`` what came in, by the paths'
        own counters; ``refused`` those that were not handed on. ``slack``: events that passed while the
        counters were read one after the other.
        """
        state = self._topics.get(topic, _Topic())
        drawn_now: dict[str, list[tuple[tuple[Holder, ...], int]]] = {}
        for epoch, groups in state.open.items():
            for (name, holders), count in zip(groups, live.get(epoch, [0] * len(groups)), strict=True):
                drawn_now.setdefault(name, []).append((holders, count))
        problems = [
            f"in epoch {epoch} the groups drew different numbers of tickets" for epoch in state.unequal
        ]
        if received != fast + slow + sum(refused.values()):
            problems.append(
                f"received {received} is not fast {fast} + slow {slow} + refused {sum(refused.values())}"
            )
        drawn = state.drawn + sum(live[epoch][0] for epoch in state.open if live.get(epoch))
        forwarded = fast + slow + refused.get(Reason.NO_EGRESS, 0)
        if abs(drawn - forwarded) > slack:
            problems.append(f"{forwarded} events were handed to groups, but {drawn} tickets drawn")
        rows = []
        unsent_now: Counter[str] = Counter()
        for epoch, counts in (unsent or {}).items():
            for (name, _), count in zip(state.open.get(epoch, ()), counts, strict=False):
                unsent_now[name] += count
        for name, group in state.groups.items():
            row, excess = _group_row(name, group, drawn_now.get(name, []), unsent_now[name])
            rows.append(row)
            problems += [
                f"group {name}: {holder.ip}:{holder.port} got {count} too many" for holder, count in excess
            ]
        return TopicLedger(received, fast, slow, dict(refused), tuple(rows), tuple(problems))

    def export(self, topic: int) -> dict[str, Any]:
        """The account of a topic as JSON values."""
        state = self._topics.get(topic, _Topic())
        return {
            "epoch": state.epoch,
            "drawn": state.drawn,
            "unequal": list(state.unequal),
            "open": [
                [epoch, [[name, [list(holder) for holder in holders]] for name, holders in groups]]
                for epoch, groups in state.open.items()
            ],
            "groups": [
                {
                    "name": name,
                    "unsent": group.unsent,
                    "sums": [group.tickets, group.gone_delivered, group.gone_lost, group.gone_unknown],
                    "settled": [[list(holder), count] for holder, count in group.settled.items()],
                    "accounts": [account.export() for account in group.accounts.values()],
                }
                for name, group in state.groups.items()
            ],
        }

    def restore(self, topic: int, stored: Mapping[str, Any], now: float) -> None:
        """Go on with an exported account; raises KeyError, TypeError or ValueError for what is none."""
        state = _Topic(int(stored["epoch"]), int(stored["drawn"]))
        state.unequal = [int(epoch) for epoch in stored["unequal"]]
        for epoch, groups in stored["open"]:
            state.open[int(epoch)] = [
                (str(name), tuple(_holder(holder) for holder in holders)) for name, holders in groups
            ]
        for entry in stored["groups"]:
            group = state.groups[str(entry["name"])] = _Group()
            group.tickets, group.gone_delivered, group.gone_lost, group.gone_unknown = map(int, entry["sums"])
            group.unsent = int(entry.get("unsent", 0))
            group.settled = {_holder(holder): int(count) for holder, count in entry["settled"]}
            for one in entry["accounts"]:
                account = Account.load(one, topic not in self._unstamped, now)
                group.accounts[account.holder] = account
        for groups in state.open.values():
            for name, holders in groups:
                if any(holder not in state.groups[name].accounts for holder in holders):
                    raise ValueError(f"a holder of group {name!r} has no account")
        self._topics[topic] = state
        self.changed.add(topic)


def _holder(stored: Sequence[Any]) -> Holder:
    ip, port, client = stored
    return Holder(str(ip), int(port), None if client is None else int(client))


def _group_row(
    name: str, group: _Group, current: Sequence[tuple[tuple[Holder, ...], int]], unsent: int
) -> tuple[GroupRow, list[tuple[Holder, int]]]:
    """The account of a group, and the holders that got too many with how many."""
    live: dict[Holder, int] = {}
    for holders, drawn in current:
        for index, holder in enumerate(holders):
            live[holder] = live.get(holder, 0) + share(drawn, index, len(holders))
    members = []
    excess = []
    delivered, unconfirmed = group.gone_delivered, 0
    lost, unknown = group.gone_lost, group.gone_unknown
    for holder, account in group.accounts.items():
        ticketed = account.ticketed + live.get(holder, 0)
        left = account.left_at is not None
        if holder.client is None:
            unknown += ticketed
            members.append(MemberRow(holder, ticketed, None, 0, 0, left))
            continue
        surplus = account.surplus(live.get(holder, 0))
        if surplus:
            excess.append((holder, surplus))
        confirmed = min(account.delivered - surplus, ticketed)
        missing = ticketed - confirmed
        delivered += confirmed
        lost += missing if left else 0
        unconfirmed += 0 if left else missing
        members.append(
            MemberRow(
                holder, ticketed, account.delivered, 0 if left else missing, missing if left else 0, left
            )
        )
    tickets = group.tickets + sum(drawn for _, drawn in current)
    failed = group.unsent + unsent
    row = GroupRow(name, tickets, delivered, unconfirmed, lost, unknown, failed, tuple(members))
    return row, excess
