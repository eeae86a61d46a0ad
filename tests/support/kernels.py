"""Answers of other kernels than the one that runs, to give to a fast path."""

from __future__ import annotations

from tempos_fastpath.network.kernel import Kernel

#: As Linux 6.1 and 6.2: nothing tells which devices take redirected frames, and veth shows no socket buffer.
OLD = Kernel(features=lambda: None, veth_skb_at=lambda: None)
#: Only the latter.
BLIND = Kernel(veth_skb_at=lambda: None)
