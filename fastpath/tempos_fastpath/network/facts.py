"""The network as one immutable snapshot: interfaces, addresses, ways to destinations, neighbours' MACs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import NamedTuple

from tempos import Member
from tempos_fastpath.network.ipsec import Policy

#: What the kernel calls a device that stands for a VRF: routing tables of its own for its ports.
VRF = "vrf"


class Destination(NamedTuple):
    """All that the kernel may choose a way for events by: where they go, and with what in their header.

    ``source``: the address of ours that they leave from; None: the one that the kernel prefers. ``port``: of
    the member; 0: any. ``tos``: that byte of the IPv4 header.
    """

    ip: str
    source: str | None = None
    port: int = 0
    tos: int = 0


def destination(member: Member, tos: int = 0) -> Destination:
    """Where the events of a member go, of a topic whose events have this byte."""
    return Destination(member.ip, member.source, member.port, tos)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. ``mtu`` in bytes of IP packet.

    ``takes_redirects``: whether native XDP may redirect frames to it; None where that is not known.
    ``redirects_why``: what was found out by trying, in place of the kernel's word; empty if nothing was.
    ``kind``: what sort of virtual device, in the kernel's word (veth, vlan, bond, ...); empty for a card.
    ``link``: the index of the interface that it stands on, ``master`` of the one that it is a port of; 0 for
    none. ``strips_tags``: its driver takes VLAN tags off frames (``ethtool -k``: rx-vlan-offload).
    ``loopback``: no frame comes in by it from elsewhere. ``separates``: a bridge that keeps VLANs apart
    (`vlan_filtering`). ``shut``: a port that its bridge does not forward from now, or that its bond keeps in
    reserve: what comes in by it is dropped. ``flaps``: how often it has lost its carrier or found it.
    ``vlan``: of a VLAN device of IEEE 802.1Q its id, else 0; ``prioritizes``: it puts priorities into the
    tags of what leaves (`egress-qos-map`). ``runs_native``: whether its driver runs XDP programs; False where
    the kernel does not say.
    """

    index: int
    name: str
    mac: str | None
    mtu: int
    up: bool
    ethernet: bool
    takes_redirects: bool | None
    kind: str = ""
    link: int = 0
    master: int = 0
    strips_tags: bool = False
    redirects_why: str = ""
    loopback: bool = False
    separates: bool = False
    shut: bool = False
    flaps: int = 0
    vlan: int = 0
    prioritizes: bool = False
    runs_native: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """The route to a destination, or the ``obstacle``. ``mtu`` is 0 where the route names none.

    ``source``: the address of ours that it leads away from. ``nowhere``: the kernel takes nothing for there
    from anybody, so no path would get it any further.
    """

    ifindex: int = 0
    next_hop: str = ""
    mtu: int = 0
    source: str = ""
    obstacle: str | None = None
    nowhere: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One snapshot. ``addresses`` are (IPv4 address, interface index), ``ways`` by destination.

    ``bound``: the index of the interface that every socket of this process is bound to when it is made, as
    inside of `ip vrf exec`; 0 for none. Addresses and ways are looked up as such a socket would.
    ``from_vrfs``: sockets that are bound to none get what comes in by VRFs, too (`udp_l3mdev_accept`).
    ``suspects``: addresses that, as a source, the kernel would refuse unless it is set to take them: this
    machine's own, broadcasts. ``vague``: there are whole networks of such, beside those that always are.
    ``reverse_paths``: interface index -> whether the kernel looks at the way back of what comes in there: 0
    not, 1 strictly, 2 loosely. ``policies``: IPsec's. ``by_port``: ways may differ by the port that events go
    to; else those in ``ways`` are of port 0. ``answers``: interface index -> addresses of other interfaces
    that it answers for at its own link. ``hops``: who is next on any way, by interface index and address.
    """

    interfaces: dict[int, Interface]
    addresses: tuple[tuple[str, int], ...]
    ways: dict[Destination, Way]
    neighbours: dict[tuple[int, str], str] = field(default_factory=dict)
    bound: int = 0
    from_vrfs: bool = False
    suspects: tuple[str, ...] = ()
    vague: bool = False
    reverse_paths: dict[int, int] = field(default_factory=dict)
    policies: tuple[Policy, ...] = ()
    by_port: bool = False
    answers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    hops: frozenset[tuple[int, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hops", frozenset((way.ifindex, way.next_hop) for way in self.ways.values()))

    def key(self, towards: Destination) -> Destination:
        """What ``ways`` has its way under."""
        if self.by_port or not towards.port:
            return towards
        return Destination(towards.ip, towards.source, 0, towards.tos)

    def lacks(self, wanted: Iterable[Destination]) -> set[Destination]:
        """What ``ways`` would have those under that no way to is known, nor that there is none."""
        ways = self.ways
        if self.by_port:
            return {each for each in wanted if each not in ways}
        # There may be thousands, of which most are known: looked for without making a key of each.
        return {self.key(each) for each in wanted if (each.ip, each.source, 0, each.tos) not in ways}

    def way_to(self, towards: Destination) -> Way | None:
        """The way to there, as far as it is known."""
        return self.ways.get(self.key(towards))

    def mac_of(self, ifindex: int, ip: str) -> str | None:
        return self.neighbours.get((ifindex, ip))

    def knows(self, ifindex: int, ip: str, mac: str) -> bool:
        """Whether this is what is known of a neighbour; no MAC: none that can be used."""
        return self.neighbours.get((ifindex, ip), "") == mac

    def holds(self, ifindex: int, ip: str, mac: str) -> bool:
        """The same, or that nobody asks: he is next on no way."""
        return (ifindex, ip) not in self.hops or self.knows(ifindex, ip, mac)

    def contradicts(self, before: Facts) -> bool:
        """Whether what rests on an earlier snapshot may be otherwise by this one.

        Ways that are new, ways that nobody asks for any more, and neighbours on none of them contradict
        nothing.
        """
        if self is before:
            return False
        # Most of both is the same object, and there may be thousands of ways.
        ways = self.ways.get
        others = (now for towards, way in before.ways.items() if (now := ways(towards, way)) is not way
                  and now != way)  # fmt: skip
        neighbours, known = self.neighbours, before.neighbours
        return (
            any(getattr(self, each) != getattr(before, each) for each in _BESIDE)
            or any(others)
            or (neighbours is not known
                and any(neighbours.get(hop) != known.get(hop) for hop in before.hops))
        )  # fmt: skip

    def by_name(self, name: str) -> Interface | None:
        return next((each for each in self.interfaces.values() if each.name == name), None)

    def ports_of(self, ifindex: int) -> tuple[Interface, ...]:
        """The interfaces that have this one as their master."""
        return tuple(each for each in self.interfaces.values() if each.master == ifindex)

    def vlans_on(self, ifindex: int) -> tuple[Interface, ...]:
        """The VLAN devices that stand on this one."""
        return tuple(
            each for each in self.interfaces.values() if each.link == ifindex and each.kind == "vlan"
        )

    def carriers(self, listen: Collection[str]) -> tuple[Interface, ...]:
        """The Ethernet interfaces that carry one of the addresses, in the kernel's order."""
        wanted = {index for address, index in self.addresses if address in listen}
        return tuple(self.interfaces[index] for index in sorted(wanted) if self._is_for_us(index))

    def local_addresses(self) -> tuple[str, ...]:
        """Every address of an Ethernet interface, then what stands on loopback and others may send to."""
        own = [address for address, index in self.addresses if self._is_for_us(index)]
        beside = [address for address, index in self.addresses
                  if self.interfaces[index].loopback and not self.elsewhere(self.interfaces[index])
                  and not ip_address(address).is_loopback]  # fmt: skip
        return tuple(dict.fromkeys((*own, *beside)))

    def vrf_of(self, interface: Interface) -> Interface | None:
        """The VRF that an interface is in, by itself or with the one that it is a port of."""
        while interface.kind != VRF:
            master = self.interfaces.get(interface.master)
            if master is None:
                return None
            interface = master
        return interface

    def elsewhere(self, interface: Interface) -> str:
        """Why an interface is in no network of this process's sockets; empty if it is in one.

        VRFs keep networks apart, which may well have the same addresses.
        """
        vrf, bound = self.vrf_of(interface), self.interfaces.get(self.bound)
        if vrf is not None and vrf.index == self.bound:
            return ""
        if bound is not None and bound.kind != VRF:
            return "" if bound.index == interface.index else f"the broker is bound to {bound.name}"
        if bound is not None:
            return f"it is not in the VRF {bound.name}, where the broker is"
        if vrf is not None and not self.from_vrfs:
            way_in = f"`ip vrf exec {vrf.name} tempos broker ...`"
            return f"it is in the VRF {vrf.name}, and the broker is not ({way_in})"
        return ""

    def _is_for_us(self, ifindex: int) -> bool:
        interface = self.interfaces[ifindex]
        # What comes in for an address of the VRF's own device comes in by one of its ports.
        return interface.ethernet and interface.kind != VRF and not self.elsewhere(interface)


#: Fields of facts beside ways and neighbours.
_BESIDE = tuple({each.name for each in fields(Facts) if each.compare} - {"ways", "neighbours"})
