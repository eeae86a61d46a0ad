"""What a group knows of a publisher's losses before the broker: arithmetic over what both have told.

A publisher's numbers are counted from 0 without wrapping. A *view* is a group as of one moment; which
publishers and groups there are, and when they are forgotten, is the business of
:mod:`tempos_broker.account.publishers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from tempos.control import Heard, Sent
from tempos_broker.account.accounts import Holder

#: Seconds after a publisher's word until what it has sent must have been with the members.
SETTLE = 0.25

#: Under whose name stands what all former members of a group got.
FORMER = Holder("", 0, None)

_U32 = 0xFFFFFFFF
_HALF = 0x80000000


@dataclass(slots=True)
class Followed:
    """One publisher on one topic. ``said``: None if it tells nothing; ``began`` None: nobody knows.

    ``floor`` and ``ceiling`` are what groups that are no more have known of it. ``repaired``: datagrams that
    were taken when it sent them again; ``given_up``: events that it asks for no more.
    """

    number: int
    said: Sent | None = None
    said_at: float = 0.0
    began: float | None = None
    ip: str | None = None
    final: bool = False
    version: int = 0
    changed: float = 0.0
    floor: int = 0
    ceiling: int | None = None
    #: Whether all that it has sent is in the counters of this life of the broker.
    counted: bool = False
    repaired: int = 0
    given_up: int = 0


@dataclass(slots=True)
class Seen:
    """What one member got of one publisher; ``before``: datagrams and events of earlier stretches."""

    row: Heard
    before: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Lacks:
    """What one member says of all publishers together."""

    missed: int = 0
    unfollowed: int = 0


@dataclass(slots=True)
class Listening:
    """A group from when it had members on, until it had none.

    ``blind``: one of them says nothing, ever, or found no room. ``slack``: events that former members got,
    nobody knows any more of whom.
    """

    since: float
    until: float | None = None
    blind: bool = False
    #: Its members now, or the last that it had.
    present: frozenset[Holder] = frozenset()
    members: dict[Holder, Lacks] = field(default_factory=dict)
    rows: dict[int, dict[Holder, Seen]] = field(default_factory=dict)
    #: Members that left while others stayed, and when, in this order.
    left: dict[Holder, float] = field(default_factory=dict)
    slack: int = 0

    def are_in(self, holders: frozenset[Holder], now: float) -> None:
        """Its members are these now."""
        self.left.update(dict.fromkeys(self.present - holders, now))
        self.present = holders
        for holder in holders:
            self.left.pop(holder, None)
            if holder.client is None:
                self.blind = True
            else:
                self.members.setdefault(holder, Lacks())

    def fold(self, holder: Holder) -> int:
        """Of a member that left keep what it got among that of all such; how many rows that saves."""
        del self.left[holder]
        saved = 0
        lacks = self.members.pop(holder, None)
        self.slack += lacks.unfollowed if lacks is not None else 0
        for rows in self.rows.values():
            seen = rows.pop(holder, None)
            if seen is not None:
                former = rows.get(FORMER)
                rows[FORMER] = seen if former is None else _merged(former, seen)
                saved += former is not None
        return saved

    def export(self, most: int) -> tuple[int, list[list[Any]], list[list[Any]]]:
        """As JSON values: what the numbers of its former members are short of, who is in it, and rows.

        Who left cannot tell again what it got: that is one row of each publisher. Who is in it may leave
        before it does: its rows are told, too, where these are no more than ``most``.
        """
        here = {holder for rows in self.rows.values() for holder in rows if holder in self.present}
        if sum(holder in here for rows in self.rows.values() for holder in rows) > most:
            here = set()
        places = {holder: place for place, holder in enumerate(sorted(here, key=repr))}
        gone = [member for holder, member in self.members.items() if holder not in self.present]
        kept: list[list[Any]] = []
        for publisher, rows in self.rows.items():
            former: Seen | None = None
            for holder, seen in rows.items():
                if holder not in self.present:
                    former = seen if former is None else _merged(former, seen)
                elif holder in places:
                    kept.append([publisher, places[holder], *seen.row[3:], *seen.before])
            if former is not None:
                kept.append([publisher, None, *former.row[3:], *former.before])
        lacks = [[list(holder), *astuple(self.members[holder])] for holder in places]
        return self.slack + sum(member.unfollowed for member in gone), lacks, kept

    def restore(self, topic: int, name: str, slack: int, lacks: list[Any], kept: list[Any]) -> None:
        """Go on with what was exported; raises ValueError or TypeError for what is none."""
        self.slack = slack
        for (ip, port, client), missed, unfollowed in lacks:
            self.members[Holder(str(ip), int(port), int(client))] = Lacks(int(missed), int(unfollowed))
        holders = [*self.members]
        self.present = frozenset(holders)
        for publisher, place, datagrams, events, first, passed, lost, *before in kept:
            row = Heard(topic, name, *map(int, (publisher, datagrams, events, first, passed, lost)))
            if min(row[3:]) < 0 or (place is not None and not 0 <= place < len(holders)):
                raise ValueError(f"group {name!r} cannot have heard {row}")
            more, other = map(int, before)
            self.rows.setdefault(row.publisher, {})[FORMER if place is None else holders[place]] = Seen(
                row, (more, other)
            )

    def first_word(self, row: Heard) -> Seen:
        """What a member tells of a publisher for the first time.

        Of one that was folded and is back some of it is counted already; it counts from here on.
        """
        former = self.rows.get(row.publisher, {}).get(FORMER)
        if former is None or (row.first - former.row.first - former.row.passed) & _U32 < _HALF:
            return Seen(row)
        self.slack += row.events
        return Seen(row, (-row.datagrams, -row.events))


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Deliveries of a group that have not come: ``lost`` of members that left, ``open`` of the others.

    ``open`` None: nobody has counted.
    """

    lost: int
    open: int | None


@dataclass(frozen=True, slots=True)
class PublisherRow:
    """The account of one publisher, in events, but for ``datagrams``.

    ``tells``: it says what it has sent; otherwise ``sent`` is what its numbers say that groups have passed.
    ``whole``: the bounds are about all that it has sent; otherwise about what came after the first event that
    a group got. ``settled``: they go to the publisher's last word; otherwise as far as members have told.
    ``received``: by group. ``at_most`` None: no group can tell. ``repaired``, ``given_up``: see
    :class:`Followed`.
    """

    publisher: int
    ip: str | None
    tells: bool
    final: bool
    sent: int
    datagrams: int | None
    received: Mapping[str, int]
    at_least: int
    at_most: int | None
    whole: bool
    settled: bool
    repaired: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one group knows of a publisher. ``span``: numbers that it has passed, ``events`` that it got."""

    at_least: int
    at_most: int
    whole: bool
    settled: bool
    span: int
    events: int


@dataclass(frozen=True, slots=True)
class View:
    """A group as of now. ``told_at``: since then every member has told everything."""

    group: Listening
    undelivered: Undelivered
    told_at: float
    missed: int
    unfollowed: int

    def bounds(self, publisher: Followed) -> Bounds | None:
        """What the group knows of a publisher; None if that is nothing."""
        group, said, began = self.group, publisher.said, publisher.began
        seen = group.rows.get(publisher.number, {})
        whole = began is not None and group.since <= began
        settled = said is not None and self.told_at >= publisher.said_at + SETTLE
        # Whether its last members have told everything, after nothing was sent to them any more.
        done = group.until is not None and self.told_at >= group.until
        if group.until is not None:
            # What was sent after the group had ended is none of its.
            whole = whole and publisher.final and publisher.said_at <= group.until
            settled = whole and done
        if not seen and not (whole and settled):
            return None
        ends = {holder: _end_of(each.row, said) for holder, each in seen.items()}
        head = 0
        if not (whole and said is not None and said.numbered <= _U32):
            head = min((ends[holder] - each.row.passed for holder, each in seen.items()), default=0)
        top = max([head, *ends.values()])
        # Who has got more than the publisher's word says is in the midst of it.
        settled = settled and said is not None and top <= said.numbered
        # How far the slowest member has told; where one has told nothing, not far.
        slowest = top if done else min((ends.get(holder, head) for holder in group.present), default=head)
        events = sum(each.row.events + each.before[1] for each in seen.values())
        datagrams = sum(each.row.datagrams + each.before[0] for each in seen.values())
        unsent = said.unsent if said else 0
        plain = events == datagrams and (said is None or said.datagrams == said.numbered - said.unsent)

        def least(end: int, behind: int) -> int:
            """What is lacking up to a number, if so many deliveries may have been of this publisher."""
            missing = end - head - events - unsent - self.unfollowed
            # Otherwise a delivery may have held any number of events.
            return missing - behind if plain or not behind else 0

        at_least, at_most, end = least(slowest, self.missed + self.undelivered.lost), top - head - events, top
        if settled and said is not None:
            end = said.numbered
            at_most = end - head - events - (unsent if whole else 0)
            if self.undelivered.open is not None:
                behind = self.undelivered.lost + self.undelivered.open
                at_least = max(at_least, least(end, behind))
                if whole and not plain:
                    at_least = max(at_least, said.datagrams - datagrams - behind - self.unfollowed)
        if group.blind:
            at_least = 0
        # Who was alone for a while knows more.
        at_least = max([0, at_least, *(each.row.lost - unsent for each in seen.values())])
        return Bounds(at_least, max(at_most, at_least), whole, settled, end - head, events)


def publisher_row(publisher: Followed, views: Mapping[str, View], received: int | None) -> PublisherRow:
    """The account of one publisher; ``received``: datagrams of the topic that reached the broker."""
    said = publisher.said
    found = {name: bounds for name, view in views.items() if (bounds := view.bounds(publisher)) is not None}
    at_least = max([publisher.floor, *(each.at_least for each in found.values())])
    wholes = [each for each in found.values() if each.whole]
    # A group that is still to tell its last knows less than one that has told.
    settled = any(each.settled for each in wholes) or publisher.ceiling is not None
    mosts = [each.at_most for each in wholes if each.settled or not settled]
    if publisher.ceiling is not None:
        mosts.append(publisher.ceiling)
    at_most = min(mosts, default=None)
    if not wholes and found and at_most is None:
        widest = max(found.values(), key=lambda each: each.span)
        at_most, settled = widest.at_most, widest.settled
    if received is not None and publisher.counted and said is not None:
        at_least = max(at_least, said.datagrams - received)
    return PublisherRow(
        publisher=publisher.number,
        ip=publisher.ip,
        tells=said is not None,
        final=publisher.final,
        sent=said.numbered - said.unsent if said else max((b.span for b in found.values()), default=0),
        datagrams=said.datagrams if said else None,
        received={name: each.events for name, each in found.items()},
        at_least=at_least,
        at_most=None if at_most is None else max(at_most, at_least),
        whole=bool(mosts),
        settled=settled,
        repaired=publisher.repaired,
        given_up=publisher.given_up,
    )


def _merged(one: Seen, other: Seen) -> Seen:
    """What two members got together."""
    early, late = one.row, other.row
    if (late.first - early.first) & _U32 >= _HALF:
        early, late = late, early
    passed = max(early.passed, ((late.first - early.first) & _U32) + late.passed)
    row = early._replace(
        datagrams=early.datagrams + late.datagrams, events=early.events + late.events, passed=passed,
        lost=max(early.lost, late.lost),
    )  # fmt: skip
    return Seen(row, (one.before[0] + other.before[0], one.before[1] + other.before[1]))


def _end_of(row: Heard, said: Sent | None) -> int:
    """The number after the last event that a member got, not wrapped, as the publisher counts."""
    end = row.first + row.passed
    if said is None:
        return end
    ahead = (end - said.numbered) & _U32
    return said.numbered + (ahead if ahead < _HALF else ahead - _U32 - 1)
