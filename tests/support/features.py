"""What of the kernel is to be had where the tests run; found by trying, never by its version.

A test that needs something asks here, and checks what serves instead where it is not to be had.
"""

from __future__ import annotations

import socket
from functools import cache

from tempos import Unavailable
from tempos_bench.nodes.namespace import Namespace
from tempos_bpf.links import attach_tc
from tempos_bpf.objects import BpfObject
from tempos_fastpath.clone import OBJECT, PROGRAM
from tempos_fastpath.network.reading import told_features

#: What a status says of a topic whose copies only tc could make, where there is no tcx.
NO_TCX = "before Linux 6.6 the kernel has no links for it"


@cache
def no_tcx() -> str | None:
    """Why tc programs cannot be attached by links of their own (tcx), or None: they can."""

    def attach() -> None:
        attach_tc(loaded.program(PROGRAM), socket.if_nametoindex("lo")).close()

    with Namespace("tcx") as space, BpfObject(OBJECT) as loaded:
        try:
            space.call(attach)
        except Unavailable as refusal:
            return str(refusal)
    return None


def tells_redirects() -> bool:
    """Whether the kernel tells which devices take redirected frames, and when that changes (Linux 6.3)."""
    return told_features() is not None
