"""Who lost what, leg by leg: what links and receivers' sockets dropped is none of the broker's losses.

A veth link takes no more than 256 packets that nobody fetches, and a receiver no more than its socket holds.
Where the machine has other things to do either may be full, however well the broker works. The kernels
count that; so what is missing beyond it, and nothing else, is the broker's. What is dropped in front of the
broker's own sockets is the broker's, too: it was not quick enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tempos_bench.nodes.drops import FULL_SOCKETS
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import Topology, links_are_ours
from tempos_bench.runs.run import current

_Spot = tuple[Node, str]
#: Spots that count the same drop: both ends of a link.
_Place = Sequence[_Spot]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Datagrams dropped on the way to the broker (``before`` it), and from it to the members (``behind``).

    By node and place, in words. ``other``: what the nodes dropped besides, which excuses nothing.
    """

    before: Mapping[str, int]
    behind: Mapping[str, int]
    other: Mapping[str, int]

    @property
    def first(self) -> int:
        """What the broker never saw."""
        return sum(self.before.values())

    @property
    def last(self) -> int:
        """What the broker sent, as far as it knows."""
        return sum(self.behind.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{leg}: {', '.join(f'{count} at {where}' for where, count in counts.items())}"
            for leg, counts in (
                ("before the broker", self.before), ("behind it", self.behind), ("other drops", self.other)
            )
            if counts
        )  # fmt: skip


def beyond(lost: int, named: int) -> int:
    """What of a loss is more than those drops; what is there and was not sent stays as it is, below 0."""
    return max(lost - named, 0) if lost > 0 else lost


class Legs:
    """Watches the links of a topology from now on."""

    def __init__(self, topology: Topology) -> None:
        self._before, self._behind = _legs(topology)
        nodes = {node for place in (*self._before, *self._behind) for node, _ in place}
        self._began = {node: node.inquire("dropped") for node in nodes}

    def dropped(self) -> Dropped:
        """What was dropped since then; a note of the run where it is anything."""
        counts = {}
        for node, began in self._began.items():
            for where, count in node.inquire("dropped").items():
                if count != began.get(where, 0):
                    counts[node, where] = count - began.get(where, 0)
        before, behind = (_most(places, counts) for places in (self._before, self._behind))
        known = {spot for place in (*self._before, *self._behind) for spot in place}
        other = {spot: count for spot, count in counts.items() if spot not in known}
        dropped = Dropped(*map(_in_words, (before, behind, other)))
        if str(dropped):
            current().note(f"dropped beside what the broker counts: {dropped}")
        return dropped


def _most(places: Sequence[_Place], counts: Mapping[_Spot, int]) -> dict[_Spot, int]:
    """Of each place where something was dropped the spot that counted most."""
    seen = [max(place, key=lambda spot: counts.get(spot, 0)) for place in places]
    return {spot: counts[spot] for spot in seen if spot in counts}


def _in_words(counts: Mapping[_Spot, int]) -> dict[str, int]:
    return {f"{node.name}, {where}": count for (node, where), count in counts.items()}


def _legs(topology: Topology) -> tuple[list[_Place], list[_Place]]:
    """The places of each leg where datagrams may be dropped."""
    a, b, c, bridge = topology.publisher, topology.broker, topology.subscriber, topology.bridge
    before: list[_Place] = [[(a, f"{name} out")] for name in a.interfaces]
    # What a program hands on and its target does not take, veth counts as not received.
    received: list[_Place] = [[(b, f"{name} in")] for name in b.interfaces]
    behind: list[_Place] = [[(c, FULL_SOCKETS)]]
    if bridge is not None:
        before += [[(bridge, "port-b out")]]
        behind += [
            [(b, "eth0 out"), (bridge, "port-b in")],
            [(bridge, "port-c out"), (c, "eth0 in")],
            *received,
        ]
    elif links_are_ours():
        pairs = zip(b.interfaces[1:], c.interfaces, strict=True)
        behind += [*([(b, f"{near} out"), (c, f"{far} in")] for near, far in pairs), *received]
    else:
        before += received
        behind += [[(b, f"{name} out")] for name in b.interfaces]
        behind += [[(c, f"{name} in")] for name in c.interfaces]
    return before, behind
