"""Planning is a pure function: these need neither root nor a kernel that knows BPF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tempos import (
    Framing,
    Group,
    GroupOptions,
    Member,
    PathPolicy,
    Pick,
    Quality,
    Route,
    Topic,
    Unavailable,
    _abi,
)

pytest.importorskip("pyroute2")

from tempos_fastpath import plan as planning
from tempos_fastpath.network.facts import Facts, Interface, Way, destination
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.network.targets import targets_of
from tempos_fastpath.plan import Means, Plan, Planner, Refusal, Wanted, plan_route

ETH = Interface(2, "eth0", "02:00:00:00:00:02", 1500, up=True, ethernet=True, takes_redirects=True)
LO = Interface(1, "lo", "00:00:00:00:00:00", 65536, up=True, ethernet=False, takes_redirects=False)
NEAR, FAR = Member("10.0.0.5", 7000), Member("10.9.9.9", 7001)
FACTS = Facts(
    interfaces={1: LO, 2: ETH},
    addresses=(("10.0.0.1", 2), ("127.0.0.1", 1)),
    ways={
        destination(NEAR): Way(2, NEAR.ip, source="10.0.0.1"),
        destination(FAR): Way(2, "10.0.0.254", mtu=1400, source="10.0.0.2"),
    },
    neighbours={(2, NEAR.ip): "02:00:00:00:00:05", (2, "10.0.0.254"): "02:00:00:00:00:fe"},
    by_port=True,
)
VETH_HINT = "of a veth: switch GRO on at its peer while that is up, or attach an XDP program there"


def route(*members: Member) -> Route:
    return Route(Topic(9, "t", framing=Framing.RAW), 4, (Group("g", members),))


def test_a_plan_names_egress_macs_and_the_smallest_mtu() -> None:
    assert plan_route(route(NEAR, FAR), FACTS, Means(native=True)) == Plan(
        9, 4, Framing.RAW, 1400,
        ((Hop(NEAR.ip, 7000, 2, "02:00:00:00:00:02", "02:00:00:00:00:05", "10.0.0.1"),
          Hop(FAR.ip, 7001, 2, "02:00:00:00:00:02", "02:00:00:00:00:fe", "10.0.0.2")),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"id": 10}, {"name": "u"}, {"quality": Quality.SQ}, {"framing": Framing.EVENT}, {"rate": 5},
        {"policy": PathPolicy.SLOW}, {"sources": ("10.0.0.0/8",)}, {"journal": 8}, {"pick": Pick.SOURCE},
        {"groups": (GroupOptions("g", keep=True),)}, {"journal": 8, "repair": True}, {"priority": 3},
    ],
)  # fmt: skip
def test_of_routes_that_are_alike_one_is_planned_and_each_gets_its_own(change: dict[str, object]) -> None:
    marks = {Quality.SQ: 46 << 2}
    facts = replace(FACTS, ways={**FACTS.ways, destination(NEAR, 46 << 2): FACTS.ways[destination(FAR)]})
    first = route(NEAR)
    other = replace(first, topic=replace(first.topic, **change), epoch=5)  # type: ignore[arg-type]
    farther = replace(first, groups=(Group("g", (FAR,)),))
    planner, means = Planner(marks), Means(native=True)
    for _ in range(2):
        # The one before the last is of the other's likeness, so all that there is of a plan must get over.
        for each in (first, other, replace(other, epoch=6), farther):
            assert planner.plan(each, facts, means, ()) == plan_route(each, facts, means, marks)
    # By other facts, or means, it is another one.
    moved = replace(facts, neighbours={})
    assert isinstance(planner.plan(first, moved, means, ()), Refusal)
    left_out = frozenset({(NEAR.ip, None)})
    assert planner.plan(first, moved, means, left_out) == plan_route(first, moved, means, marks, left_out)
    deaf = replace(facts, interfaces={**FACTS.interfaces, 2: replace(ETH, takes_redirects=False)})
    assert isinstance(planner.plan(first, deaf, Means(native=False), ()), Plan)
    assert isinstance(planner.plan(first, deaf, means, ()), Refusal)


def test_the_way_to_a_member_is_that_from_the_address_it_asked() -> None:
    asked = replace(NEAR, source="10.0.0.9")
    refusal = plan_route(route(NEAR, asked), FACTS, Means(native=True))
    assert refusal == Refusal(f"member {NEAR}: no route to it"), "the way from another address is no answer"
    other = replace(ETH, index=3, name="eth1", mac="02:00:00:00:00:03")
    facts = replace(
        FACTS,
        interfaces={**FACTS.interfaces, 3: other},
        ways={**FACTS.ways, destination(asked): Way(3, "10.0.7.254", source="10.0.0.9")},
        neighbours={**FACTS.neighbours, (3, "10.0.7.254"): "02:00:00:00:00:ff"},
    )
    planned = plan_route(route(NEAR, asked), facts, Means(native=True))
    assert isinstance(planned, Plan)
    assert [(hop.ifindex, hop.source) for hop in planned.hops] == [(2, "10.0.0.1"), (3, "10.0.0.9")]


def test_the_way_is_that_of_the_topic_s_class_and_of_the_port_where_ports_count() -> None:
    marks, by_gateway = {Quality.SQ: 46 << 2}, Way(2, "10.0.0.254", source="10.0.0.1")
    strict = Route(Topic(9, "t", Quality.SQ, framing=Framing.RAW), 4, (Group("g", (NEAR,)),))
    facts = replace(FACTS, ways={**FACTS.ways, destination(NEAR, 46 << 2): by_gateway})

    def mac(of: Route, facts: Facts) -> str:
        planned = plan_route(of, facts, Means(native=True), marks)
        assert isinstance(planned, Plan)
        return planned.hops[0].mac

    assert (mac(route(NEAR), facts), mac(strict, facts)) == ("02:00:00:00:00:05", "02:00:00:00:00:fe")
    beside = replace(NEAR, port=NEAR.port + 1)
    assert plan_route(route(beside), facts, Means(native=True)) == Refusal(f"member {beside}: no route to it")
    any_port = replace(facts, by_port=False, ways={destination(replace(NEAR, port=0)): by_gateway})
    assert mac(route(beside), any_port) == "02:00:00:00:00:fe"


def test_missing_macs_name_the_member_and_list_each_neighbour_once() -> None:
    facts = replace(FACTS, neighbours={})
    refusal = plan_route(route(FAR, NEAR, FAR), facts, Means(native=True))
    reason = "no MAC address yet of member 10.9.9.9:7001, its gateway 10.0.0.254 on eth0 and 2 more"
    assert refusal == Refusal(reason, ((2, "10.0.0.254"), (2, NEAR.ip)))


def test_a_member_that_is_left_out_narrows_nothing_and_asks_nothing_of_its_egress() -> None:
    deaf = replace(ETH, index=3, name="eth1", mac="02:00:00:00:00:03", takes_redirects=False)
    facts = replace(
        FACTS,
        interfaces={**FACTS.interfaces, 3: deaf},
        ways={**FACTS.ways, destination(FAR): Way(3, "10.0.0.254", mtu=1400, source="10.0.0.2")},
        neighbours={(2, NEAR.ip): "02:00:00:00:00:05"},
    )
    planned = plan_route(
        route(NEAR, FAR), facts, Means(native=True), left_out=frozenset({(FAR.ip, FAR.source)})
    )
    assert isinstance(planned, Plan)
    assert planned.mtu == 1500
    assert [hop.mac for hop in planned.hops] == ["02:00:00:00:00:05", ""]


NOWHERE = Way(obstacle="no route to it (Network is unreachable)", nowhere=True)
LOST = Hop(FAR.ip, FAR.port, 2, "00:00:00:00:00:00", "", "0.0.0.0")


def test_a_member_that_no_way_leads_to_is_left_out_and_the_others_are_served() -> None:
    facts = replace(FACTS, ways={**FACTS.ways, destination(FAR): NOWHERE})
    planned = plan_route(route(FAR, NEAR), facts, Means(native=True))
    assert isinstance(planned, Plan)
    assert planned.groups == (
        (LOST, Hop(NEAR.ip, 7000, 2, "02:00:00:00:00:02", "02:00:00:00:00:05", "10.0.0.1")),
    )
    assert planned.mtu == 1500
    # Nor does it stand in the way of copies, by whatever the others of its group or the other groups leave.
    other = replace(ETH, index=3, name="eth1", mac="02:00:00:00:00:03")
    away = Member("10.0.7.2", 9)
    facts = replace(
        facts,
        interfaces={**FACTS.interfaces, 3: other},
        ways={**facts.ways, destination(away): Way(3, away.ip, source="10.0.7.1")},
        neighbours={**FACTS.neighbours, (3, away.ip): "02:00:00:00:00:ff"},
    )
    groups = (Group("a", (NEAR,)), Group("b", (FAR, away)), Group("c", (FAR,)))
    copied = plan_route(replace(route(), groups=groups), facts, Means(native=True))
    assert isinstance(copied, Plan)
    assert [[hop.ifindex for hop in group] for group in copied.groups] == [[2], [3, 3], [2]]
    # Those are asked for that something goes to.
    wanted = Wanted({})
    for each, plan in ((route(FAR, NEAR), planned), (replace(route(), groups=groups), copied)):
        wanted.want(each)
        wanted.planned(each, plan)
        assert (0, "") not in wanted.neighbours(facts)
        assert (2, NEAR.ip) in wanted.neighbours(facts)


def test_where_no_way_leads_to_anybody_the_topic_stays_on_the_fast_path() -> None:
    facts = replace(FACTS, ways={destination(FAR): NOWHERE})
    planned = plan_route(route(FAR), facts, Means(native=True))
    assert isinstance(planned, Plan)
    assert planned.groups == ((LOST,),)
    assert planned.nowhere == f"member {FAR}: {NOWHERE.obstacle}"
    # There has to be some interface that nothing leaves by.
    nothing = replace(facts, interfaces={1: LO})
    assert plan_route(route(FAR), nothing, Means(native=True)) == Refusal(f"member {FAR}: {NOWHERE.obstacle}")


def test_what_leaves_from_the_sender_s_address_gets_there_though_our_own_is_gone() -> None:
    gone = replace(FAR, source="10.0.0.9")
    facts = replace(FACTS, ways={**FACTS.ways, destination(gone): NOWHERE})
    topic = replace(route().topic, groups=(GroupOptions("g", keep=True),))
    kept = replace(route(NEAR, gone), topic=topic)
    assert isinstance(plan_route(kept, facts, Means(native=True)), Refusal), "the slow path has a way"
    back = replace(facts, addresses=(*FACTS.addresses, ("10.0.0.9", 2)))
    assert isinstance(plan_route(kept, back, Means(native=True)), Plan), "nobody has"


def test_who_is_left_out_is_so_behind_a_link_that_is_down_as_well() -> None:
    other = replace(ETH, index=3, name="eth1", mac="02:00:00:00:00:03", up=False)
    facts = replace(
        FACTS,
        interfaces={**FACTS.interfaces, 3: other},
        ways={**FACTS.ways, destination(FAR): Way(3, FAR.ip, source="10.0.7.1")},
    )
    refusal = plan_route(route(FAR, NEAR), facts, Means(native=True))
    assert refusal == Refusal(f"member {FAR}: eth1 towards it is down")
    planned = plan_route(route(FAR, NEAR), facts, Means(native=True), left_out={(FAR.ip, None)})
    assert isinstance(planned, Plan)
    assert planned.hops[0] == LOST


def test_a_configured_mac_is_taken_over_the_neighbour_s() -> None:
    planned = plan_route(route(replace(NEAR, mac="02:12:12:12:12:12")), FACTS, Means(native=True))
    assert isinstance(planned, Plan)
    assert planned.hops[0].mac == "02:12:12:12:12:12"


@pytest.mark.parametrize(
    ("interface", "why"),
    [
        (replace(ETH, up=False), "eth0 towards it is down"),
        (replace(ETH, ethernet=False), "eth0 towards it is not an Ethernet"),
        (replace(ETH, takes_redirects=False), "eth0 towards it takes no redirected frames"),
    ],
)
def test_an_egress_that_cannot_serve_is_named(interface: Interface, why: str) -> None:
    facts = replace(FACTS, interfaces={2: interface})
    refusal = plan_route(route(NEAR), facts, Means(native=True))
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(f"member {NEAR}: {why}")


def test_generic_mode_redirects_to_any_ethernet_and_silence_is_no_leave_in_native_mode() -> None:
    for takes in (False, None):
        facts = replace(FACTS, interfaces={2: replace(ETH, takes_redirects=takes, redirects_why="no BTF")})
        assert isinstance(plan_route(route(NEAR), facts, Means(native=False)), Plan)
        refusal = plan_route(route(NEAR), facts, Means(native=True))
        assert isinstance(refusal, Refusal)
    assert refusal.reason == (
        f"member {NEAR}: whether eth0 towards it takes redirected frames is not known (no BTF)"
    )


_MACSEC = replace(ETH, index=9, name="sec0", kind="macsec")


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ((replace(ETH, kind="macsec"),), "eth0 towards it loses"),
        ((replace(ETH, kind="vlan", link=9), _MACSEC), "eth0 towards it sends by sec0, which loses"),
        ((replace(ETH, kind="vlan", link=8), replace(ETH, index=8, kind="bond"), replace(_MACSEC, master=8)),
         "eth0 towards it sends by sec0, which loses"),
        ((replace(ETH, kind="bridge"), replace(_MACSEC, master=2)),
         "eth0 towards it sends by sec0, which loses"),
        # What stands on the device, or on the same one as MACsec does, sends by it all the same.
        ((ETH, replace(_MACSEC, link=2)), ""),
        ((replace(ETH, kind="vlan", link=8), replace(ETH, index=8), replace(_MACSEC, link=8)), ""),
        ((replace(ETH, kind="vrf"), replace(_MACSEC, master=2)), ""),
    ],
)  # fmt: skip
def test_nothing_is_redirected_to_what_loses_it_in_generic_mode(
    devices: Sequence[Interface], words: str
) -> None:
    facts = replace(FACTS, interfaces={each.index: each for each in devices})
    found = plan_route(route(NEAR), facts, Means(native=False))
    if not words:
        assert isinstance(found, Plan)
        return
    assert isinstance(found, Refusal)
    assert found.reason == (
        f"member {NEAR}: {words} what generic mode redirects (a device of the kind macsec may)"
    )
    # A driver that takes redirected frames says so by itself.
    assert isinstance(plan_route(route(NEAR), facts, Means(native=True)), Plan)


@pytest.mark.parametrize(
    ("kind", "why", "words"),
    [
        ("veth", "", f"({VETH_HINT})"),
        ("veth", "ENXIO", f"(ENXIO; {VETH_HINT})"),
        ("bridge", "", "(a device of the kind bridge never does)"),
        ("", "it refused frames (ENXIO)", "(it refused frames (ENXIO); some drivers do only while an XDP "
         "program is attached to the card)"),
    ],
)  # fmt: skip
def test_who_takes_no_redirected_frames_is_told_what_to_do(kind: str, why: str, words: str) -> None:
    egress = replace(ETH, takes_redirects=False, kind=kind, redirects_why=why)
    refusal = plan_route(route(NEAR), replace(FACTS, interfaces={2: egress}), Means(native=True))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == f"member {NEAR}: eth0 towards it takes no redirected frames {words}"


def test_carriers_and_local_addresses_leave_loopback_out() -> None:
    assert FACTS.carriers({"10.0.0.1", "127.0.0.1"}) == (ETH,)
    assert FACTS.local_addresses() == ("10.0.0.1",)


RED = Interface(
    10, "red", "02:00:00:00:00:0a", 65575, up=True, ethernet=True, takes_redirects=None, kind="vrf"
)
BLUE = replace(RED, index=11, name="blue")
BRIDGE = replace(ETH, index=3, name="br0", kind="bridge", master=11)
PORT = replace(ETH, index=4, name="eth1", master=3)
IN_RED = replace(ETH, index=5, name="eth2", master=10)
NETWORKS = replace(
    FACTS,
    interfaces={each.index: each for each in (LO, ETH, RED, BLUE, BRIDGE, PORT, IN_RED)},
    addresses=(("10.0.0.1", 2), ("10.0.0.1", 3), ("10.0.0.1", 5), ("10.0.5.1", 5), ("127.0.0.1", 11)),
)


@pytest.mark.parametrize(
    ("bound", "carriers", "addresses"),
    [
        (0, (ETH,), ("10.0.0.1",)),
        (11, (BRIDGE,), ("10.0.0.1",)),
        (10, (IN_RED,), ("10.0.0.1", "10.0.5.1")),
        (2, (ETH,), ("10.0.0.1",)),
    ],
)
def test_an_address_is_that_of_the_network_which_the_broker_is_in(
    bound: int, carriers: tuple[Interface, ...], addresses: tuple[str, ...]
) -> None:
    """Three networks of one machine have the same address, a bridge's port is in that of its bridge."""
    facts = replace(NETWORKS, bound=bound)
    assert facts.carriers({"10.0.0.1"}) == carriers
    assert facts.local_addresses() == addresses
    here = {each.name for each in facts.interfaces.values() if each.ethernet and not facts.elsewhere(each)}
    expected = {0: {"eth0"}, 11: {"blue", "br0", "eth1"}, 10: {"red", "eth2"}, 2: {"eth0"}}
    assert here == expected[bound]


def test_an_interface_of_another_network_is_told_with_the_way_there() -> None:
    assert NETWORKS.elsewhere(PORT) == (
        "it is in the VRF blue, and the broker is not (`ip vrf exec blue tempos broker ...`)"
    )
    assert replace(NETWORKS, from_vrfs=True).elsewhere(PORT) == ""
    assert (
        replace(NETWORKS, from_vrfs=True, bound=10).elsewhere(PORT)
        == "it is not in the VRF red, where the broker is"
    )
    assert replace(NETWORKS, bound=10).elsewhere(ETH) == "it is not in the VRF red, where the broker is"


def test_an_address_that_only_another_network_has_is_told_with_that() -> None:
    facts = replace(NETWORKS, addresses=(("10.0.5.1", IN_RED.index),))
    with pytest.raises(
        Unavailable, match=r"carries 10\.0\.5\.1 \(eth2: it is in the VRF red, and the broker is not"
    ):
        targets_of((), ["10.0.5.1"], facts)
    assert targets_of((), ["10.0.5.1"], replace(facts, bound=RED.index)) == [IN_RED]


def test_a_member_more_is_one_way_more_to_look_at_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tempos_fastpath.layout")
    from tempos_fastpath import layout

    looked: list[Member] = []
    found = planning.leg_to

    def looking(member: Member, *it: Any, **how: Any) -> Any:
        looked.append(member)
        return found(member, *it, **how)

    monkeypatch.setattr(planning, "leg_to", looking)
    members = [Member(f"10.0.1.{last}", 7000) for last in range(1, 202)]
    hops = {member: Way(2, member.ip, source="10.0.0.1") for member in members}
    macs = {(2, member.ip): f"02:00:00:00:01:{number:02x}" for number, member in enumerate(members)}

    def knowing(count: int, **more: Any) -> Facts:
        ways = {destination(member): way for member, way in list(hops.items())[:count]}
        return replace(FACTS, ways=ways, neighbours=dict(list(macs.items())[:count]), **more)

    planner, means, facts = Planner({}), Means(native=True), knowing(200)
    planner.plan(route(*members[:200]), facts, means, ())
    assert len(looked) == 200
    before = route(*members[:200])
    layout.encode_route(planner.plan(before, facts, means, ()), 1, {2: 0})
    more, laid_out = knowing(201), layout._member.cache_info().misses
    assert not more.contradicts(facts)
    planner.agree(facts, more)
    looked.clear()
    planned = planner.plan(route(*members), more, means, ())
    layout.encode_route(planned, 1, {2: 0})
    assert looked == [members[200]]
    assert layout._member.cache_info().misses == laid_out + 1
    assert planned == plan_route(route(*members), more, means)
    # One that leaves is none, and by facts that contradict these everybody is looked at.
    looked.clear()
    assert isinstance(planner.plan(route(*members[1:]), more, means, ()), Plan)
    assert not looked
    other = replace(more, interfaces={**FACTS.interfaces, 2: replace(ETH, mac="02:00:00:00:00:22")})
    assert other.contradicts(more)
    planned = planner.plan(route(*members), other, means, ())
    assert isinstance(planned, Plan)
    assert {hop.source_mac for hop in planned.hops} == {"02:00:00:00:00:22"}


def test_a_refusal_holds_no_longer_than_the_facts_that_it_is_of() -> None:
    planner, means, lacking = Planner({}), Means(native=True), replace(FACTS, ways={})
    assert isinstance(planner.plan(route(NEAR), lacking, means, ()), Refusal)
    assert not FACTS.contradicts(replace(lacking, neighbours=FACTS.neighbours))
    planner.agree(lacking, FACTS)
    assert isinstance(planner.plan(route(NEAR), FACTS, means, ()), Plan)


def test_what_a_route_uses_is_read_again_as_it_was_laid_out_whatever_was_read_before() -> None:
    pytest.importorskip("tempos_fastpath.layout")
    from tempos_fastpath import layout

    near, far = (Hop(ip, 7000, index, "02:00:00:00:00:02", "02:00:00:00:00:05", "10.0.0.1")
                 for ip, index in (("10.0.0.9", 2), ("10.0.1.9", 3)))  # fmt: skip
    kinds = ((near,),), ((far,),), ((near, far),), ((near,), (far,))
    for topic, epoch, groups in [(9, 1, 0), (300, 2, 0), (301, 3, 1), (9, 4, 2), (10, 5, 3), (11, 6, 0)]:
        hops, way = kinds[groups], _abi.Way.ONE if len(kinds[groups]) == 1 else _abi.Way.CLONE
        planned = Plan(topic, epoch, Framing.RAW, 1500, hops, way=way)
        small = topic > 255
        value = layout.encode_route(planned, topic, {2: 5, 3: 6}, small=small)
        held = layout.decode_route(value)
        assert (held.topic, held.epoch, held.way) == (topic, epoch, way)
        slots = {2: 5, 3: 6} if way is _abi.Way.ONE else {2: 0, 3: 0}
        assert held.egresses == tuple(tuple((hop.ifindex, slots[hop.ifindex]) for hop in g) for g in hops)
