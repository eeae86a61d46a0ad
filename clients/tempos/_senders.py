"""Which groups of a foreign topic take what an address sends, and where it is counted how much that was.

What groups take is laid out as ranges of addresses, in each of which the same ones do: so an address is
found in a few steps, however many networks there are.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from tempos._abi import RANGES
from tempos._slots import NUMBERS
from tempos.model import GroupOptions, Route

#: Networks of all groups of a topic: each begins a range and ends one (`fastpath/bpf/meant.h`).
MOST_NETWORKS = RANGES // 2 - 1
_LAST = 0xFFFFFFFF


class Taken(NamedTuple):
    """What members of a group get: of what is counted at ``meant`` (0: of all) one in ``every``."""

    group: int
    meant: int
    every: int


def options_of(route: Route) -> tuple[GroupOptions, ...]:
    """Of each group of a route."""
    if not route.topic.groups:
        return tuple([_none_of(group.name) for group in route.groups])
    known = {each.name: each for each in route.topic.groups}
    return tuple(known.get(group.name) or GroupOptions(group.name) for group in route.groups)


@lru_cache(1024)
def _none_of(group: str) -> GroupOptions:
    """A group without any: one object in thousands of topics."""
    return GroupOptions(group)


def takings(options: Sequence[GroupOptions]) -> tuple[Taken, ...]:
    """Of the groups of a route that do not get all; the counters are the last ones of the topic's."""
    found, last = [], NUMBERS
    for index, each in enumerate(options):
        if each.sources:
            last -= 1
        if each.sources or each.every > 1:
            found.append(Taken(index, last if each.sources else 0, each.every))
    return tuple(found)


@lru_cache(64)
def ranges_of(senders: tuple[tuple[str, ...], ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The networks that each group takes, none: all, as ranges: where each begins, and bits of the groups."""
    changes: dict[int, int] = {0: 0}
    networks = [
        (1 << group, ipaddress.IPv4Network(text, strict=False))
        for group, each in enumerate(senders)
        for text in each
    ]
    for _, network in networks:
        changes[int(network.network_address)] = 0
        if (after := int(network.broadcast_address) + 1) <= _LAST:
            changes[after] = 0
    starts = sorted(changes)
    everybody = sum(1 << group for group, each in enumerate(senders) if not each)
    groups = [
        everybody | sum({bit for bit, network in networks if ipaddress.IPv4Address(start) in network})
        for start in starts
    ]
    lacking = RANGES - len(starts)
    # Behind the last one there is nothing, so it is repeated where no host is.
    return (*starts, *[_LAST] * lacking), (*groups, *[groups[-1]] * lacking)


def takes(senders: tuple[str, ...], ip: str) -> bool:
    """Whether a group that takes what these networks send, none: all, takes what comes from there."""
    if not senders:
        return True
    starts, groups = ranges_of((senders,))
    return bool(groups[bisect_right(starts, int(ipaddress.IPv4Address(ip))) - 1])
