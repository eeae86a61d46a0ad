"""Which VLANs' frames programs take and send with their tags, below the devices: pure functions of the facts.

No driver runs a program for a VLAN device, and none of those takes redirected frames (Linux 6.18). So a
native program on the card below takes what is tagged for the device, and puts the tag in front of what goes
to a member there. Only tags of IEEE 802.1Q, one a frame: what else a device would do is the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempos._abi import MAX_VLANS, VLAN_SHIFT
from tempos_fastpath.network.facts import Facts, Interface

#: Kinds of what may be below: cards, their like, and bonds of them.
_CARDS = ("", "veth", "bond")


@dataclass(frozen=True, slots=True)
class Vlan:
    """``id``: in its tags; ``ifindex``: of its device; ``asks``: as of a gate, of that device."""

    id: int
    ifindex: int
    asks: int = 0


def card_below(device: Interface, facts: Facts) -> Interface | None:
    """What a VLAN device stands on, where a program can send by that as the device would; None: it cannot."""
    card = facts.interfaces.get(device.link)
    if card is None or not device.vlan or device.prioritizes or card.kind not in _CARDS:
        return None
    return card if card.ethernet and card.up and card.index >> VLAN_SHIFT == 0 else None


def taken_on(card: Interface, facts: Facts) -> tuple[Interface, ...]:
    """The VLAN devices whose frames a native program on a card takes in their stead, by index."""
    if card.master or card.kind not in _CARDS:
        return ()
    with_addresses = {index for _, index in facts.addresses}
    under_others = {each.link for each in facts.interfaces.values()}
    fit = (
        each
        for each in facts.vlans_on(card.index)
        if each.vlan and each.up and each.mac == card.mac and not each.master
        and each.index in with_addresses - under_others and not facts.elsewhere(each)
    )  # fmt: skip
    return tuple(sorted(fit, key=lambda each: each.index)[:MAX_VLANS])
