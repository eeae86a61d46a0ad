"""How events get to a member: the interface they leave by, both MACs and addresses, or what keeps them.

A pure function of the network's facts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from tempos import Member
from tempos_fastpath.network.facts import VRF, Facts, Interface, Way, destination
from tempos_fastpath.network.ipsec import Flow, hindrance
from tempos_fastpath.network.vlans import card_below

MAX_U16 = 0xFFFF
#: Of a member that no way leads to.
_NO_MAC, _NO_SOURCE = "00:00:00:00:00:00", "0.0.0.0"  # noqa: S104 - nothing is bound to it


@dataclass(frozen=True, slots=True)
class Hop:
    """The way to one member: the interface it leaves by, and both MACs and addresses.

    ``source``: the address of ours that its events leave from. ``mac`` is empty for one that is left out:
    what it is ticketed is dropped. Where that is because no way leads there, the interface is one that others
    leave by, or any, so that it makes no difference to them. ``card``: where the interface is a VLAN device,
    what programs hand its frames to, with the tag of that ``vlan`` in front; else 0.
    """

    ip: str
    port: int
    ifindex: int
    source_mac: str
    mac: str
    source: str
    weight: int = 1
    card: int = 0
    vlan: int = 0

    @property
    def wire(self) -> int:
        """The index of the interface that programs hand its frames to."""
        return self.card or self.ifindex

    @property
    def left_out(self) -> bool:
        return not self.mac


class Obstacle(Exception):
    """What stands against a route, in words."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the leg to a member goes by.

    ``native``: frames are redirected from a driver, which the egress must support; ``port``: what events
    leave from. ``left_out``: places (an address, and that of ours) that the others do not wait for.
    ``mark``: that byte of the IPv4 header of what leaves.
    """

    facts: Facts
    native: bool
    port: int
    left_out: Collection[tuple[str, str | None]]
    mark: int


@dataclass(slots=True)
class Leg:
    """What was found of the way to a member. ``hop`` None: it ``waits``, in words, for who is ``next``.

    ``nowhere``: why no way leads there; the hop is then without an interface. ``no_redirect``: why none can
    be redirected by it.
    """

    member: Member
    hop: Hop | None
    mtu: int = MAX_U16
    no_redirect: str = ""
    nowhere: str = ""
    next: tuple[int, str] = (0, "")
    waits: str = ""


def leg_to(member: Member, given: Given, *, keep: bool) -> Leg:
    """How events get to a member, ``keep``: from the address of whoever sent them; or the obstacle."""
    facts, mark = given.facts, given.mark
    absent = (member.ip, member.source) in given.left_out
    try:
        egress, towards = _egress(member, facts, mark)
    except Obstacle as found:
        if not (absent or _is_nowhere(member, facts, mark, keep=keep)):
            raise
        hop = Hop(member.ip, member.port, 0, _NO_MAC, "", _NO_SOURCE, member.weight)
        return Leg(member, hop, nowhere=str(found))
    flow = Flow(towards.source, given.port, member.ip, member.port, egress.index)
    if keep:
        flow = replace(flow, source=None, source_port=None)
    if why := hindrance(facts.policies, flow, outgoing=True):
        raise Obstacle(f"member {member}: {why}")
    leg = Leg(member, None, next=(egress.index, towards.next_hop))
    wire, vlan = _wire_of(egress, given)
    mac = member.mac or facts.mac_of(*leg.next)
    if mac is None and absent:
        # Nothing goes there, whatever would.
        mac = ""
    else:
        leg.mtu = min(egress.mtu, towards.mtu or MAX_U16)
        if given.native and not wire.takes_redirects:
            leg.no_redirect = _no_redirect(member, wire)
        elif not given.native and (loses := _losing(egress, facts)) is not None:
            leg.no_redirect = _lost(member, egress, loses)
    if mac is None:
        via = "" if towards.next_hop == member.ip else f", its gateway {towards.next_hop}"
        leg.waits = f"{member}{via} on {egress.name}"
    else:
        assert egress.mac is not None, "_egress takes Ethernet only"
        leg.hop = Hop(
            member.ip,
            member.port,
            egress.index,
            egress.mac,
            mac,
            towards.source,
            member.weight,
            wire.index if vlan else 0,
            vlan,
        )
    return leg


def _egress(member: Member, facts: Facts, tos: int) -> tuple[Interface, Way]:
    """The interface and the way towards a member, or the obstacle there is."""
    way = facts.way_to(destination(member, tos))
    if way is None or way.obstacle is not None:
        why = way.obstacle if way is not None else "no route to it"
        raise Obstacle(f"member {member}: {why}")
    interface = facts.interfaces.get(way.ifindex)
    if interface is None:
        raise Obstacle(f"member {member}: the interface towards it is gone")
    if not interface.ethernet or interface.mac is None:
        raise Obstacle(f"member {member}: {interface.name} towards it is not an Ethernet")
    if not interface.up:
        raise Obstacle(f"member {member}: {interface.name} towards it is down")
    if not way.source:
        raise Obstacle(f"member {member}: the kernel names no address that its events would leave from")
    return interface, way


def _wire_of(egress: Interface, given: Given) -> tuple[Interface, int]:
    """What programs hand frames to that leave by an interface, and the VLAN that they are in there, or 0."""
    card = card_below(egress, given.facts) if given.native and not egress.takes_redirects else None
    return (egress, 0) if card is None else (card, egress.vlan)


def _is_nowhere(member: Member, facts: Facts, tos: int, *, keep: bool) -> bool:
    """Whether the slow path would get nothing to it either; ``keep``: from the address of whoever sent it."""
    way = facts.way_to(destination(member, tos))
    if way is None or not way.nowhere:
        return False
    return not keep or member.source is None or any(member.source == ours for ours, _ in facts.addresses)


_SOME_DO = "some drivers do only while an XDP program is attached to the card"
#: Of a device that takes no redirected frames, by its kind: what to do, or that there is nothing.
_NONE_TAKEN = {
    "": _SOME_DO,
    "veth": "of a veth: switch GRO on at its peer while that is up, or attach an XDP program there",
    "bond": f"a bond does where its ports do; {_SOME_DO}",
    "tun": "of a tap: some program must have it open",
}
#: Kinds of devices that lose, without a word, what generic XDP hands to them: seen on Linux 6.1.
_LOSING = ("macsec",)


def _losing(interface: Interface, facts: Facts) -> Interface | None:
    """What loses of that which is redirected there: the device, or one that it hands frames to."""
    seen, found = {interface.index}, [interface]
    for each in found:
        if each.kind in _LOSING:
            return each
        below = facts.interfaces.get(each.link)
        further = (*facts.ports_of(each.index), *([below] if below is not None else []))
        # A VRF sends nothing by itself: its ports have their own routes.
        new = [one for one in further if one.index not in seen and each.kind != VRF]
        seen.update(one.index for one in new)
        found += new
    return None


def _lost(member: Member, interface: Interface, loses: Interface) -> str:
    stands = "" if loses is interface else f"sends by {loses.name}, which "
    return (
        f"member {member}: {interface.name} towards it {stands}loses what generic mode redirects "
        f"(a device of the kind {loses.kind} may)"
    )


def _no_redirect(member: Member, interface: Interface) -> str:
    name, why = interface.name, interface.redirects_why
    if interface.takes_redirects is None:
        return f"member {member}: whether {name} towards it takes redirected frames is not known ({why})"
    hint = _NONE_TAKEN.get(interface.kind, f"a device of the kind {interface.kind} never does")
    found = f"{why}; {hint}" if why else hint
    return f"member {member}: {name} towards it takes no redirected frames ({found})"
