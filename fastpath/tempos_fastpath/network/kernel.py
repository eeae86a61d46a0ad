"""What the running kernel tells of what it can do, as values: so that another kernel's answers can stand in.

Everything else is found out by trying. These are answers that cannot be tried, or that differ by interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tempos_bpf.objects import member_offset
from tempos_fastpath.network.facts import Interface
from tempos_fastpath.network.reading import redirect_support
from tempos_fastpath.network.trial import Verdict, try_redirect


def veth_skb_at() -> int | None:
    """Bytes from what veth gives a native program to its pointer to the socket buffer; None before 6.3."""
    return member_offset("veth", "veth_xdp_buff", "skb")


@dataclass(frozen=True, slots=True)
class Kernel:
    """The questions, each with the running kernel's answer unless another is given.

    ``try_redirect``: whether an interface takes a redirected frame that it is given.
    ``redirects``: interface index -> whether native XDP may redirect to it; None where it does not say.
    """

    redirects: Callable[[], Mapping[int, bool] | None] = redirect_support
    veth_skb_at: Callable[[], int | None] = veth_skb_at
    try_redirect: Callable[[Interface], Verdict] = try_redirect
