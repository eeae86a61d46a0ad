"""How a program knows of VLAN tags, by the device it is on, what stands on that, and what it stands on."""

from __future__ import annotations

import pytest

from tempos._abi import Tags
from tempos_bpf.links import XdpMode
from tempos_fastpath.network.facts import Facts, Interface
from tempos_fastpath.network.tags import Obstacle, Told, how_told

CARD, VETH, BOND = 2, 3, 9


def device(index: int, name: str, kind: str = "", *, link: int = 0, master: int = 0,
           strips: bool = False) -> Interface:  # fmt: skip
    return Interface(index, name, "02:00:00:00:00:01", 1500, True, True, True, kind, link, master, strips)


def facts(*devices: Interface) -> Facts:
    return Facts({each.index: each for each in devices}, (), {})


def told(index: int, *devices: Interface, mode: XdpMode = XdpMode.NATIVE, readable: bool = True,
         heard: set[int] = frozenset()) -> Tags | str:  # type: ignore[assignment]  # fmt: skip
    network = facts(*devices)
    found = how_told(network.interfaces[index], network, mode, readable=readable, heard=heard)
    return found.reason if isinstance(found, Obstacle) else found.tags


def test_native_by_driver() -> None:
    assert told(CARD, device(CARD, "eth0")) is Tags.IN_FRAME
    assert told(CARD, device(CARD, "eth0", strips=True)) is Tags.HEARD
    assert told(VETH, device(VETH, "veth0", "veth")) is Tags.READ
    assert told(VETH, device(VETH, "veth0", "veth"), readable=False) is Tags.HEARD
    assert told(5, device(5, "tap0", "tun")) is Tags.IN_FRAME


@pytest.mark.parametrize("mode", XdpMode)
def test_a_vlan_device_gets_frames_without_their_tags(mode: XdpMode) -> None:
    card = device(CARD, "eth0", strips=True)
    vlan = device(4, "eth0.10", "vlan", link=CARD)
    assert told(4, card, vlan, mode=mode) is Tags.IN_FRAME


def test_a_card_with_vlans_on_it_says_what_to_do() -> None:
    card = device(CARD, "eth0", strips=True)
    vlan = device(4, "eth0.10", "vlan", link=CARD)
    macvlan = device(5, "macvlan0", "macvlan", link=CARD)
    assert told(CARD, card, macvlan) is Tags.HEARD
    assert told(CARD, card, vlan) == (
        "eth0 takes VLAN tags off and does not tell the program "
        "(`ethtool -K eth0 rxvlan off` leaves them in), and the VLAN device eth0.10 stands on it"
    )
    assert told(CARD, device(CARD, "eth0"), vlan) is Tags.IN_FRAME
    assert told(CARD, card, vlan, mode=XdpMode.GENERIC) is Tags.NOTED


def test_what_was_heard_of_bars_native_mode_where_nothing_else_tells() -> None:
    card, veth = device(CARD, "eth0", strips=True), device(VETH, "veth0", "veth")
    assert "frames with tags come in there" in str(told(CARD, card, veth, heard={CARD}))
    assert told(CARD, card, veth, heard={VETH}) is Tags.HEARD
    assert told(VETH, card, veth, heard={VETH}) is Tags.READ
    assert "come in there" in str(told(VETH, card, veth, heard={VETH}, readable=False))
    assert told(VETH, card, veth, heard={VETH}, mode=XdpMode.GENERIC) is Tags.NOTED


def test_a_bond_is_what_its_ports_are() -> None:
    bond = device(BOND, "bond0", "bond", strips=True)
    veths = [device(10 + i, f"veth{i}", "veth", master=BOND) for i in range(2)]
    card, plain = device(20, "eth0", master=BOND, strips=True), device(21, "eth1", master=BOND)
    assert told(BOND, bond, *veths) is Tags.READ
    assert told(BOND, bond, plain) is Tags.IN_FRAME
    network = facts(bond, *veths, card, plain)
    mixed = how_told(bond, network, XdpMode.NATIVE, readable=True)
    assert mixed == Told(Tags.HEARD, (10, 11, 20)), "what is read of veth is something else of a card"
    vlan = device(30, "bond0.5", "vlan", link=BOND)
    assert "bond0.5 stands on it" in str(told(BOND, bond, card, vlan))


def test_what_stands_on_a_vlan_device_has_no_tags_of_its_own_to_go_by() -> None:
    card, vlan = device(CARD, "eth0"), device(4, "eth0.10", "vlan", link=CARD)
    macvlan = device(5, "macvlan0", "macvlan", link=4)
    bond, port = device(BOND, "bond0", "bond"), device(6, "eth0.11", "vlan", link=CARD, master=BOND)
    bridge, bridged = device(7, "br0", "bridge"), device(8, "eth0.12", "vlan", link=CARD, master=7)
    everything = (card, vlan, macvlan, bond, port, bridge, bridged)
    generic = {index: told(index, *everything, mode=XdpMode.GENERIC) for index in (5, BOND, 7)}
    assert generic == {
        5: "macvlan0 stands on the VLAN device eth0.10, whose tags could be taken for its own",
        BOND: "bond0 stands on the VLAN device eth0.11, whose tags could be taken for its own",
        7: Tags.NOTED,
    }
