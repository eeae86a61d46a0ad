"""The network as one immutable snapshot: interfaces, addresses, ways to destinations, neighbours' MACs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tempos import Member

#: Where events go, and the address of ours that they leave from; None: the one that the kernel prefers.
Destination = tuple[str, "str | None"]


def destination(member: Member) -> Destination:
    """Where the events of a member go, and from which address."""
    return member.ip, member.source


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. ``mtu`` in bytes of IP packet.

    ``takes_redirects``: whether native XDP may redirect frames to it; None where that is not known.
    ``redirects_why``: what was found out by trying, in place of the kernel's word; empty if nothing was.
    ``kind``: what sort of virtual device, in the kernel's word (veth, vlan, bond, ...); empty for a card.
    ``link``: the index of the interface that it stands on, ``master`` of the one that it is a port of; 0 for
    none. ``strips_tags``: its driver takes VLAN tags off frames (``ethtool -k``: rx-vlan-offload).
    ``loopback``: no frame comes in by it from elsewhere.
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


@dataclass(frozen=True, slots=True)
class Way:
    """The route to a destination, or the ``obstacle``. ``mtu`` is 0 where the route names none.

    ``source``: the address of ours that it leads away from.
    """

    ifindex: int = 0
    next_hop: str = ""
    mtu: int = 0
    source: str = ""
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One snapshot. ``addresses`` are (IPv4 address, interface index), ``ways`` by destination."""

    interfaces: dict[int, Interface]
    addresses: tuple[tuple[str, int], ...]
    ways: dict[Destination, Way]
    neighbours: dict[tuple[int, str], str] = field(default_factory=dict)

    def mac_of(self, ifindex: int, ip: str) -> str | None:
        return self.neighbours.get((ifindex, ip))

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
        return tuple(self.interfaces[index] for index in sorted(wanted) if self.interfaces[index].ethernet)

    def local_addresses(self) -> tuple[str, ...]:
        """Every address of an Ethernet interface."""
        return tuple(
            dict.fromkeys(address for address, index in self.addresses if self.interfaces[index].ethernet)
        )
