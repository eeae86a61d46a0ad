"""Which address of this machine a datagram came to, and leaves from: IP_PKTINFO (ip(7), Linux).

A socket bound to one address needs none of it. One bound to every address is told with each datagram to which
it was sent, and may say of each that it sends from which it goes; otherwise the kernel takes the one that it
prefers towards the destination. Python's socket module does not name the option before 3.14.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

#: A socket bound to this one has every address of the machine.
ANY = "0.0.0.0"  # noqa: S104 - compared with, not bound to

_IP_PKTINFO = 8
#: struct in_pktinfo: interface, our address (where to: of what comes in the one that an answer leaves from),
#: the destination in the header, which may be a broadcast or multicast address.
_PKTINFO = struct.Struct("=i4s4s")

LINUX = sys.platform == "linux"
#: Bytes to give recvmsg for it.
SPACE = socket.CMSG_SPACE(_PKTINFO.size)

Ancillary = list[tuple[int, int, bytes]]


def ask(sock: socket.socket) -> None:
    """Have the kernel tell with each datagram to which address it was sent."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def sent_to(ancillary: Iterable[tuple[int, int, bytes]]) -> str | None:
    """The address of ours that a datagram was sent to, from what recvmsg gave; None if that is not told."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            _, ours, _ = _PKTINFO.unpack_from(data)
            return socket.inet_ntoa(ours)
    return None


def from_address(address: str | None) -> Ancillary:
    """What sendmsg takes to send from this address of ours; None: from the one that the kernel prefers."""
    if address is None or not LINUX:
        return []
    return [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, socket.inet_aton(address), bytes(4)))]
