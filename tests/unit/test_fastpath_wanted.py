"""Whom all routes lead to, kept as they come and go, is what one finds by looking at all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Group, Member, PathPolicy, Quality, Route, Topic

pytest.importorskip("pyroute2")

from tempos_fastpath.network.facts import Facts, Interface, Way, destination
from tempos_fastpath.plan import Means, Plan, Refusal, Wanted, plan_route, refuse_at_once, towards

TOS = {Quality.SQ: 46 << 2}
MEMBERS = [Member(f"10.0.0.{last}", 7000) for last in range(2, 7)]
GATEWAY = "10.0.0.254"
TOLD = replace(MEMBERS[0], mac="02:12:12:12:12:12", port=7001)
COMING = [*MEMBERS[:2], TOLD, *MEMBERS[2:]]
ETH = Interface(2, "eth0", "02:00:00:00:00:02", 1500, up=True, ethernet=True, takes_redirects=True)
#: The last has no way there, of the one before no MAC is known, and two go by one gateway.
FACTS = Facts(
    interfaces={2: ETH},
    addresses=(("10.0.0.1", 2),),
    ways={
        destination(member, tos): Way(2, GATEWAY if member in MEMBERS[1:3] else member.ip, source="10.0.0.1")
        for member in (*MEMBERS[:-1], TOLD)
        for tos in (0, TOS[Quality.SQ])
    },
    neighbours={(2, GATEWAY): "02:00:00:00:00:fe", (2, MEMBERS[0].ip): "02:00:00:00:00:05"},
    by_port=True,
)  # fmt: skip


def neighbours(plans: dict[int, tuple[Route, Plan | Refusal]], facts: Facts) -> set[tuple[int, str]]:
    """The same, by looking at all."""
    used: set[tuple[int, str]] = set()
    for route, plan in plans.values():
        if isinstance(plan, Refusal):
            used.update(plan.unresolved)
            continue
        members = (member for group in route.groups for member in group.members)
        for member, there, hop in zip(members, towards(route, TOS), plan.hops, strict=True):
            if member.mac is None and (way := facts.way_to(there)) is not None:
                used.add((hop.ifindex, way.next_hop))
    return used


members = st.one_of(
    st.lists(st.sampled_from([*MEMBERS, TOLD]), min_size=1, max_size=3, unique=True),
    # Those that come one after the other.
    st.integers(1, 5).map(lambda count: COMING[:count]),
)
groups = st.lists(members, max_size=2).map(
    lambda found: tuple(Group(f"g{number}", tuple(each)) for number, each in enumerate(found))
)
routes = st.builds(
    lambda topic, groups, quality, policy: Route(
        Topic(topic, f"t{topic}", quality, policy=policy), 1, groups
    ),
    st.integers(1, 4), groups, st.sampled_from(Quality), st.sampled_from([PathPolicy.AUTO, PathPolicy.SLOW]),
)  # fmt: skip


@given(st.lists(st.one_of(routes, st.integers(1, 4)), max_size=25), st.integers(0, 4))
def test_what_is_kept_is_what_looking_at_all_finds(steps: list[Route | int], moves: int) -> None:
    wanted, all_ = Wanted(TOS), dict[int, Route]()
    for step in steps:
        if isinstance(step, int):
            wanted.drop(step)
            all_.pop(step, None)
            continue
        all_[step.topic.id] = step
        wanted.want(step)
        wanted.planned(step, plan_route(step, FACTS, Means(native=True), TOS))
    asked = [route for route in all_.values() if refuse_at_once(route) is None]
    assert wanted.destinations() == {each for route in asked for each in towards(route, TOS)}
    assert {topic: route for topic, (route, _) in wanted.plans.items()} == all_
    # By other facts than those that it was planned by, too.
    moved = dict(list(FACTS.ways.items())[moves:])
    for facts in (FACTS, replace(FACTS, ways=moved)):
        assert wanted.neighbours(facts) == neighbours(wanted.plans, facts)


#: By another interface.
OTHERS = replace(
    FACTS,
    interfaces={2: ETH, 3: replace(ETH, index=3, name="eth1")},
    ways={towards: replace(way, ifindex=3) for towards, way in FACTS.ways.items()},
    neighbours={(3, ip): mac for (_, ip), mac in FACTS.neighbours.items()},
)  # fmt: skip


@given(st.lists(st.tuples(members, st.sampled_from([FACTS, OTHERS])), min_size=2, max_size=6))
def test_who_comes_and_goes_in_one_group_is_asked_about_and_nobody_else(
    steps: list[tuple[list[Member], Facts]],
) -> None:
    wanted = Wanted(TOS)
    for found, facts in steps:
        route = Route(Topic(1, "t"), 1, (Group("g", tuple(found)),))
        wanted.want(route)
        wanted.planned(route, plan_route(route, facts, Means(native=True), TOS))
        assert wanted.destinations() == set(towards(route, TOS))
        assert wanted.neighbours(facts) == neighbours(wanted.plans, facts)


@given(st.lists(members), st.sampled_from([0, TOS[Quality.SQ]]), st.booleans(), st.integers(0, 12))
def test_what_facts_lack_is_what_has_no_way_under_its_key(
    found: list[list[Member]], tos: int, by_port: bool, known: int
) -> None:
    facts = replace(FACTS, by_port=by_port)
    ways = {facts.key(towards): way for towards, way in list(FACTS.ways.items())[:known]}
    facts = replace(facts, ways=ways)
    there = [destination(member, tos) for some in found for member in some]
    assert facts.lacks(there) == {facts.key(each) for each in there} - facts.ways.keys()
