"""What the running kernel tells of what it can do, as values: so that another kernel's answers can stand in.

Everything else is found out by trying. These are answers that cannot be tried, or that differ by interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tempos_bpf.links import has_tc_links
from tempos_bpf.objects import member_offset
from tempos_fastpath.network.facts import Interface
from tempos_fastpath.network.reading import bound_interface, told_features
from tempos_fastpath.network.trial import Verdict, try_redirect


def veth_skb_at() -> int | None:
    """Bytes from what veth gives a native program to its pointer to the socket buffer; None before 6.3."""
    return member_offset("veth", "veth_xdp_buff", "skb")


@dataclass(frozen=True, slots=True)
class Kernel:
    """The questions, each with the running kernel's answer unless another is given.

    ``try_redirect``: whether an interface takes a redirected frame that it is given.
    ``features``: interface index -> what it can do with XDP (NETDEV_XDP_ACT_*); None where it does not say.
    ``bound``: the index of the interface that new sockets are bound to, as in a VRF; 0 for none.
    ``tc_links``: whether tc programs can be attached by links of their own.
    """

    features: Callable[[], Mapping[int, int] | None] = told_features
    bound: Callable[[], int] = bound_interface
    veth_skb_at: Callable[[], int | None] = veth_skb_at
    try_redirect: Callable[[Interface], Verdict] = try_redirect
    tc_links: Callable[[], bool] = has_tc_links

    def lacks(self) -> tuple[str, ...]:
        """What it does not have that the fast path would use, and what happens instead."""
        found = []
        if self.features() is None:
            found.append(
                "it does not tell which devices take redirected frames (Linux 6.3): they are tried with one"
            )
        if not self.tc_links():
            found.append(
                "it has no links of tc programs (Linux 6.6): events for several groups take the slow path "
                "where XDP cannot copy them, as in generic mode"
            )
        return tuple(found)
