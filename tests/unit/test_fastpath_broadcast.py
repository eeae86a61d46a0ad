"""Which devmap the picks of an event lead to, and which way several groups take: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Fanout, Framing, Group, GroupOptions, Member, Route, Topic, _abi
from tempos._abi import Way

pytest.importorskip("pyroute2")

from tempos_fastpath.broadcast import MAX_DEVMAPS, MAX_KEYS, NOWHERE, Broadcast, plan_broadcast
from tempos_fastpath.network.facts import Facts, Interface, destination
from tempos_fastpath.network.facts import Way as NetworkWay
from tempos_fastpath.plan import MAX_BROADCAST_MTU, Means, Plan, Refusal, plan_route

groups_of_interfaces = st.lists(
    st.lists(st.integers(2, 4), min_size=1, max_size=4), min_size=1, max_size=_abi.MAX_GROUPS
)


@settings(deadline=None)
@given(groups_of_interfaces, st.sets(st.integers(0, _abi.MAX_GROUPS - 1)), st.data())
def test_whatever_is_picked_the_sum_leads_to_a_devmap_with_just_those_slots(
    groups: list[list[int]], less: set[int], data: st.DataObject
) -> None:
    """``less``: groups that an event may leave out."""
    ways = [[*group, NOWHERE] if at in less else group for at, group in enumerate(groups)]
    found = plan_broadcast(groups, less)
    if isinstance(found, str):
        spread = sum(len(set(group)) > 1 for group in ways)
        reached = len({way for group in ways if len(set(group)) > 1 for way in group})
        assert "too many combinations" in found
        assert comb(spread + reached - 1, spread) > MAX_DEVMAPS or (spread + 1) ** (reached - 1) > MAX_KEYS
        return
    picks = [data.draw(st.sampled_from(group)) for group in ways]
    # Who is left out adds nothing, which the program relies on.
    key = sum(weight[pick] for weight, pick in zip(found.weights, picks, strict=True) if pick)
    assert found.devmaps[key] == (tuple(sorted(pick for pick in picks if pick)) or None)
    assert len(found.devmaps) <= MAX_KEYS


def test_a_group_that_may_be_left_out_costs_a_devmap() -> None:
    assert plan_broadcast([[5], [5], [6]], {1, 2}) == Broadcast(
        ({5: 0}, {0: 0, 5: 1}, {0: 0, 6: 3}), ((5,), (5, 5), None, (5, 6), (5, 5, 6))
    )
    assert plan_broadcast([[5]], {0}) == Broadcast(({0: 0, 5: 1},), (None, (5,)))
    all_of_them = plan_broadcast([[5]] * 16, range(16))
    assert isinstance(all_of_them, Broadcast)
    assert all_of_them.devmaps == (None, *((5,) * copies for copies in range(1, 17)))
    assert plan_broadcast([[2, 3]] * 16, range(16)) == (
        "16 groups are spread over 2 interfaces or do not get every event: too many combinations"
    )


def test_only_groups_that_are_spread_make_a_difference() -> None:
    assert plan_broadcast([[5], [5, 5], [5]]) == Broadcast(({5: 0},) * 3, ((5, 5, 5),))
    assert plan_broadcast([[2], [3], [4]]) == Broadcast(({2: 0}, {3: 0}, {4: 0}), ((2, 3, 4),))
    assert plan_broadcast([[9], [2, 3], [3, 2]]) == Broadcast(
        ({9: 0}, {2: 0, 3: 1}, {2: 0, 3: 1}), ((2, 2, 9), (2, 3, 9), (3, 3, 9))
    )
    three = plan_broadcast([[2, 3, 4], [2, 3, 4]])
    assert isinstance(three, Broadcast)
    assert [index for index, devmap in enumerate(three.devmaps) if devmap is None] == [5]


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([list(range(2, 10))], "members by 8 interfaces; a broadcast serves at most 7"),
        ([[2, 3, 4, 5]] * 16, "16 groups are spread over 4 interfaces: too many combinations"),
        ([[2, 3, 4]] * 11, "11 groups are spread over 3 interfaces: too many combinations"),
    ],
)
def test_what_would_take_too_much_is_refused(groups: list[list[int]], why: str) -> None:
    assert plan_broadcast(groups) == why


INTERFACES = {
    index: Interface(index, f"eth{index}", f"02:00:00:00:00:0{index}", 9000, up=True, ethernet=True,
                     takes_redirects=True)
    for index in (2, 3)
}  # fmt: skip
NEAR, FAR = Member("10.0.0.5", 7000, "02:00:00:00:00:55"), Member("10.0.1.5", 7001, "02:00:00:00:00:66")
FACTS = Facts(
    INTERFACES,
    (),
    {
        destination(NEAR): NetworkWay(2, NEAR.ip, source="10.0.0.1"),
        destination(FAR): NetworkWay(3, FAR.ip, source="10.0.1.1"),
    },
    by_port=True,
)
TWO = [[NEAR], [NEAR, FAR]]


def planned(
    groups: Sequence[Sequence[Member]], means: Means, fanout: Fanout = Fanout.AUTO, facts: Facts = FACTS
) -> Plan | Refusal:
    topic = Topic(9, "t", framing=Framing.RAW, fanout=fanout)
    return plan_route(Route(topic, 4, tuple(Group("g", tuple(group)) for group in groups)), facts, means)


@pytest.mark.parametrize(
    ("groups", "means", "fanout", "way", "why"),
    [
        ([[NEAR, FAR]], Means(native=True), Fanout.AUTO, Way.ONE, ""),
        ([[NEAR, FAR]], Means(native=True), Fanout.XDP, Way.ONE, ""),
        ([[NEAR, FAR]], Means(native=True), Fanout.TC, Way.CLONE, "copies by tc clone (as configured)"),
        (TWO, Means(native=True), Fanout.AUTO, Way.BROADCAST, "copies by XDP broadcast"),
        (TWO, Means(native=True, no_clone="-"), Fanout.XDP, Way.BROADCAST, "copies by XDP broadcast"),
        (TWO, Means(native=True), Fanout.TC, Way.CLONE, "copies by tc clone (as configured)"),
        (
            TWO,
            Means(native=False, no_broadcast="shared"),
            Fanout.AUTO,
            Way.CLONE,
            "copies by tc clone (shared)",
        ),
    ],
)
def test_the_way_is_chosen_and_says_why(
    groups: Sequence[Sequence[Member]], means: Means, fanout: Fanout, way: Way, why: str
) -> None:
    plan = planned(groups, means, fanout)
    assert isinstance(plan, Plan)
    assert (plan.way, plan.why) == (way, why)
    # A copy is made in one page.
    assert plan.mtu == (MAX_BROADCAST_MTU if way is Way.BROADCAST else 9000)
    assert plan.interfaces == {2, 3}


@pytest.mark.parametrize(
    ("means", "fanout", "reason"),
    [
        (Means(native=False, no_broadcast="A", no_clone="B"), Fanout.AUTO,
         "2 groups, but no copies for them: none by XDP (A), none by tc (B)"),
        (Means(native=False, no_broadcast="A"), Fanout.XDP,
         "2 groups, and no copies by XDP, as the topic demands: A"),
        (Means(native=True, no_clone="B"), Fanout.TC, "2 groups, but no copies for them: none by tc (B)"),
    ],
)  # fmt: skip
def test_where_no_way_is_left_the_reason_names_each(means: Means, fanout: Fanout, reason: str) -> None:
    assert planned(TWO, means, fanout) == Refusal(reason)


def test_an_interface_that_takes_no_redirects_is_left_to_tc() -> None:
    deaf = replace(INTERFACES[3], takes_redirects=False)
    facts = replace(FACTS, interfaces={2: INTERFACES[2], 3: deaf})
    plan = planned(TWO, Means(native=True), facts=facts)
    assert isinstance(plan, Plan)
    assert plan.way is Way.CLONE
    assert "eth3 towards it takes no redirected frames" in plan.why
    assert isinstance(planned([[FAR]], Means(native=True), facts=facts), Refusal)


def choosy(members: int, *options: GroupOptions) -> Plan | Refusal:
    """A plan of a foreign topic with these groups, each of so many members."""
    topic = Topic(300, "t", framing=Framing.FOREIGN, ports=(2055,), groups=options)
    groups = tuple(Group(each.name, (NEAR,) * members) for each in options)
    return plan_route(Route(topic, 4, groups), FACTS, Means(native=True, no_clone="-"))


def test_what_groups_get_is_part_of_the_plan_and_what_else_is_said_of_them_is_not() -> None:
    some, kept = GroupOptions("a", ("10.0.0.0/8",), 3), GroupOptions("b", keep=True)
    plan = choosy(1, some, kept)
    assert isinstance(plan, Plan)
    assert (plan.way, plan.less, plan.keeps) == (Way.BROADCAST, {0}, {1})
    assert plan.broadcast.weights == ({0: 0, 2: 1}, {2: 0})
    assert plan == choosy(1, replace(some, down_after=9), replace(kept, probe="udp"))
    assert plan != choosy(1, replace(some, every=4), kept)
    none = choosy(1, GroupOptions("a", down_after=9), GroupOptions("b"))
    assert isinstance(none, Plan)
    assert (none.options, none.less, none.is_small) == ((), frozenset(), True)
    # A small route has no room for what its groups get, but for whose address they see.
    assert not plan.is_small
    alone = choosy(1, kept)
    assert isinstance(alone, Plan)
    assert alone.is_small


def test_more_members_than_there_is_room_for_are_refused_in_words() -> None:
    assert isinstance(choosy(_abi.SIEVE_AT, GroupOptions("a", every=2)), Plan)
    assert choosy(_abi.SIEVE_AT + 1, GroupOptions("a", every=2)) == Refusal(
        "125 members: the fast path carries at most 124 of a topic whose groups have sources or every"
    )
    assert isinstance(choosy(_abi.SIEVE_AT + 1, GroupOptions("a", keep=True)), Plan)
