"""VLANs on the card below: whose frames a program takes there, and how what goes into one is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("pyroute2")

from tempos import Framing, Group, Member, Route, Topic, _abi
from tempos._abi import Way
from tempos_fastpath.layout import decode_route, encode_route, encode_settings
from tempos_fastpath.network.facts import Facts, Interface, destination
from tempos_fastpath.network.facts import Way as Road
from tempos_fastpath.network.gates import gate_of
from tempos_fastpath.network.vlans import Vlan, card_below, taken_on
from tempos_fastpath.plan import Means, Plan, plan_route
from tempos_fastpath.structs import struct_from

CARD, TEN, OTHER = 2, 10, 3
MAC = "02:00:00:00:00:02"
ETH = Interface(CARD, "eth0", MAC, 1500, up=True, ethernet=True, takes_redirects=True, runs_native=True)
VLAN10 = Interface(
    TEN, "eth0.10", MAC, 1500, up=True, ethernet=True, takes_redirects=False, kind="vlan", link=CARD, vlan=10
)
ETH1 = replace(ETH, index=OTHER, name="eth1", mac="02:00:00:00:00:03")
INSIDE, PLAIN = Member("10.0.10.5", 7000), Member("10.0.3.5", 7001)


def facts(*interfaces: Interface, reverse_paths: dict[int, int] | None = None) -> Facts:
    return Facts(
        interfaces={each.index: each for each in interfaces},
        addresses=(("10.0.10.1", TEN), ("10.0.3.1", OTHER)),
        ways={
            destination(INSIDE): Road(TEN, INSIDE.ip, source="10.0.10.1"),
            destination(PLAIN): Road(OTHER, PLAIN.ip, source="10.0.3.1"),
        },
        neighbours={(TEN, INSIDE.ip): "02:00:00:00:00:05", (OTHER, PLAIN.ip): "02:00:00:00:00:06"},
        by_port=True,
        reverse_paths={CARD: 0, TEN: 0, OTHER: 0} if reverse_paths is None else reverse_paths,
    )


FACTS = facts(ETH, VLAN10, ETH1)
ABOVE = Interface(
    11, "over0", MAC, 1500, up=True, ethernet=True, takes_redirects=None, kind="ipvlan", link=TEN
)


@pytest.mark.parametrize(
    "others",
    [
        (ETH, replace(VLAN10, vlan=0)),
        (ETH, replace(VLAN10, up=False)),
        (ETH, replace(VLAN10, mac="02:00:00:00:00:77")),
        (ETH, replace(VLAN10, master=OTHER)),
        (ETH, VLAN10, ABOVE),
        (replace(ETH, master=OTHER), VLAN10),
        (replace(ETH, kind="bridge"), VLAN10),
    ],
    ids=["802.1ad", "down", "own MAC", "a port", "stood upon", "on a port", "on a bridge"],
)
def test_frames_of_others_are_left_to_their_device(others: tuple[Interface, ...]) -> None:
    assert taken_on(ETH, FACTS) == (VLAN10,)
    assert taken_on(others[0], facts(*others, ETH1)) == ()


def test_a_device_without_an_address_is_none_of_ours() -> None:
    assert taken_on(ETH, replace(FACTS, addresses=())) == ()


def test_a_card_takes_as_many_as_its_program_has_room_for() -> None:
    many = [replace(VLAN10, index=100 + number, vlan=100 + number) for number in range(_abi.MAX_VLANS + 1)]
    network = facts(ETH, *many)
    network = replace(network, addresses=tuple(("10.0.10.1", each.index) for each in many))
    assert taken_on(ETH, network) == tuple(many[: _abi.MAX_VLANS])


def test_a_gate_says_by_which_device_the_kernel_is_asked() -> None:
    assert gate_of(ETH, FACTS).vlans == (Vlan(10, TEN),)
    strict = facts(ETH, VLAN10, ETH1, reverse_paths={CARD: 0, TEN: 1, OTHER: 0})
    gate = gate_of(ETH, strict)
    assert (gate.asks, gate.vlans) == (0, (Vlan(10, TEN, TEN),))
    gate = gate_of(ETH, facts(ETH, VLAN10, ETH1, reverse_paths={CARD: 2, TEN: 0, OTHER: 0}))
    assert (gate.asks, gate.vlans) == (CARD, (Vlan(10, TEN),))


def test_settings_tell_a_native_program_alone() -> None:
    gate = gate_of(ETH, facts(ETH, VLAN10, ETH1, reverse_paths={CARD: 0, TEN: 1, OTHER: 0}))
    told = struct_from("struct tempos_settings", encode_settings(9998, (), gate, generic=False))
    assert (told.vlan_count, told.vlans[0].id, told.vlans[0].asks) == (1, 10, TEN)
    assert (
        struct_from("struct tempos_settings", encode_settings(9998, (), gate, generic=True)).vlan_count == 0
    )


def planned(network: Facts, *groups: tuple[Member, ...], native: bool = True) -> Plan | str:
    topic = Topic(9, "t", framing=Framing.RAW)
    route = Route(topic, 4, tuple(Group(f"g{at}", each) for at, each in enumerate(groups)))
    found = plan_route(route, network, Means(native=native))
    return found if isinstance(found, Plan) else found.reason


def test_what_goes_into_a_vlan_leaves_by_the_card_with_its_tag() -> None:
    plan = planned(FACTS, (INSIDE, PLAIN))
    assert isinstance(plan, Plan)
    assert [(hop.ifindex, hop.wire, hop.vlan) for hop in plan.hops] == [(TEN, CARD, 10), (OTHER, OTHER, 0)]
    assert (plan.interfaces, plan.wires) == ({TEN, OTHER}, {CARD, OTHER})
    value = encode_route(plan, 9, {CARD: 3, OTHER: 4})
    route = struct_from("struct tempos_route", value)
    assert (route.marks, route.members[0].ifindex, route.members[1].ifindex) == (
        _abi.ROUTE_TAGGED, CARD | 10 << _abi.VLAN_SHIFT, OTHER,
    )  # fmt: skip
    assert decode_route(value).egresses == (((CARD, 3), (OTHER, 4)),), (
        "an earlier broker's are found by the card"
    )


def test_two_groups_in_a_vlan_share_the_card_s_devmap() -> None:
    plan = planned(FACTS, (INSIDE,), (INSIDE, PLAIN))
    assert isinstance(plan, Plan)
    assert plan.way is Way.BROADCAST
    assert plan.broadcast.devmaps == ((CARD, CARD), (CARD, OTHER))


def test_tc_and_generic_mode_send_by_the_device() -> None:
    plan = planned(FACTS, (INSIDE,), native=False)
    assert isinstance(plan, Plan)
    assert [(hop.wire, hop.vlan) for hop in plan.hops] == [(TEN, 0)]
    native = planned(FACTS, (INSIDE,))
    assert isinstance(native, Plan)
    clone = struct_from("struct tempos_route", encode_route(replace(native, way=Way.CLONE), 9, {}))
    assert (clone.marks, clone.members[0].ifindex) == (0, TEN)


@pytest.mark.parametrize(
    "device",
    [replace(VLAN10, vlan=0), replace(VLAN10, prioritizes=True), replace(VLAN10, link=1 << 20)],
    ids=["802.1ad", "with priorities", "elsewhere"],
)
def test_what_a_device_alone_can_do_is_left_to_it(device: Interface) -> None:
    network = facts(ETH, device, ETH1)
    assert card_below(device, network) is None
    assert "eth0.10 towards it takes no redirected frames" in str(planned(network, (INSIDE,)))


def test_a_card_that_takes_no_redirected_frames_is_named() -> None:
    deaf = facts(replace(ETH, takes_redirects=False), VLAN10, ETH1)
    assert "eth0 towards it takes no redirected frames" in str(planned(deaf, (INSIDE,)))
