"""By which interfaces events come in that no program sees, and why: a pure function of the facts.

What comes in there is served by the slow path, whatever path its topic takes. Measured with a program that
counts (veth, bridge, macvlan, macvtap and VXLAN on Linux 6.1 and 6.18, the others on 6.1): in generic mode a
program on a bridge, bond, VLAN device, VXLAN, Geneve, gretap, macvlan, macvtap or ipvlan (l2) sees what that
device gets; in native mode veth and bonds alone take one. One on a port of a bridge or bond, or on what a
macvlan or ipvlan stands on, sees all of theirs as well, in either mode; one below a VLAN device sees frames
that it passes on, one below a tunnel what that wraps. WireGuard, GRE, IPIP, a VRF's device and a dummy take a
generic program that sees nothing. One on a port of a team, or of another device that does not tell from which
port it takes what comes, takes nothing (gates.py). A macvlan gets only the frames that are sent to its own
MAC, and Linux also answers for its address with the MAC of the interface that it stands on (unless
`arp_ignore` forbids that).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tempos import InterfaceStatus
from tempos_fastpath.network.facts import VRF, Facts, Interface
from tempos_fastpath.network.targets import ANY, SILENT, served_now

#: Devices that hand on all that their ports get, and those that stand on another one.
_OF_PORTS, _ABOVE = ("bridge", "bond"), ("macvlan", "macvtap", "ipvlan", "ipvtap")
_OWN_MAC = ("macvlan", "macvtap")


@dataclass(frozen=True, slots=True)
class Entrances:
    """What is served where.

    ``listen``: the addresses as configured; ``named``: whether the configuration says which interfaces carry
    a program.
    """

    listen: tuple[str, ...]
    named: bool

    def unseen(
        self, facts: Facts, carrying: Collection[int], refused: Mapping[int, str]
    ) -> tuple[InterfaceStatus, ...]:
        """The interfaces by which events can come in that no program sees, with the reasons; mode none.

        ``carrying``: indices of the interfaces with a program; ``refused``: why others have none.
        """
        found: dict[str, str] = {}
        served, _ = served_now(self.listen, facts)
        for index, addresses in self._addresses(facts).items():
            interface = facts.interfaces[index]
            for name, reason in self._unseen_at(interface, addresses, facts, carrying, refused):
                found.setdefault(name, reason)
            unknown = sorted(set(addresses) - set(served))
            if unknown:
                found.setdefault(interface.name, f"the program does not know {', '.join(unknown)}")
        return tuple(InterfaceStatus(name, "none", reason) for name, reason in found.items())

    def _addresses(self, facts: Facts) -> dict[int, list[str]]:
        """What the broker listens on, by the interfaces that have it or answer for it.

        Without those that no frame comes in by.
        """
        found: dict[int, list[str]] = {}
        for address, index in facts.addresses:
            interface = facts.interfaces[index]
            # Of one that should have carried a program and cannot, the reason says where to look instead.
            silent = interface.loopback or interface.kind == VRF or not interface.up
            silent = silent or (self.named and interface.kind in SILENT)
            if (
                not silent
                and not facts.elsewhere(interface)
                and (ANY in self.listen or address in self.listen)
            ):
                found.setdefault(index, []).append(address)
        for index, others in facts.answers.items():
            if not facts.elsewhere(facts.interfaces[index]):
                heard = [address for address in others if ANY in self.listen or address in self.listen]
                if heard:
                    found.setdefault(index, []).extend(heard)
        return dict(sorted(found.items()))

    def _unseen_at(
        self,
        interface: Interface,
        addresses: Iterable[str],
        facts: Facts,
        carrying: Collection[int],
        refused: Mapping[int, str],
    ) -> Iterable[tuple[str, str]]:
        below = facts.interfaces.get(interface.link) if interface.kind in _ABOVE else None
        if below is not None and below.index in carrying:
            return
        if interface.index in carrying:
            if below is not None and interface.kind in _OWN_MAC:
                ours = f"{', '.join(addresses)} of {interface.name}"
                yield (
                    below.name,
                    f"it has no program, and answers for {ours}; fastpath.interfaces may name it",
                )
            return
        ports = facts.ports_of(interface.index) if interface.kind in _OF_PORTS else ()
        seen = [port for port in ports if port.index in carrying]
        if seen:
            for port in ports:
                if port.index not in carrying:
                    why = refused.get(port.index) or f"a port of {interface.name} without a program"
                    yield port.name, why
            return
        yield interface.name, refused.get(interface.index) or self._why_none(interface, addresses, facts)

    def _why_none(self, interface: Interface, addresses: Iterable[str], facts: Facts) -> str:
        if not interface.ethernet:
            return "it is not an Ethernet interface"
        if not any((address, interface.index) in facts.addresses for address in addresses):
            return f"it answers for {', '.join(addresses)} as well; fastpath.interfaces may name it"
        if self.named:
            return "it is not one of fastpath.interfaces"
        return "it has had no program since its address came"
