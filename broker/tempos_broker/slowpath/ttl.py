"""The TTL of events on the slow path: spent as a router spends it, so that circles between brokers end.

The kernel tells with each datagram what is left of its TTL; it leaves with one less, as by the fast path, and
what has none left is refused. Where the kernel does not tell, a datagram leaves with the socket's own.
Python's socket module does not name the option; its number is that of <linux/in.h>.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

_IP_RECVTTL = 12
_INT = struct.Struct("=i")
#: Room for what the kernel tells with a datagram.
SPACE = socket.CMSG_SPACE(_INT.size)


def ask(sock: socket.socket) -> None:
    """Have the kernel tell the TTL of each datagram of this socket."""
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)


def told(ancillary: Iterable[tuple[int, int, bytes]]) -> int | None:
    """The TTL of a datagram that came with this, as :meth:`socket.socket.recvmsg` gives it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL):
            return int(_INT.unpack(data)[0])
    return None


def leaving_with(ttl: int) -> tuple[int, int, bytes]:
    """The control message (cmsg(3)) that gives one datagram its TTL."""
    return socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(ttl)
