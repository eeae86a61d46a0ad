"""How the program on an interface learns of VLAN tags that lie beside a frame: a pure function of the facts.

Cards and veth take a frame's tag off before an XDP program runs. What had one is for a VLAN device, or for
nobody, and that is for the kernel to decide; so a program that could not tell is not attached. How each kind
of knowledge is had: fastpath/bpf/tag.h.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tempos._abi import Tags
from tempos_bpf.links import XdpMode
from tempos_fastpath.network.facts import Facts, Interface

VETH, VLAN = "veth", "vlan"


@dataclass(frozen=True, slots=True)
class Told:
    """How tags are known. ``heard_at``: of Tags.HEARD, where tagged frames are listened for."""

    tags: Tags
    heard_at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a program in that mode could not tell, and what to do."""

    reason: str


def how_told(
    interface: Interface, facts: Facts, mode: XdpMode, *, readable: bool, heard: Collection[int] = ()
) -> Told | Obstacle:
    """How a program on ``interface`` knows of tags.

    ``readable``: this kernel's veth shows its socket buffers to native programs. ``heard``: the interfaces at
    which tagged frames were heard of.
    """
    if mode is XdpMode.GENERIC:
        return _in_generic_mode(interface, facts)
    # A bond's program runs in its ports' drivers.
    parts = facts.ports_of(interface.index) or (interface,)
    stripping = [each for each in parts if each.kind == VETH or each.strips_tags]
    if not stripping:
        return Told(Tags.IN_FRAME)
    if readable and all(each.kind == VETH for each in parts):
        return Told(Tags.READ)
    return _unless_tagged(interface, stripping, facts, heard)


def _in_generic_mode(interface: Interface, facts: Facts) -> Told | Obstacle:
    if interface.kind == VLAN:
        # The kernel has taken the tag off for good when it hands a frame to a VLAN device.
        return Told(Tags.IN_FRAME)
    below = _vlan_below(interface, facts)
    if below is not None:
        return Obstacle(
            f"{interface.name} stands on the VLAN device {below.name}, whose tags could be taken for its own"
        )
    return Told(Tags.NOTED)


def _vlan_below(interface: Interface, facts: Facts) -> Interface | None:
    """The VLAN device that an interface gets its frames from in the same turn of the kernel, if any."""
    below = facts.interfaces.get(interface.link)
    sources = [below] if below is not None else []
    if interface.kind != "bridge":
        # A bridge takes frames in as new ones.
        sources += facts.ports_of(interface.index)
    for each in sources:
        found = each if each.kind == VLAN else _vlan_below(each, facts)
        if found is not None:
            return found
    return None


def _unless_tagged(
    interface: Interface, stripping: Sequence[Interface], facts: Facts, heard: Collection[int]
) -> Told | Obstacle:
    """Of drivers that do not tell: until there are VLANs."""
    names = ", ".join(each.name for each in stripping)
    what = f"{names} takes VLAN tags off and does not tell the program"
    if all(each.kind != VETH for each in stripping):
        what += f" (`ethtool -K {stripping[0].name} rxvlan off` leaves them in)"
    vlans = [vlan.name for each in (interface, *stripping) for vlan in facts.vlans_on(each.index)]
    if vlans:
        return Obstacle(f"{what}, and the VLAN device {vlans[0]} stands on it")
    if any(each.index in heard for each in stripping):
        return Obstacle(f"{what}, and frames with tags come in there")
    return Told(Tags.HEARD, tuple(each.index for each in stripping))
