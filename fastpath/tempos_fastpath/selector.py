"""Two sockets on one port, told apart by the class of a datagram's topic: in the kernel, by its own facts.

The program (fastpath/bpf/selector.bpf.c) reads the fast path's map of topics, so a class that changes there
changes here at once. It is held by the sockets and ends with them; nothing is pinned.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from tempos import Quality
from tempos_bpf.errors import BpfError
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject
from tempos_fastpath.layout import QUALITIES

OBJECT = Path(__file__).with_name("selector.bpf.o")
_SO_ATTACH_REUSEPORT_EBPF = 52  # <asm-generic/socket.h>


def attach_selector(maps: Mapping[str, Map], strict: int, best_effort: int) -> None:
    """Have the kernel choose between the two sockets; once for a pair.

    Both are descriptors of UDP sockets bound to one address with SO_REUSEPORT. ``maps``: the fast path's
    ``rows`` and ``topics``. Raises :class:`tempos.Unavailable` if it cannot be had; the sockets are then as
    before.
    """
    with BpfObject(OBJECT, share=maps) as loaded:
        for quality, descriptor in ((Quality.SQ, strict), (Quality.BQ, best_effort)):
            # An element of a socket array is wide enough for a cookie, and is set by a descriptor.
            loaded.map("sockets").update(QUALITIES[quality], descriptor.to_bytes(8, sys.byteorder))
        program = loaded.program("tempos_selector")
        try:
            with socket.socket(fileno=os.dup(strict)) as group:
                group.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_EBPF, program.fd)
        except OSError as error:
            raise BpfError("cannot attach the selector to the sockets", error.errno or 0) from error
