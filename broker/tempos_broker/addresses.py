"""Addresses of this machine: which are its own, and which of them datagrams came to and leave from.

All events of a member leave from one address, whichever the publishers send to. It is the one that the member
asked when it subscribed; firewalls, NAT and VPNs on its way know no other. A member from the file asks
nothing: it gets them from the address that the kernel prefers towards it, if the broker listens there, else
from the first that the broker listens on and that leads there; 127.0.0.1 leads to no other machine.

A socket that is bound to one address needs no more than that. One bound to every address is told with each
datagram to which it was sent, and may say of each that it sends from which it goes (IP_PKTINFO, ip(7), Linux;
Python's socket module does not name it before 3.14).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence

#: A socket bound to this one has every address of the machine.
ANY = "0.0.0.0"  # noqa: S104 - compared with, not bound to
#: Nothing is sent there; a socket is connected to learn the way (discard, RFC 863).
_SOME_PORT = 9

#: Where events go, and the address of ours that they leave from; None: the one that the kernel prefers.
Towards = tuple[str, "str | None"]

_IP_PKTINFO, _IP_MTU = 8, 14
#: struct in_pktinfo: interface, our address (where to: of what comes in the one that an answer leaves from),
#: the destination in the header, which may be a broadcast or multicast address.
_PKTINFO = struct.Struct("=i4s4s")
#: Whether sockets that have every address can do that here, and bytes to give recvmsg for it.
TELLS = sys.platform == "linux"
SPACE = socket.CMSG_SPACE(_PKTINFO.size)


def is_local_address(ip: str) -> bool:
    """Whether a socket of this node can have this address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
        return True


def source_of(listen: Sequence[str]) -> Callable[[str, str | None], str | None]:
    """What gives the address that events to an endpoint leave from, by its IP and the address it asked.

    None: the one that the kernel prefers when they leave, of all that there are. An address that was asked
    and is no more among ``listen`` counts as none.
    """

    def choose(ip: str, asked: str | None) -> str | None:
        if ANY in listen or asked in listen:
            return asked
        if len(listen) == 1:
            return listen[0]
        preferred = way_from(ANY, ip)
        if preferred in listen:
            return preferred
        return next((address for address in listen if way_from(address, ip)), listen[0])

    return choose


def way_from(address: str, ip: str) -> str | None:
    """What the kernel sends from to ``ip``: this address, or the best of all; None: there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
            probe.connect((ip, _SOME_PORT))
        except OSError:
            return None
        found: str = probe.getsockname()[0]
        return found


def mtu_towards(towards: Towards) -> int | None:
    """The MTU of the way there as the kernel knows it, headers included; None: none, or it does not tell.

    A router on the way that has said that it takes less counts as well.
    """
    if not TELLS:
        return None
    ip, source = towards
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((source or ANY, 0))
            probe.connect((ip, _SOME_PORT))
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return None


def ask_destinations(sock: socket.socket) -> None:
    """Have the kernel tell with each datagram to which address it was sent."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def destination(ancillary: Iterable[tuple[int, int, bytes]]) -> str | None:
    """The address of ours that a datagram was sent to, from what recvmsg gave; None if that is not told."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            _, ours, _ = _PKTINFO.unpack_from(data)
            return socket.inet_ntoa(ours)
    return None


def is_for_all(ancillary: Iterable[tuple[int, int, bytes]]) -> bool:
    """Whether a datagram was sent by broadcast or multicast; not, where that is not told."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            _, ours, to = _PKTINFO.unpack_from(data)
            return bool(ours != to)
    return False


def leaving_from(address: str | None) -> list[tuple[int, int, bytes]]:
    """What sendmsg takes to send from this address of ours; None: from the one that the kernel prefers."""
    if address is None or not TELLS:
        return []
    return [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, socket.inet_aton(address), bytes(4)))]
