"""The data sockets: bound, sized and set up alike for both ways of doing I/O.

A listen address has a socket of its own, and an event leaves by the socket it came in by, so that it
carries the address its publisher sent to, as on the fast path. Python's socket module does not name
the Linux options used here; their numbers are those of <linux/in.h> and <asm-generic/socket.h>.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable

from tempos import LocalError, Unavailable

_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DO = 2
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8
_WILDCARD = "0.0.0.0"  # noqa: S104 - compared with, not bound to

_HINTS = {
    errno.EADDRINUSE: "another program has this port: stop it (`ss -ulpn` names it), or change the port",
    errno.EADDRNOTAVAIL: "no interface has this address: change `listen` (`ip -4 address` shows them)",
    errno.EACCES: "ports below 1024 need a privilege: run with CAP_NET_BIND_SERVICE, or change the port",
}


class DataSocket:
    """A bound, non-blocking UDP socket, and what the kernel dropped in front of it."""

    def __init__(self, address: str, port: int, receive_buffer: int) -> None:
        """Bind ``address``:``port``, asking the kernel for ``receive_buffer`` bytes.

        Raises :class:`Unavailable` if the machine does not allow it.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            _grow_receive_buffer(sock, receive_buffer)
            if sys.platform == "linux":
                # Never fragment: an event too large for the way is an error that is counted.
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
                if address == _WILDCARD:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            hint = _HINTS.get(error.errno or 0, "")
            text = f"cannot listen on {address}:{port}/udp: {error.strerror}"
            raise Unavailable(f"{text}; {hint}" if hint else text) from error
        except (OverflowError, TypeError) as error:
            sock.close()
            raise LocalError(f"cannot listen on {address!r}, port {port!r}: {error}") from error
        self.sock = sock
        self._drops = 0

    def __str__(self) -> str:
        address, port = self.sock.getsockname()
        return f"{address}:{port}"

    @property
    def receive_buffer(self) -> int:
        """Bytes the kernel gave. Linux doubles what it is asked for, to have room for its own bookkeeping."""
        given = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return given // 2 if sys.platform == "linux" else given

    def overruns(self) -> int:
        """Datagrams the kernel dropped in front of this socket since the last call.

        Read from SO_MEMINFO rather than from SO_RXQ_OVFL messages: those travel with the next datagram
        that gets through, so the drops at the end of a burst would stay unknown. Systems that have
        neither count nothing.
        """
        if sys.platform != "linux":
            return 0
        drops = _MEMINFO.unpack(self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[
            _MEMINFO_DROPS
        ]
        new = (drops - self._drops) & 0xFFFFFFFF
        self._drops = drops
        return int(new)

    def close(self) -> None:
        self.sock.close()


def open_all(addresses: Iterable[str], port: int, receive_buffer: int) -> list[DataSocket]:
    """All of them or none."""
    opened: list[DataSocket] = []
    try:
        for address in addresses:
            opened.append(DataSocket(address, port, receive_buffer))  # noqa: PERF401 - what is open must be known
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _grow_receive_buffer(sock: socket.socket, size: int) -> None:
    # FORCE goes beyond net.core.rmem_max, but only with CAP_NET_ADMIN.
    options = (_SO_RCVBUFFORCE, socket.SO_RCVBUF) if sys.platform == "linux" else (socket.SO_RCVBUF,)
    for option in options:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            continue
        return
