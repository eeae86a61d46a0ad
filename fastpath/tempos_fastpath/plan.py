"""Whether the kernel can carry a route, and how: a pure function of the route and the network's facts.

A :class:`Plan` is what the kernel's route is made of, a :class:`Refusal` says in words for people why
there is none. Both are values: two of them differ exactly if something relevant changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tempos import Framing, Member, PathPolicy, Quality, Route, _abi
from tempos_fastpath.facts import Facts, Interface

MAX_U16 = 0xFFFF


@dataclass(frozen=True, slots=True)
class Hop:
    """The way to one member: the interface it leaves by, and both MACs."""

    ip: str
    port: int
    ifindex: int
    source_mac: str
    mac: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A route with one group that the kernel can carry; ``mtu`` is the smallest towards any member.

    ``sources``: the networks whose events are taken, CIDR; none: from anywhere. ``tos``: that byte of the
    IPv4 header of what leaves. ``limited``: the topic has a rate, which the kernel finds elsewhere.
    """

    topic: int
    epoch: int
    framing: Framing
    mtu: int
    hops: tuple[Hop, ...]
    sources: tuple[str, ...] = ()
    tos: int = 0
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the kernel cannot carry a route; ``unresolved``: (interface index, IP) of the MACs it lacks."""

    reason: str
    unresolved: tuple[tuple[int, str], ...] = ()


class _Obstacle(Exception):
    """Ends the planning of a route with its reason."""


def refuse_at_once(route: Route) -> Refusal | None:
    """What can be said without looking at the network."""
    if route.topic.policy is PathPolicy.SLOW:
        return Refusal("the topic's policy is slow")
    if not route.groups:
        return Refusal("the topic has no member")
    if len(route.groups) != 1:
        return Refusal(f"{len(route.groups)} groups: the fast path carries topics of one group")
    if len(route.topic.sources) > _abi.MAX_SOURCES:
        count = len(route.topic.sources)
        return Refusal(f"{count} source networks: the fast path checks at most {_abi.MAX_SOURCES}")
    count = len(route.groups[0].members)
    if not 1 <= count <= _abi.MAX_MEMBERS:
        return Refusal(f"{count} members in one group: the fast path carries 1 to {_abi.MAX_MEMBERS}")
    return None


def plan_route(
    route: Route, facts: Facts, *, native: bool, tos: Mapping[Quality, int] | None = None
) -> Plan | Refusal:
    """Plan ``route``. ``native``: frames may be redirected from a driver, which the egress must support.

    ``tos``: the byte of the IPv4 header that marks what leaves of each class; without it 0.
    """
    refusal = refuse_at_once(route)
    if refusal is not None:
        return refusal
    hops: list[Hop] = []
    unresolved: list[tuple[int, str]] = []
    waiting: list[str] = []
    mtu = MAX_U16
    try:
        for member in route.groups[0].members:
            egress, next_hop, path_mtu = _egress(member, facts, native=native)
            mtu = min(mtu, path_mtu)
            mac = member.mac or facts.mac_of(egress.index, next_hop)
            if mac is None:
                unresolved.append((egress.index, next_hop))
                via = "" if next_hop == member.ip else f", its gateway {next_hop}"
                waiting.append(f"{member}{via} on {egress.name}")
            else:
                assert egress.mac is not None, "_egress takes Ethernet only"
                hops.append(Hop(member.ip, member.port, egress.index, egress.mac, mac))
    except _Obstacle as obstacle:
        return Refusal(str(obstacle))
    if unresolved:
        more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        return Refusal(f"no MAC address yet of member {waiting[0]}{more}", tuple(dict.fromkeys(unresolved)))
    topic = route.topic
    return Plan(
        topic.id,
        route.epoch,
        topic.framing,
        mtu,
        tuple(hops),
        topic.sources,
        tos=(tos or {}).get(topic.quality, 0),
        limited=topic.rate > 0,
    )


def _egress(member: Member, facts: Facts, *, native: bool) -> tuple[Interface, str, int]:
    """The interface, the next hop and the MTU towards a member, or the obstacle there is."""
    way = facts.ways.get(member.ip)
    if way is None or way.obstacle is not None:
        why = way.obstacle if way is not None else "no route to it"
        raise _Obstacle(f"member {member}: {why}")
    interface = facts.interfaces.get(way.ifindex)
    if interface is None:
        raise _Obstacle(f"member {member}: the interface towards it is gone")
    if not interface.ethernet or interface.mac is None:
        raise _Obstacle(f"member {member}: {interface.name} towards it is not an Ethernet")
    if not interface.up:
        raise _Obstacle(f"member {member}: {interface.name} towards it is down")
    if native and interface.takes_redirects is False:
        raise _Obstacle(
            f"member {member}: {interface.name} towards it takes no redirected frames "
            "(of a veth: switch GRO on at its peer, or attach an XDP program there)"
        )
    return interface, way.next_hop, min(interface.mtu, way.mtu or MAX_U16)
