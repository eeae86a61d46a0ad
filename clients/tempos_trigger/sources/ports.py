"""Ports of this machine, one socket each, however many sources have it for a moment.

While an endpoint hands its port over to another one, both have descriptors of the same socket: what has come
in waits in the kernel for whoever reads next.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

Address = tuple[str, int]


class Ports:
    """Sockets that ``make`` binds; raises :class:`OSError` where it cannot."""

    def __init__(self, make: Callable[[Address], socket.socket]) -> None:
        self._make = make
        self._held: dict[Address, list[socket.socket]] = {}

    def take(self, address: Address) -> socket.socket:
        """A descriptor of the socket of this address."""
        held = self._held.get(address)
        sock = held[0].dup() if held else self._make(address)
        sock.setblocking(False)
        self._held.setdefault(address, []).append(sock)
        return sock

    def give(self, address: Address, sock: socket.socket) -> None:
        """Give a descriptor back; the last one closes the port."""
        held = self._held[address]
        held.remove(sock)
        if not held:
            del self._held[address]
        sock.close()
