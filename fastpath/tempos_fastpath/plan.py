"""Whether the kernel can carry a route, and how: a pure function of the route and the network's facts.

A :class:`Plan` is what the kernel's route is made of, a :class:`Refusal` says in words for people why
there is none. Both are values: two of them differ exactly if something relevant changed.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from tempos import (
    DATA_PORT,
    Fanout,
    Framing,
    Group,
    GroupOptions,
    PathPolicy,
    Pick,
    Quality,
    Route,
    _abi,
)
from tempos._abi import Way
from tempos._senders import options_of
from tempos_fastpath.broadcast import Broadcast, plan_broadcast
from tempos_fastpath.network.facts import Destination, Facts, destination
from tempos_fastpath.network.legs import MAX_U16, Given, Hop, Obstacle, leg_to
from tempos_fastpath.network.legs import Leg as LegTo

#: The kernel copies a frame, with the room in front of it, into one page.
MAX_BROADCAST_MTU = 3500
#: Plans that are kept for routes that are like theirs, and members of which it is known how events get there.
_KNOWN, _LEGS = 64, 1 << 14
#: A group of more members is told from others by its identity.
_MANY = 64

_T = TypeVar("_T", bound=Hashable)
#: A place where events go by an interface.
_Leg = tuple[Destination, int]
_Neighbour = tuple[int, str]
#: A member by its identity, with the mark of a class, and whether events keep their senders' addresses.
_Place = tuple[int, int, bool]
#: The groups, the mark of their class, and where their members are: in turn, and each once.
_Towards = tuple[tuple[Group, ...], int, tuple[Destination, ...], frozenset[Destination]]
#: All that a plan is made of, but for topic and epoch, facts and means.
_Likeness = tuple[object, ...]
_NOTHING: frozenset[Any] = frozenset()


@dataclass(frozen=True, slots=True)
class Means:
    """What the programs that are attached can do.

    ``native``: frames may be redirected from a driver, which the egress must support. The others say why
    there can be no broadcast, and no tc clone; empty where there can. ``port``: what events leave from.
    """

    native: bool
    no_broadcast: str = ""
    no_clone: str = ""
    port: int = DATA_PORT


@dataclass(frozen=True, slots=True)
class Plan:
    """A route that the kernel can carry; ``mtu`` is the smallest towards any member.

    ``groups``: the ways to the members of each group. ``sources``: the networks whose events are taken,
    CIDR; none: from anywhere. ``why``: of several groups, why they are served in this ``way``. ``tos``:
    that byte of the IPv4 header of what leaves. ``limited``: the topic has a rate, ``journal``: its
    events are kept; what that takes the kernel finds elsewhere. ``pick``: which member of a group gets one.
    ``options``: of each group what it gets and from whose address; none: all do, from ours. ``nowhere``: of
    those left out, which no way leads to, and why: the first one; empty for none.
    """

    topic: int
    epoch: int
    framing: Framing
    mtu: int
    groups: tuple[tuple[Hop, ...], ...]
    sources: tuple[str, ...] = ()
    way: Way = Way.ONE
    why: str = ""
    tos: int = 0
    limited: bool = False
    journal: bool = False
    pick: Pick = Pick.TURN
    options: tuple[GroupOptions, ...] = ()
    nowhere: str = ""

    @property
    def less(self) -> frozenset[int]:
        """The groups that do not get all."""
        return frozenset(at for at, each in enumerate(self.options) if each.sources or each.every > 1)

    @property
    def keeps(self) -> frozenset[int]:
        """The groups that get what they get from the sender's address."""
        return frozenset(at for at, each in enumerate(self.options) if each.keep)

    @property
    def is_small(self) -> bool:
        """Whether a small route has room for it: tables and sieves take that of one of full size."""
        return len(self.hops) <= _abi.SMALL_MEMBERS and not self.spreads and not self.less

    @property
    def spreads(self) -> bool:
        """Whether any group goes by a table."""
        return self.pick is not Pick.TURN and any(len(group) > 1 for group in self.groups)

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The ways to all members, group by group."""
        return tuple(hop for group in self.groups for hop in group)

    @property
    def interfaces(self) -> frozenset[int]:
        """The indices of the interfaces that events leave by."""
        return frozenset(hop.ifindex for group in self.groups for hop in group)

    @property
    def wires(self) -> frozenset[int]:
        """The same of those that programs hand frames to."""
        return frozenset(hop.wire for group in self.groups for hop in group)

    @property
    def broadcast(self) -> Broadcast:
        """Of that way: the devmaps for its copies."""
        found = plan_broadcast(_interfaces(self.groups), self.less)
        assert isinstance(found, Broadcast), "there is no plan to broadcast otherwise"
        return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the kernel cannot carry a route; ``unresolved``: (interface index, IP) of the MACs it lacks."""

    reason: str
    unresolved: tuple[tuple[int, str], ...] = ()


def refuse_at_once(route: Route) -> Refusal | None:
    """What can be said without looking at the network."""
    if route.topic.policy is PathPolicy.SLOW:
        return Refusal("the topic's policy is slow")
    if not route.groups:
        return Refusal("the topic has no member")
    if len(route.groups) > _abi.MAX_GROUPS:
        return Refusal(f"{len(route.groups)} groups: the fast path carries at most {_abi.MAX_GROUPS}")
    if waits := [group.name for group in route.groups if any(each.is_nobody for each in group.members)]:
        return Refusal(f"group {waits[0]} has no member: what comes waits for the next one")
    if len(route.topic.sources) > _abi.MAX_SOURCES:
        count = len(route.topic.sources)
        return Refusal(f"{count} source networks: the fast path checks at most {_abi.MAX_SOURCES}")
    count = sum(len(group.members) for group in route.groups)
    if count > _abi.MAX_MEMBERS:
        return Refusal(f"{count} members: the fast path carries at most {_abi.MAX_MEMBERS} of a topic")
    if count > _abi.SIEVE_AT and any(each.sources or each.every > 1 for each in options_of(route)):
        where = "of a topic whose groups have sources or every"
        return Refusal(f"{count} members: the fast path carries at most {_abi.SIEVE_AT} {where}")
    return None


def plan_route(
    route: Route,
    facts: Facts,
    means: Means,
    tos: Mapping[Quality, int] | None = None,
    left_out: Collection[tuple[str, str | None]] = (),
    legs: dict[_Place, LegTo] | None = None,
) -> Plan | Refusal:
    """Plan ``route``: how its events get to every member, and who makes the copies for several groups.

    ``tos``: the byte of the IPv4 header that marks what leaves of each class; without it 0. ``left_out``:
    where members are (address, and that of ours which their events leave from) whose MAC will not be known
    soon, or that no frame gets to: the others do not wait for them. Nor do they for one that the kernel
    takes nothing for. ``legs``: those that were found by the same facts, means and left out are taken from
    there, and new ones put there.
    """
    refusal = refuse_at_once(route)
    if refusal is not None:
        return refusal
    groups: list[tuple[Hop, ...]] = []
    options = _options(route)
    unresolved: list[tuple[int, str]] = []
    waiting: list[str] = []
    mtu = MAX_U16
    no_redirect = ""
    nowhere = ""
    mark = (tos or {}).get(route.topic.quality, 0)
    given = Given(facts, means.native, means.port, left_out, mark)
    legs = {} if legs is None else legs
    try:
        for at, group in enumerate(route.groups):
            hops: list[Hop] = []
            keep = bool(options and options[at].keep)
            for member in group.members:
                place = id(member), mark, keep
                leg = legs.get(place)
                if leg is None:
                    leg = leg_to(member, given, keep=keep)
                    if leg.hop is not None and not leg.nowhere:
                        legs[place] = leg
                if leg.mtu < mtu:
                    mtu = leg.mtu
                no_redirect = no_redirect or leg.no_redirect
                nowhere = nowhere or leg.nowhere
                if leg.hop is not None:
                    hops.append(leg.hop)
                else:
                    unresolved.append(leg.next)
                    waiting.append(leg.waits)
            groups.append(tuple(hops))
        if unresolved:
            more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            reason = f"no MAC address yet of member {waiting[0]}{more}"
            return Refusal(reason, tuple(dict.fromkeys(unresolved)))
        if nowhere:
            groups = _beside(groups, facts, nowhere)
        less = frozenset(at for at, each in enumerate(options) if each.sources or each.every > 1)
        way, why = _choose_way(route.topic.fanout, groups, less, means, no_redirect)
    except Obstacle as found:
        return Refusal(str(found))
    if way is Way.BROADCAST:
        mtu = min(mtu, MAX_BROADCAST_MTU)
    topic = route.topic
    return Plan(
        topic.id,
        route.epoch,
        topic.framing,
        mtu,
        tuple(groups),
        topic.sources,
        way,
        why,
        tos=mark,
        limited=topic.rate > 0,
        journal=topic.journal > 0,
        pick=topic.pick,
        options=options,
        nowhere=nowhere,
    )


class Planner:
    """Plans routes by the same facts; of those that differ in topic and epoch alone but one is planned.

    Of members that were in a route that was planned by them it is known how events get there.
    """

    def __init__(self, tos: Mapping[Quality, int]) -> None:
        self._tos = tos
        #: What those that are known were planned by.
        self._by: tuple[Facts, Means, Collection[tuple[str, str | None]]] | None = None
        self._known: dict[_Likeness, tuple[Route, Plan | Refusal]] = {}
        #: Of those the latest: most routes are like the one before, which is soon seen: they share groups.
        self._last: tuple[_Likeness, Plan | Refusal | None] = (), None
        #: By the identity of members, who are kept in there.
        self._legs: dict[_Place, LegTo] = {}

    def plan(
        self, route: Route, facts: Facts, means: Means, left_out: Collection[tuple[str, str | None]]
    ) -> Plan | Refusal:
        """As :func:`plan_route` does."""
        by = self._by
        if by is None or by[0] is not facts or by[1] != means or by[2] is not left_out:
            self._known.clear()
            self._legs.clear()
            self._by, self._last = (facts, means, left_out), ((), None)
        topic, like = route.topic, _likeness(route)
        found = self._find(like)
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            if len(self._legs) >= _LEGS:
                self._legs.clear()
            found = plan_route(route, facts, means, self._tos, left_out, self._legs)
            self._known[like] = route, found
            self._last = like, found
        if isinstance(found, Refusal) or (found.topic == topic.id and found.epoch == route.epoch):
            return found
        # Not by `replace`, which takes as long as all the rest.
        return Plan(
            topic.id, route.epoch, found.framing, found.mtu, found.groups, found.sources, found.way,
            found.why, found.tos, found.limited, found.journal, found.pick, found.options, found.nowhere,
        )  # fmt: skip

    def agree(self, before: Facts, now: Facts) -> None:
        """Facts contradict nothing of those before: what was planned by these holds."""
        if self._by is not None and self._by[0] is before:
            self._by = now, *self._by[1:]
            # What stood against a route may have been that something was not known.
            for key in [key for key, each in self._known.items() if isinstance(each[1], Refusal)]:
                del self._known[key]
            self._last = (), None

    def _find(self, like: _Likeness) -> Plan | Refusal | None:
        """What is known of such routes."""
        if like != self._last[0]:
            known = self._known.get(like)
            self._last = like, known[1] if known is not None else None
        return self._last[1]


def _likeness(route: Route) -> _Likeness:
    """All that a plan is made of, beside facts and means, but for topic and epoch.

    Where there are many members it is told by who is meant, not by what they are like: nobody else has them.
    """
    topic, groups = route.topic, route.groups
    many = len(groups) == 1 and len(groups[0].members) > _MANY
    return (
        id(groups) if many else groups, topic.policy, topic.quality, topic.framing, topic.sources,
        topic.fanout, topic.rate > 0, topic.journal > 0, topic.pick, topic.groups,
    )  # fmt: skip


def _goes_on(before: Sequence[Group], groups: Sequence[Group]) -> bool:
    """Whether the one group has the members that it had before, and then others: as where somebody comes."""
    if len(before) != 1 or len(groups) != 1:
        return False
    known = before[0].members
    return groups[0].members[: len(known)] == known


def towards(route: Route, tos: Mapping[Quality, int], behind: int = 0) -> Iterator[Destination]:
    """Where the events of a route go, with the mark of its class, ``behind`` so many of its members."""
    mark = tos.get(route.topic.quality, 0)
    members = islice((member for group in route.groups for member in group.members), behind, None)
    return (destination(member, mark) for member in members if not member.is_nobody)


class _Counted(Generic[_T]):
    """A set of what several have, each by a number of its own."""

    def __init__(self) -> None:
        self._of: dict[int, frozenset[_T]] = {}
        self._users: dict[_T, int] = {}

    def put(self, number: int, after: frozenset[_T]) -> None:
        """It has these, and no others."""
        before, users = self._of.get(number, _NOTHING), self._users
        if after is before:
            return
        if after:
            self._of[number] = after
        else:
            self._of.pop(number, None)
        for each in after - before if before else after:
            users[each] = users.get(each, 0) + 1
        for each in before - after if before else ():
            users[each] -= 1
            if not users[each]:
                del users[each]

    def all(self) -> set[_T]:
        """What anybody has."""
        return set(self._users)


class Wanted:
    """The routes that are to be in the kernel, what was planned of each, and whom all of them lead to.

    Whom they lead to is kept as they come and go. Every look at the network asks for it, on the event loop,
    and there may be tens of thousands of routes, most of them to the same members: what was found for the one
    before serves for the next that leads there, too. ``tos``: the mark of each class.
    """

    def __init__(self, tos: Mapping[Quality, int]) -> None:
        self._tos = tos
        self._destinations: _Counted[Destination] = _Counted()
        self._legs: _Counted[_Leg] = _Counted()
        self._unresolved: _Counted[_Neighbour] = _Counted()
        #: Where groups lead, with the mark of a class: of the route before; and by which interfaces.
        self._last: _Towards = (), 0, (), _NOTHING
        self._last_legs: tuple[_Towards, object, frozenset[_Leg]] = self._last, (), _NOTHING
        #: What was planned last, of which route.
        self.plans: dict[int, tuple[Route, Plan | Refusal]] = {}

    def want(self, route: Route) -> frozenset[Destination] | Refusal:
        """A topic's route is to be this one: where it leads, or why there is nothing to ask the network."""
        refusal = refuse_at_once(route)
        there = self._towards(route)[3] if refusal is None else _NOTHING
        self._destinations.put(route.topic.id, there)
        return there if refusal is None else refusal

    def planned(self, route: Route, plan: Plan | Refusal) -> None:
        """Keep in mind what was planned of it."""
        topic = route.topic.id
        self.plans[topic] = route, plan
        if isinstance(plan, Refusal):
            self._unresolved.put(topic, frozenset(plan.unresolved) if plan.unresolved else _NOTHING)
            self._legs.put(topic, _NOTHING)
        else:
            self._unresolved.put(topic, _NOTHING)
            self._legs.put(topic, self._legs_of(route, plan))

    def drop(self, topic: int) -> None:
        """A topic is to have no route there."""
        self.plans.pop(topic, None)
        for each in (self._destinations, self._legs, self._unresolved):
            each.put(topic, _NOTHING)

    def _towards(self, route: Route) -> _Towards:
        mark = self._tos.get(route.topic.quality, 0)
        groups, before, known, every = self._last
        if groups is not route.groups or before != mark:
            if before != mark or not _goes_on(groups, route.groups):
                known, every = (), _NOTHING
            new = tuple(towards(route, self._tos, len(known)))
            self._last = route.groups, mark, (*known, *new), every.union(new)
        return self._last

    def _legs_of(self, route: Route, plan: Plan) -> frozenset[_Leg]:
        last = self._towards(route)
        if self._last_legs[0] is not last or self._last_legs[1] is not plan.groups:
            (groups, mark, before, _), hops, legs = self._last_legs
            is_more = mark == last[1] and _goes_on(groups, route.groups)
            known = len(before) if is_more and hops == (plan.hops[: len(before)],) else 0
            members = (member for group in route.groups for member in group.members)
            ways = islice(zip(members, last[2], plan.hops, strict=True), known, None)
            new = ((there, hop.ifindex) for member, there, hop in ways if member.mac is None)
            self._last_legs = last, plan.groups, (legs if known else _NOTHING).union(new)
        return self._last_legs[2]

    def destinations(self) -> set[Destination]:
        """Where events of all routes go that the network is asked about."""
        return self._destinations.all()

    def neighbours(self, facts: Facts) -> set[_Neighbour]:
        """Interface and address of who is next on the way to any member whose MAC is not told."""
        used = self._unresolved.all()
        for there, ifindex in self._legs.all():
            way = facts.way_to(there)
            # Of one that has another way now, or none, the plan is about to be another.
            if way is not None and way.ifindex == ifindex:
                used.add((ifindex, way.next_hop))
        return used


def _interfaces(groups: Sequence[Sequence[Hop]]) -> list[list[int]]:
    return [[hop.wire for hop in group] for group in groups]


def _options(route: Route) -> tuple[GroupOptions, ...]:
    """What a plan needs to know of the groups; nothing where that is nothing of any."""
    if not any(each.is_of_path for each in route.topic.groups):
        return ()
    options = options_of(route)
    if not any(each.is_of_path for each in options):
        return ()
    return tuple(GroupOptions("", each.sources, each.every, each.keep) for each in options)


def _choose_way(
    wish: Fanout, groups: Sequence[Sequence[Hop]], less: Collection[int], means: Means, no_redirect: str
) -> tuple[Way, str]:
    """The way to carry these groups, and why that one; or the obstacle.

    ``less``: those that do not get all.
    """
    if len(groups) == 1 and wish is not Fanout.TC:
        if no_redirect:
            raise Obstacle(no_redirect)
        return Way.ONE, ""
    no_broadcast = means.no_broadcast or no_redirect
    if not no_broadcast:
        found = plan_broadcast(_interfaces(groups), less)
        no_broadcast = found if isinstance(found, str) else ""
    if wish is not Fanout.TC and not no_broadcast:
        return Way.BROADCAST, "copies by XDP broadcast"
    if wish is Fanout.XDP:
        raise Obstacle(f"{len(groups)} groups, and no copies by XDP, as the topic demands: {no_broadcast}")
    if means.no_clone:
        why = f"none by XDP ({no_broadcast}), " if wish is Fanout.AUTO else ""
        raise Obstacle(f"{len(groups)} groups, but no copies for them: {why}none by tc ({means.no_clone})")
    reason = "as configured" if wish is Fanout.TC else no_broadcast
    return Way.CLONE, f"copies by tc clone ({reason})"


def _beside(groups: Sequence[tuple[Hop, ...]], facts: Facts, nowhere: str) -> list[tuple[Hop, ...]]:
    """Those that no way leads to, as if they left by what others do, best of their group; or the obstacle."""
    cards = {hop.ifindex: hop.card for group in groups for hop in group if hop.ifindex}
    some = cards.keys() or {
        each.index for each in facts.interfaces.values() if each.ethernet and each.up and each.mac is not None
    }
    if not some:
        raise Obstacle(nowhere)
    found = []
    for group in groups:
        ifindex = min({hop.ifindex for hop in group} - {0} or some)
        found.append(tuple(hop if hop.ifindex else replace(hop, ifindex=ifindex, card=cards.get(ifindex, 0))
                           for hop in group))  # fmt: skip
    return found
