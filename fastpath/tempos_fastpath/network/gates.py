"""What of the frames that come in by an interface is for this machine: a pure function of the facts.

The kernel's stack goes by the MAC of the interface that a frame comes in by, and by its source. An XDP
program runs before either is looked at, for promiscuous cards and ports of bridges also on frames for others.
So each program is told when it is loaded, and passes what the stack would not take, or might not:

* MACs. Of a card its own. On a port of a bridge the bridge's as well: that hands on what is for itself and
  what is for the port. On what a macvlan stands on, the macvlan's.
* Suspects: sources that the stack refuses as long as it is not set to take them; it decides.
* Senders, at a port of a bridge, which learns by what passes where each of them is: it is given an event of
  each now and then, for it hears of no other.
* Ports that take no part: what a bridge does not forward from (spanning tree), and what a bond keeps in
  reserve. All that comes in there is dropped, and may have come by another port as well. So it may be with a
  port of any other device (a team, HSR, a mesh), which tells nobody. The program stays where it is, for some
  cards lose their link when one comes or goes, and is told of no MAC.
* The way back (`rp_filter`), which only the kernel can tell (sources.py). It is that of the device that has
  the address; where MACs lead to several such, the program serves those of one.
* VLANs (vlans.py), whose frames a native program takes as what comes in by their devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tempos._abi import MAX_MACS, MAX_SUSPECTS
from tempos_fastpath.network.facts import VRF, Facts, Interface
from tempos_fastpath.network.vlans import Vlan, taken_on

_BRIDGE, _BOND = "bridge", "bond"
#: Devices that hand on what their ports get, and tell from which of them they take it.
_WITH_PORTS = (_BRIDGE, _BOND)
#: What takes frames for the MACs of its ports.
_OF_PORTS = (_BOND, "team")
_OWN_MAC, _SAME_MAC = ("macvlan", "macvtap"), ("ipvlan", "ipvtap")


@dataclass(frozen=True, slots=True)
class Gate:
    """Of one interface: the MACs whose frames are taken, and the sources that are the kernel's to judge.

    ``asks``: every source is, as what comes in by the interface of this index; 0: none but the suspects.
    ``learns``: of a port of a bridge its index; else 0. ``shut``: why nothing is taken; empty otherwise.
    ``vlans``: whose tagged frames are taken in native mode, too.
    """

    macs: tuple[str, ...]
    suspects: tuple[str, ...] = ()
    asks: int = 0
    learns: int = 0
    shut: str = ""
    vlans: tuple[Vlan, ...] = ()


def gate_of(interface: Interface, facts: Facts, *, reverse_path: bool = True) -> Gate:
    """``reverse_path``: take only what the way back of its source lets in, where the host looks at that."""
    if shut := _shut(interface, facts):
        return Gate((), shut=shut)
    by_device: dict[int, list[str]] = {}
    for mac, device in _taken(interface, facts):
        by_device.setdefault(device.index, []).append(mac)
    unclear = facts.vague or len(facts.suspects) > MAX_SUSPECTS
    devices = taken_on(interface, facts)
    asking = {
        index
        for index in (*by_device, *(each.index for each in devices))
        if unclear or (reverse_path and facts.reverse_paths.get(index, 1) != 0)
    }
    carrying = {index for _, index in facts.addresses}
    chosen = next((index for index in by_device if index in carrying), interface.index)
    if not asking.isdisjoint(by_device):
        by_device = {chosen: by_device.get(chosen, [])}
    macs = tuple(dict.fromkeys(mac for each in by_device.values() for mac in each))
    return Gate(
        macs[:MAX_MACS],
        () if unclear else facts.suspects,
        asks=chosen if chosen in asking else 0,
        learns=interface.index if any(each.kind == _BRIDGE for each in above(interface, facts)) else 0,
        vlans=tuple(
            Vlan(each.vlan, each.index, each.index if each.index in asking else 0) for each in devices
        ),
    )


def _taken(interface: Interface, facts: Facts) -> Iterable[tuple[str, Interface]]:
    """Each MAC that the stack takes frames for there, with the device that they then come in by for it."""
    found = [interface, *above(interface, facts)]
    top = found[-1]
    device = _carrier(top, facts)
    ports = facts.ports_of(interface.index) if interface.kind in _OF_PORTS else ()
    for each in (interface, *ports, *(bridge for bridge in found[1:] if bridge.kind == _BRIDGE)):
        if each.mac is not None:
            yield each.mac, device
    for each in facts.interfaces.values():
        if each.kind in _OWN_MAC and each.mac is not None and any(each.link == one.index for one in found):
            yield each.mac, each


def _shut(interface: Interface, facts: Facts) -> str:
    """Why all that comes in by an interface is dropped, or may be; empty if it is not."""
    for port in (interface, *above(interface, facts)):
        master = facts.interfaces.get(port.master)
        # A VRF drops nothing. A card that has a port is one of a virtual machine with another in reserve, and
        # the host sends what is for it to one of the two.
        if master is None or master.kind in ("", VRF):
            continue
        if master.kind not in _WITH_PORTS:
            return f"{master.name} does not tell whether it takes what comes in by its port {port.name}"
        if port.shut and master.kind == _BRIDGE:
            return f"{master.name} does not forward from its port {port.name} now"
        if port.shut:
            return f"{master.name} keeps its port {port.name} in reserve now"
    return ""


def above(interface: Interface, facts: Facts) -> list[Interface]:
    """What it is a port of, and what that is a port of."""
    found = [interface]
    while (master := facts.interfaces.get(found[-1].master)) is not None and master.kind in _WITH_PORTS:
        found.append(master)
    return found[1:]


def _carrier(top: Interface, facts: Facts) -> Interface:
    """Who has the addresses of what comes in with a device's own MAC."""
    sharing = [
        each for each in facts.interfaces.values() if each.kind in _SAME_MAC and each.link == top.index
    ]
    carrying = {index for _, index in facts.addresses}
    return next((each for each in (top, *sharing) if each.index in carrying), top)
