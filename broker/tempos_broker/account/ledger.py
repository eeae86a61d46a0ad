"""The ledger: where every event of every epoch went, to the event.

Sans-IO bookkeeping over three facts. A route's epoch *opens* with its groups and members; it *closes*
with the final number of tickets of each group, once both paths have let go of it; members *report* how
many datagrams of an epoch reached them. From an epoch's tickets follows what each member should have
got: member i of n gets every n-th ticket, beginning with ticket i.

Identities (per topic, all told by :meth:`Ledger.topic`):

* ``received = fast + slow + sum(refused)``
* every event forwarded drew one ticket of every group of its epoch
* per group ``tickets = delivered + dropped + unconfirmed + lost + unknown + filtered + sampled``

``delivered`` was given to a program, ``dropped`` arrived and was not: the program was too slow, or left.
``unconfirmed`` is what members in the route have not reported yet, ``lost`` what those that left never
reported, ``unknown`` what went to members that do not speak the control protocol. ``filtered`` and
``sampled`` were not for its members: by their senders, and because the group gets a sample.

Datagrams of a ``raw`` topic carry no epoch, so its members report one count since they began; their
accounts compare totals instead of epochs.

:meth:`Ledger.export` gives a topic's account as JSON values, :meth:`Ledger.restore` takes it back in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempos import Reason
from tempos._abi import MAX_GROUPS
from tempos._slots import ticket_of
from tempos.control import Sent
from tempos_broker.account.accounts import (
    Account,
    GroupRow,
    Holder,
    Orphans,
    Share,
    group_row,
    holder_of,
    share,
    unlike,
)
from tempos_broker.account.bounds import Undelivered
from tempos_broker.account.ended import Ended
from tempos_broker.account.exporting import Pieces, Shape, exported, in_pieces, restored, shape_of
from tempos_broker.account.orphans import unlike_orphans, with_orphans
from tempos_broker.account.positions import Positions
from tempos_broker.account.publishers import Publishers, PublishersAccount
from tempos_broker.account.quiet import Groups, Quiet
from tempos_broker.account.shares import shares_of
from tempos_broker.account.topics import TopicAccount


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """The account of one topic; ``problems`` says in words what does not add up.

    ``publishers``: what never came to be in it, as far as publishers and members tell.
    """

    received: int
    fast: int
    slow: int
    refused: dict[Reason, int]
    groups: tuple[GroupRow, ...]
    problems: tuple[str, ...]
    publishers: PublishersAccount

    @property
    def balanced(self) -> bool:
        return not self.problems


#: Where tickets are counted: topic, epoch, and the number of a ticket.
Ticket = tuple[int, int, int]


class Ledger:
    """The account of all topics. ``unstamped``: ids of topics whose datagrams carry no epoch."""

    def __init__(self, unstamped: Iterable[int] = ()) -> None:
        self._topics: dict[int, TopicAccount | Quiet] = {}
        #: Those that somebody has left whose account is to be settled; those with more than one open epoch.
        self._left: set[int] = set()
        #: When a route was opened last: nobody has left later.
        self._now = 0.0
        self._swapping: set[int] = set()
        self._unstamped = set(unstamped)
        #: Topics that begin an account anew, and may have members that had one in the one before.
        self._forgot: set[int] = set()
        self._ended = Ended()
        #: Grows whenever a topic or an epoch begins or ends: what was told before may mean another thing.
        self.turns = 0
        #: Topics whose account has changed; whoever stores them takes them out.
        self.changed: set[int] = set()
        #: What was lost before the broker.
        self.publishers = Publishers(self._undelivered)
        #: Tells the tickets drawn so far of a topic, an open epoch and the number of a group, if anybody can.
        self.tickets: Callable[[int, int, int], int] | None = None
        #: Whether the members of a topic are picked by the source of its events; those have counters.
        self.by_source: Callable[[int], bool] = lambda topic: False
        self._positions = Positions()
        #: Tells what members of a topic left behind, by group.
        self.orphans: Callable[[int], Mapping[str, Orphans]] = lambda topic: {}
        #: What was restored last of which nothing is counted: of thousands of topics it may be the same.
        self._read: tuple[Mapping[str, Any] | None, Quiet] = None, Quiet()
        #: Unix seconds, for people only: nothing is counted by it.
        self.wall: Callable[[], float] = time.time

    def begin(self, topic: int, name: str, *, stamped: bool) -> None:
        """A topic that is new here; whether its datagrams carry epochs."""
        self.turns += 1
        (self._unstamped.discard if stamped else self._unstamped.add)(topic)
        self._ended.begin(topic, name, stamped=stamped)

    def forget(self, topic: int, name: str) -> None:
        """The topic is no more."""
        state = self._topics.get(topic)
        if isinstance(state, TopicAccount):
            self._ended.put(topic, name, state, stamped=topic not in self._unstamped)
        self._unstamped.discard(topic)
        self._forgot.discard(topic)
        self.begin_anew(topic)

    def forgot(self, topic: int) -> None:
        """There was an account under this id before: who tells totals may have told some of them in it."""
        self.turns += 1
        self._forgot.add(topic)

    def begin_anew(self, topic: int) -> None:
        """Nothing that is known of the topic holds."""
        self.turns += 1
        self._topics.pop(topic, None)
        self._positions.forget(topic)
        self._left.discard(topic)
        self._swapping.discard(topic)
        self.changed.discard(topic)
        self.publishers.forget(topic)

    def _open(self, topic: int) -> Mapping[int, Groups]:
        """The groups of each open epoch."""
        state = self._topics.get(topic)
        return dict(state.open) if isinstance(state, Quiet) else state.open if state is not None else {}

    def _whole(self, topic: int) -> TopicAccount:
        """The account of a topic of which something is to be counted."""
        state = self._topics[topic]
        if isinstance(state, Quiet):
            state = self._topics[topic] = self._made_whole(topic, state)
            self._note_left(topic, state)
        return state

    def _made_whole(self, topic: int, quiet: Quiet) -> TopicAccount:
        stamped, forgot = topic not in self._unstamped, topic in self._forgot
        return quiet.whole(self._now, stamped=stamped, forgot=forgot)

    def _view(self, topic: int) -> TopicAccount:
        """The account of a topic, to look at."""
        state = self._topics.get(topic)
        if isinstance(state, Quiet):
            return self._made_whole(topic, state)
        return TopicAccount() if state is None else state

    def _new(self, topic: int) -> TopicAccount | Quiet:
        forgot = topic in self._forgot and topic in self._unstamped
        return TopicAccount(forgot=True) if forgot else Quiet()

    def _note_left(self, topic: int, state: TopicAccount) -> None:
        (self._left.add if state.left else self._left.discard)(topic)

    def in_force(self, topic: int, now: float) -> None:
        """The latest route that was opened is in force on both paths."""
        if topic not in self._unstamped:
            groups = self._open(topic)[self.epoch(topic)]
            quiet = isinstance(self._topics[topic], Quiet)
            self.publishers.in_force(topic, groups, now, quiet=quiet)

    def said(
        self, publisher: int, row: Sent, *, ip: str, began: float | None, final: bool, now: float
    ) -> None:
        """What a publisher says that it has sent."""
        self.publishers.said(publisher, row, ip=ip, began=began, final=final, now=now)
        self.changed.add(row.topic)

    def resent(self, publisher: int, topic: int, *, repaired: int, given_up: int, now: float) -> None:
        """What became of events that a publisher sent again."""
        self.publishers.resent(publisher, topic, repaired=repaired, given_up=given_up, now=now)
        self.changed.add(topic)

    def _undelivered(self, topic: int, group: str) -> Undelivered:
        """What of closed epochs has not come; all there is of a group that is in no route any more."""
        state = self._view(topic)
        known = state.groups.get(group)
        if known is None:
            return Undelivered(0, 0)
        missing = sum(account.outstanding for account in known.accounts.values())
        in_route = any(name == group for groups in state.open.values() for name, _ in groups)
        return Undelivered(known.gone_lost + missing, None if in_route else 0)

    def members(self, topic: int, epoch: int, holder: Holder) -> int:
        """How many members the group of a holder has in an open epoch; 0 if it is in none."""
        groups = self._open(topic).get(epoch, ())
        at = self._positions.find(topic, epoch, groups, holder)
        return 0 if at is None else at.of

    def opened(
        self, topic: int, epoch: int, groups: Iterable[tuple[str, Sequence[Holder]]], now: float
    ) -> None:
        """A route is about to be in force: its groups with their holders, in the order of the route."""
        self._now = now
        self.turns += 1
        state = self._topics.get(topic)
        if state is None:
            state = self._topics[topic] = self._ended.take(topic) or self._new(topic)
        if isinstance(state, Quiet):
            state.opened(epoch, groups)
        else:
            state.begin(epoch, groups, now, stamped=topic not in self._unstamped)
            self._note_left(topic, state)
        if len(state.open) > 1:
            self._swapping.add(topic)
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
        """No packet uses this epoch's route any more; ``tickets``, and what goes with them, are final.

        ``unsent``: copies for each group that could not be sent; none: of no group. ``cut``: both are
        what was last known; a few more may have been drawn by a broker that died.
        """
        known = self._topics[topic]
        self.turns += 1
        self.changed.add(topic)
        self._positions.forget(topic, epoch)
        if isinstance(known, Quiet) and not (cut or any(tickets) or any(unsent)):
            known.closed(epoch)
            self._note_closed(topic, known)
            return
        state = self._whole(topic)
        groups = state.open.pop(epoch)
        self._note_closed(topic, state)
        if len(set(tickets[: len(groups)])) > 1:
            state.unequal.append(epoch)
        state.drawn += tickets[0] if tickets else 0
        unsent = unsent or [0] * len(groups)
        shares = self._shares(topic, epoch, groups, tickets)
        for (name, holders), drawn, failed, each in zip(
            groups, tickets[: len(groups)], unsent, shares, strict=True
        ):
            group = state.groups[name]
            group.tickets += drawn
            group.unsent += failed
            group.filtered += each.filtered
            group.sampled += each.sampled
            for holder, ticketed in zip(holders, each.of, strict=True):
                group.accounts[holder].close(epoch, ticketed, cut=cut)

    def _shares(self, topic: int, epoch: int, groups: Groups, drawn: Sequence[int]) -> Iterator[Share]:
        """How many of the tickets of each group its holders have."""
        read = self.tickets if self.by_source(topic) else None
        return shares_of(groups, drawn, read and (lambda place: read(topic, epoch, MAX_GROUPS + place)))

    def _note_closed(self, topic: int, state: TopicAccount | Quiet) -> None:
        if len(state.open) < 2:
            self._swapping.discard(topic)

    def open_epochs(self, topic: int) -> dict[int, int]:
        """Epochs that are not closed, oldest first, with the number of their groups."""
        state = self._topics.get(topic)
        opened = state.open if isinstance(state, Quiet) else sorted(self._open(topic).items())
        return {epoch: len(groups) for epoch, groups in opened}

    def route(self, topic: int, epoch: int) -> Groups:
        """The groups of an open epoch with their holders, in the order of the route."""
        return self._open(topic)[epoch]

    def quiet_groups(self, topic: int) -> Groups | None:
        """The groups of a topic in whose account is nothing else: ticket, publisher, former epoch."""
        state = self._topics.get(topic)
        if self.publishers.follows(topic):
            return None
        if state is None:
            return ()
        return state.open[0][1] if isinstance(state, Quiet) and len(state.open) == 1 else None

    def groups(self, topic: int) -> Collection[str]:
        """The groups of which there is an account, or of which nothing was counted yet."""
        state = self._topics.get(topic)
        if isinstance(state, Quiet):
            return {name for _, groups in state.open for name, _ in groups}
        return state.groups if state is not None else ()

    def epoch(self, topic: int) -> int:
        """The latest epoch that was opened; 0 for a topic without an account."""
        state = self._topics.get(topic)
        return state.epoch if state else 0

    def drawn(self, topic: int) -> int:
        """Tickets of one group in all closed epochs: how many events went to the groups."""
        state = self._topics.get(topic)
        return 0 if state is None or isinstance(state, Quiet) else state.drawn

    def report(
        self, topic: int, group: str, holder: Holder, epoch: int, datagrams: int, *, full: bool = False
    ) -> None:
        """What a member got; ``epoch`` is 8 bits of it unless ``full``. Foreign claims are ignored."""
        if not datagrams and isinstance(self._topics.get(topic), Quiet):
            return
        account = self.account(topic, group, holder)
        if account is None:
            return
        if epoch and not account.stamped:
            # Of the topic that it was before it became raw, which the member did not know yet.
            return
        said = (epoch, datagrams)
        if not full and account.stamped:
            if said == account.said:
                # Who got nothing since repeats itself, also when these 8 bits mean another epoch by now.
                return
            latest = self.epoch(topic)
            epoch = latest - ((latest - epoch) & 0xFF)
        if self._held(topic, group, account, epoch):
            if account.unsure and not account.stamped and self.tickets is not None:
                account.learn_base(datagrams, account.ticketed + self._ticketed_now(topic, group, holder))
            account.said = None if full else said
            if account.report(epoch, datagrams):
                self.changed.add(topic)

    def report_former(
        self, topic: int, before: tuple[str, Holder], here: tuple[str, Holder], epoch: int, datagrams: int,
        *, full: bool = False,
    ) -> None:  # fmt: skip
        """What a member got at a place where it is no more, as it tells now that it is ``here``.

        What it tells as one count for all places counts there as far as that place was sent so much, and no
        more where it is now.
        """
        was, account = self.account(topic, *before), self.account(topic, *here)
        if was is not None and not was.stamped:
            now = 0 if self.tickets is None else self._ticketed_now(topic, *before)
            datagrams = min(datagrams, was.base + was.ticketed + now)
        self.report(topic, *before, epoch, datagrams, full=full)
        if was is not None and account is not None:
            received, dropped = was.totals
            account.base, account.drop_base = max(account.base, received), max(account.drop_base, dropped)

    def report_dropped(self, topic: int, group: str, holder: Holder, datagrams: int) -> bool:
        """What a member did not give to its program, of all it got; whether this is news."""
        if not datagrams and isinstance(self._topics.get(topic), Quiet):
            return False
        account = self.account(topic, group, holder)
        if account is not None and account.unsure:
            account.learn_drop_base(datagrams)
        if account is None or not account.report_dropped(datagrams):
            return False
        self.changed.add(topic)
        return True

    def report_repairs(self, topic: int, group: str, holder: Holder, repaired: int, given_up: int) -> None:
        """What became of deliveries that a member missed."""
        if not (repaired or given_up) and isinstance(self._topics.get(topic), Quiet):
            return
        account = self.account(topic, group, holder)
        if account is not None and account.report_repairs(repaired, given_up):
            self.changed.add(topic)

    def _ticketed_now(self, topic: int, group: str, holder: Holder) -> int:
        """What open epochs have drawn for a holder so far."""
        assert self.tickets is not None, "only then is it asked for"
        state = self._topics.get(topic)
        if state is None:
            return 0
        ticketed = 0
        for epoch, groups in state.open if isinstance(state, Quiet) else state.open.items():
            number = self._positions.number(topic, epoch, groups, group)
            # Of nothing nobody has a share, whoever is where.
            if number is not None and (drawn := self.tickets(topic, epoch, ticket_of(number))):
                at = self._positions.of(topic, epoch, groups, number, holder)
                ticketed += 0 if at is None else share(drawn, at.place, at.of)
        return ticketed

    def _held(self, topic: int, group: str, account: Account, epoch: int) -> bool:
        """Whether a holder can say anything of this epoch: it had a place in its route."""
        if not account.stamped or epoch in account.shares:
            return True
        groups = self._open(topic).get(epoch, ())
        number = self._positions.number(topic, epoch, groups, group)
        return number is not None and account.holder in groups[number][1]

    def progress(self, holder: Holder, places: Iterable[tuple[int, str]]) -> tuple[int, int]:
        """What a holder was ticketed so far in these topics and groups, and what it has told that it got."""
        ticketed = delivered = 0
        for topic, group in places:
            if self.tickets is not None:
                ticketed += self._ticketed_now(topic, group, holder)
            # A quiet one has nothing but that, and stays small.
            quiet = isinstance(self._topics.get(topic), Quiet)
            if not quiet and (account := self.account(topic, group, holder)) is not None:
                ticketed += account.ticketed
                delivered += account.delivered
        return ticketed, delivered

    def counters(self, places: Iterable[tuple[int, str]]) -> Iterator[Ticket]:
        """Where the tickets are that open epochs have drawn in these topics and groups."""
        for topic, group in places:
            for epoch, groups in self._open(topic).items():
                number = self._positions.number(topic, epoch, groups, group)
                if number is not None:
                    yield topic, epoch, ticket_of(number)

    def accounts(self, holder: Holder) -> list[Account]:
        """Every account of a holder in which anything is counted, over topics and groups."""
        return [
            account
            for state in self._topics.values()
            if not isinstance(state, Quiet)
            for group in state.groups.values()
            if (account := group.accounts.get(holder)) is not None
        ]

    def topics(self, holder: Holder) -> frozenset[int]:
        """Topics in which a holder has, or lately had, an account; or left a moment ago."""
        return frozenset(
            topic
            for topic, state in self._topics.items()
            if (
                not isinstance(state, Quiet)
                and any(holder in group.accounts for group in state.groups.values())
            )
            or (
                topic in self._swapping
                and any(holder in holders for groups in self._open(topic).values() for _, holders in groups)
            )
        )

    def account(self, topic: int, group: str, holder: Holder) -> Account | None:
        """The account of a holder in one group."""
        state = self._topics.get(topic)
        if isinstance(state, Quiet):
            state = self._whole(topic) if state.holds(group, holder) else None
        known = state.groups.get(group) if state else None
        return known.accounts.get(holder) if known else None

    def settle(self, before: float, confirmed: float | None = None) -> None:
        """Settle the accounts of those that left by ``before``: nothing they may still say is awaited.

        ``confirmed``: where there are many, those that left by then and have confirmed everything, too. What
        nobody is in any more stands in the sum of all former groups.
        """
        for topic in list(self._left):
            state = self._whole(topic)
            if state.settle(
                before,
                before if confirmed is None else confirmed,
                lambda name, topic=topic: self.publishers.end(topic, name),  # type: ignore[misc]
                self.wall(),
            ):
                self.changed.add(topic)
            self._note_left(topic, state)

    def next_settlement(self) -> float | None:
        """Since when the first of those is gone, over all topics, whose accounts are to be settled."""
        waiting = (self._whole(topic).next_settlement() for topic in self._left)
        return min((at for at in waiting if at is not None), default=None)

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
        quiet = self._topics.get(topic)
        if isinstance(quiet, Quiet) and len(quiet.open) == 1 and not any(map(any, live.values())):
            return self._quiet(topic, quiet, received, fast, slow, refused, slack)
        state = self._view(topic)
        drawn_now: dict[str, list[tuple[tuple[Holder, ...], int, Share]]] = {}
        for epoch, groups in state.open.items():
            counts = live.get(epoch, [0] * len(groups))
            shares = self._shares(topic, epoch, groups, counts)
            for (name, holders), count, each in zip(groups, counts[: len(groups)], shares, strict=True):
                drawn_now.setdefault(name, []).append((holders, count, each))
        problems = [
            f"in epoch {epoch} the groups drew different numbers of tickets" for epoch in state.unequal
        ]
        drawn = state.drawn + sum(live[epoch][0] for epoch in state.open if live.get(epoch))
        problems += unlike(received, fast, slow, refused, drawn, slack)
        rows = []
        unsent_now: Counter[str] = Counter()
        for epoch, counts in (unsent or {}).items():
            for (name, _), count in zip(state.open.get(epoch, ()), counts, strict=False):
                unsent_now[name] += count
        for name, group in state.groups.items():
            row, excess = group_row(name, group, drawn_now.get(name, []), unsent_now[name])
            rows.append(row)
            problems += [
                f"group {name}: {holder.ip}:{holder.port} got {count} too many" for holder, count in excess
            ]
        publishers = self.publishers.account(
            topic, received, {row.name: Undelivered(row.lost, row.unconfirmed) for row in rows}
        )
        orphans = self.orphans(topic)
        problems += unlike_orphans(orphans)
        rows = with_orphans(rows, orphans)
        return TopicLedger(received, fast, slow, dict(refused), tuple(rows), tuple(problems), publishers)

    def _quiet(
        self,
        topic: int,
        quiet: Quiet,
        received: int,
        fast: int,
        slow: int,
        refused: dict[Reason, int],
        slack: int,
    ) -> TopicLedger:
        """The account of a topic of which no ticket was drawn."""
        problems = tuple(unlike(received, fast, slow, refused, 0, slack))
        rows = quiet.rows()
        publishers = self.publishers.account(topic, received, {row.name: Undelivered(0, 0) for row in rows})
        return TopicLedger(received, fast, slow, dict(refused), rows, problems, publishers)

    def export(self, topic: int, now: float = 0.0) -> dict[str, Any]:
        """The account of a topic as JSON values; ``groups`` is left out where nothing is counted in any."""
        return exported(self._exportable(topic), self.publishers.export(topic, now))

    def export_in_pieces(self, topic: int, now: float) -> Pieces:
        """The same as JSON text, with pauses; meanwhile nothing but members' reports may change it."""
        return in_pieces(self._exportable(topic), lambda: self.publishers.export(topic, now))

    def shape(self, topic: int) -> Shape:
        """What is another one where more has changed than what members tell."""
        return shape_of(self._exportable(topic))

    def _exportable(self, topic: int) -> TopicAccount | Quiet:
        state = self._topics.get(topic)
        return state if isinstance(state, Quiet) else self._view(topic)

    def restore(self, topic: int, stored: Mapping[str, Any], now: float) -> None:
        """Go on with an exported account; raises KeyError, TypeError or ValueError for what is none."""
        self.turns += 1
        self._topics[topic] = state = self._restored(topic, stored, now)
        if isinstance(state, TopicAccount):
            self._note_left(topic, state)
        if len(state.open) > 1:
            self._swapping.add(topic)
        if (publishers := stored.get("publishers")) is not None:
            self.publishers.restore(topic, publishers, now)

    def _restored(self, topic: int, stored: Mapping[str, Any], now: float) -> TopicAccount | Quiet:
        like, quiet = self._read
        if like is stored:
            return quiet.copy()
        opened = [
            (int(epoch), [(str(name), tuple(map(holder_of, holders))) for name, holders in groups])
            for epoch, groups in sorted(stored["open"])
        ]
        if "groups" not in stored:
            quiet = Quiet()
            for epoch, groups in opened:
                quiet.opened(epoch, groups)
            quiet.epoch = int(stored["epoch"])
            self._read = stored, quiet
            return quiet.copy()
        state = restored(stored, opened, stamped=topic not in self._unstamped, now=now, wall=self.wall())
        state.restored(now)
        return Quiet.of(state) or state
