"""Which groups take what an address sends: ranges, against the networks that they were made of."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from tempos import Group, GroupOptions, Route, Topic
from tempos._abi import RANGES
from tempos._senders import MOST_NETWORKS, options_of, ranges_of, takes, takings
from tempos._slots import NUMBERS
from tempos_broker.account.accounts import Holder, Share
from tempos_broker.account.shares import shares_of, with_taken

networks = st.builds(
    lambda address, bits: str(ipaddress.IPv4Network((address, bits), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(
    st.lists(st.lists(networks, max_size=6).map(tuple), min_size=1, max_size=16).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_an_address_is_taken_by_the_groups_whose_networks_have_it(senders, number) -> None:
    starts, groups = ranges_of(senders)
    assert len(starts) == len(groups) == RANGES
    assert starts[0] == 0
    assert list(starts) == sorted(starts)
    edges = {int(ipaddress.IPv4Network(each)[0]) for some in senders for each in some}
    for at in {number, *edges}:
        address = ipaddress.IPv4Address(at)
        wanted = [
            not some or any(address in ipaddress.IPv4Network(each) for each in some) for some in senders
        ]
        found = groups[bisect_right(starts, at) - 1]
        if at < 2**32 - 1:
            assert [bool(found >> group & 1) for group in range(len(senders))] == wanted
            assert [takes(some, str(address)) for some in senders] == wanted


def test_as_many_networks_as_are_allowed_have_room() -> None:
    starts, _ = ranges_of((tuple(f"10.{n}.0.0/24" for n in range(MOST_NETWORKS)),))
    assert len(starts) == RANGES


def test_counters_of_groups_with_senders_are_the_last_of_the_topic() -> None:
    topic = Topic(300, "t", groups=(GroupOptions("b", ("10.0.0.0/8",), 3), GroupOptions("d", ("10.0.0.1",)),
                                    GroupOptions("c", every=2)))  # fmt: skip
    route = Route(topic, 1, tuple(Group(name, ()) for name in "abcd"))
    found = [(each.group, each.meant, each.every) for each in takings(options_of(route))]
    assert found == [(1, NUMBERS - 1, 3), (2, 0, 2), (3, NUMBERS - 2, 1)]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 20), st.integers(1, 5))
def test_what_is_not_for_members_is_told_apart_to_the_datagram(tickets, meant, every, members) -> None:
    meant = min(tickets, meant)
    topic = Topic(300, "t", groups=(GroupOptions("g", ("10.0.0.0/8",), every),))
    taken = takings(options_of(Route(topic, 1, (Group("g", ()), Group("h", ())))))
    drawn = with_taken([tickets, tickets], taken, lambda number: meant)
    holders = [Holder("10.0.0.9", port, None) for port in range(members)]
    less, every_one = shares_of([("g", holders), ("h", holders[:1])], drawn, None)
    assert less.filtered == tickets - meant
    assert less.sampled == meant - len(range(0, meant, every))
    assert sum(less.of) + less.filtered + less.sampled == tickets
    assert max(less.of) - min(less.of) <= 1
    assert every_one == Share([tickets])
