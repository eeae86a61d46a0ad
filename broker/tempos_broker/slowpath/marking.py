"""How what leaves is marked: the DSCP (RFC 2474) in each IPv4 header, and SO_PRIORITY for the qdiscs.

Set on the socket of a class, and read back: what the kernel did not take is told. Where both classes leave by
one socket, the DSCP travels with each datagram; the kernel then derives the priority from it
(rt_tos2priority), and the socket's own has no say.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from dataclasses import dataclass

_SO_PRIORITY = 12
_TOS = struct.Struct("@i")
#: The lower two bits of the byte are ECN's.
_ECN_BITS = 2


@dataclass(frozen=True, slots=True)
class Marking:
    """``dscp``: 0-63. ``priority``: SO_PRIORITY, 0-15; above 6 the kernel wants CAP_NET_ADMIN."""

    dscp: int = 0
    priority: int = 0

    @property
    def tos(self) -> int:
        """The byte of the IPv4 header."""
        return self.dscp << _ECN_BITS


@dataclass(frozen=True, slots=True)
class Marked:
    """What is really set; ``reason``: what is not as it was asked for, or empty."""

    marking: Marking
    reason: str = ""


def mark(sock: socket.socket, wanted: Marking) -> Marked:
    """Mark what leaves by a socket."""
    if read_back(sock) == wanted:
        # Whoever set it may have had privileges that are gone.
        return Marked(wanted)
    refused = []
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, wanted.tos)
    except OSError as error:
        refused.append(f"DSCP {wanted.dscp}: {error.strerror}")
    if sys.platform != "linux":
        refused.append("SO_PRIORITY needs Linux")
    else:
        # IP_TOS sets a priority, too: so this comes second.
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_PRIORITY, wanted.priority)
        except OSError as error:
            hint = " (above 6 it needs CAP_NET_ADMIN)" if wanted.priority > 6 else ""
            refused.append(f"SO_PRIORITY {wanted.priority}: {error.strerror}{hint}")
    return Marked(read_back(sock), "; ".join(refused))


def mark_each(wanted: Marking) -> Marked:
    """What holds of datagrams that carry their mark each; raises :class:`OSError` if that cannot be."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.sendmsg([b""], [tos_message(wanted.tos)], 0, receiver.getsockname())
        # A socket's priority follows from its DSCP in the same way.
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, wanted.tos)
        derived = read_back(sender)
    if derived == wanted:
        return Marked(wanted)
    return Marked(
        derived,
        f"SO_PRIORITY {wanted.priority}: with one socket for both classes it follows from the DSCP",
    )


def tos_message(tos: int) -> tuple[int, int, bytes]:
    """The control message (cmsg(3)) that marks one datagram."""
    return socket.IPPROTO_IP, socket.IP_TOS, _TOS.pack(tos)


def read_back(sock: socket.socket) -> Marking:
    """How what leaves by a socket is marked now."""
    dscp = priority = 0
    with contextlib.suppress(OSError):
        dscp = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> _ECN_BITS
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            priority = sock.getsockopt(socket.SOL_SOCKET, _SO_PRIORITY)
    return Marking(dscp, priority)
