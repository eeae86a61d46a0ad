"""Sockets that are bound before their address is there (IP_FREEBIND, ip(7)): on Linux alone."""

from __future__ import annotations

import socket
import sys

#: The socket module does not name it.
_IP_FREEBIND = 15


def may_come_later(sock: socket.socket) -> None:
    """Let a socket be bound to an address that this machine does not have yet, where that can be had.

    Until it comes nothing comes in there, and what is sent from there is refused.
    """
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def listening(address: tuple[str, int], backlog: int, *, early: bool = False) -> socket.socket:
    """A TCP socket that listens; ``early``: at an address that may come later (Linux).

    Raises :class:`OSError` with the system's own words alone: who asks for it names the address.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if early:
            may_come_later(listener)
        listener.bind(address)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener
