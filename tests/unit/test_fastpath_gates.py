"""Whose frames the program on an interface takes, and of whose sources the kernel is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tempos._abi import MAX_MACS, MAX_SUSPECTS
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.network.facts import Facts, Interface
from tempos_fastpath.network.gates import Gate, gate_of

OWN = ("10.0.1.1", "10.0.1.255")


def mac(index: int) -> str:
    return f"02:00:00:00:00:{index:02x}"


def device(index: int, kind: str = "", *, link: int = 0, master: int = 0) -> Interface:
    return Interface(index, f"if{index}", mac(index), 1500, True, True, True, kind, link, master)


def gate(of: int, carrying: set[int], *devices: Interface, reverse_paths: dict[int, int] | None = None,
         suspects: tuple[str, ...] = OWN, vague: bool = False,
         reverse_path: bool = True) -> Gate:  # fmt: skip
    quiet = {each.index: 0 for each in devices}
    facts = Facts(
        {each.index: each for each in devices}, tuple((f"10.0.{index}.1", index) for index in carrying), {},
        suspects=suspects, vague=vague, reverse_paths=quiet | (reverse_paths or {}),
    )  # fmt: skip
    return gate_of(facts.interfaces[of], facts, reverse_path=reverse_path)


def test_a_card_takes_what_is_for_its_own_mac() -> None:
    assert gate(2, {2}, device(2), device(3)) == Gate((mac(2),), OWN)


def test_a_port_of_a_bridge_takes_what_is_for_it_and_for_the_bridge() -> None:
    devices = device(2, "bridge"), device(3, master=2), device(4, master=2)
    assert gate(3, {2}, *devices).macs == (mac(3), mac(2))
    assert gate(2, {2}, *devices).macs == (mac(2),), "what is for another port's MAC the stack drops"


def test_a_bridge_is_told_of_senders_wherever_the_program_is_below_it() -> None:
    devices = device(2, "bridge"), device(3, master=2), device(4, "bond", master=2), device(5, master=4)
    assert [gate(of, {2}, *devices).learns for of in (2, 3, 4, 5)] == [0, 3, 4, 5]
    assert gate(3, {2}, device(2, "bond"), device(3, master=2)).learns == 0, "a bond learns nothing"


def test_a_bond_takes_what_is_for_its_ports_and_a_port_only_its_own() -> None:
    devices = device(2, "bond"), device(3, master=2), device(4, master=2)
    assert gate(2, {2}, *devices).macs == (mac(2), mac(3), mac(4))
    assert gate(3, {2}, *devices).macs == (mac(3),)
    bridged = device(2, "bond", master=9), device(3, master=2), device(9, "bridge")
    assert gate(3, {9}, *bridged).macs == (mac(3), mac(9))


def test_a_port_that_takes_no_part_takes_nothing() -> None:
    bridge, bond = device(2, "bridge"), device(4, "bond", master=2)
    blocked, reserve, active = (
        replace(device(3, master=2), shut=True), replace(device(5, master=4), shut=True), device(6, master=4)
    )  # fmt: skip
    devices = bridge, bond, blocked, reserve, active
    assert gate(3, {2}, *devices) == Gate((), shut="if2 does not forward from its port if3 now")
    assert gate(5, {2}, *devices) == Gate((), shut="if4 keeps its port if5 in reserve now")
    assert gate(6, {2}, *devices) == Gate((mac(6), mac(2)), OWN, learns=6), "the others are not concerned"
    assert gate(2, {2}, *devices, reverse_paths={2: 1}).shut == ""
    # What a bridge does not forward from may be a bond, and then it is all of its ports.
    outer = bridge, replace(bond, shut=True), blocked, reserve, active
    assert (
        gate(6, {2}, *outer).shut == gate(4, {2}, *outer).shut == "if2 does not forward from its port if4 now"
    )
    assert gate(3, {3}, replace(blocked, master=9), device(9, "vrf")).shut == "", "a VRF drops nothing"
    assert gate(3, {2}, device(2), device(3, master=2)).shut == "", "the card of a virtual machine"
    for kind in ("team", "hsr", "batadv", "openvswitch"):
        unknown = device(2, kind), device(3, "bond", master=2), device(4, master=3)
        for of in (3, 4):
            told = "if2 does not tell whether it takes what comes in by its port if3"
            assert gate(of, {2}, *unknown) == Gate((), shut=told)
        assert mac(2) in gate(2, {2}, *unknown).macs
    settings = encode_settings(9999, ["10.0.2.1"], gate(3, {2}, *devices), generic=False)
    assert settings == encode_settings(9999, ["10.0.2.1"], Gate(()), generic=False), "it knows no MAC"


def test_what_a_macvlan_stands_on_takes_what_is_for_either() -> None:
    devices = device(2), device(3, "macvlan", link=2), device(4, "ipvlan", link=2), device(5, "vlan", link=2)
    assert gate(2, {2, 3}, *devices).macs == (mac(2), mac(3))
    assert gate(3, {2, 3}, *devices).macs == (mac(3),)


def test_no_more_macs_than_a_program_takes() -> None:
    devices = device(2), *(device(index, "macvlan", link=2) for index in range(3, 20))
    assert gate(2, {2}, *devices).macs == tuple(mac(index) for index in range(2, 2 + MAX_MACS))


@pytest.mark.parametrize("value", [1, 2])
def test_where_the_way_back_counts_the_kernel_is_asked_as_of_the_device_with_the_address(value: int) -> None:
    bridge = device(2, "bridge"), device(3, master=2)
    assert gate(3, {2}, *bridge, reverse_paths={2: value}) == Gate((mac(3), mac(2)), OWN, asks=2, learns=3)
    assert gate(3, {2}, *bridge, reverse_paths={3: value}).asks == 0, "what has no address does not look"
    assert gate(3, {2}, *bridge, reverse_paths={2: value}, reverse_path=False).asks == 0, "as is wished"
    assert gate(2, {2}, device(2), reverse_paths={2: value}).asks == 2
    above = device(2), device(3, "ipvlan", link=2)
    assert gate(2, {3}, *above, reverse_paths={3: value}) == Gate((mac(2),), OWN, asks=3)


def test_of_two_devices_that_are_asked_apart_one_is_served() -> None:
    devices = device(2), device(3, "macvlan", link=2)
    assert gate(2, {2, 3}, *devices, reverse_paths={2: 1}) == Gate((mac(2),), OWN, asks=2)
    assert gate(2, {3}, *devices, reverse_paths={2: 1, 3: 1}) == Gate((mac(3),), OWN, asks=3)
    assert gate(2, {2, 3}, *devices, reverse_paths={3: 1}) == Gate((mac(2),), OWN), "that one need not ask"


def test_what_no_list_tells_the_kernel_is_asked_whatever_is_wished() -> None:
    assert gate(2, {2}, device(2), vague=True, reverse_path=False) == Gate((mac(2),), (), asks=2)
    many = tuple(f"10.0.3.{number}" for number in range(MAX_SUSPECTS + 1))
    assert gate(2, {2}, device(2), suspects=many, reverse_path=False) == Gate((mac(2),), (), asks=2)
    assert gate(2, {2}, device(2), suspects=many[1:]) == Gate((mac(2),), many[1:])
    facts = Facts({2: device(2)}, (("10.0.2.1", 2),), {})
    assert gate_of(facts.interfaces[2], facts).asks == 2, "where it is not known whether it looks"
