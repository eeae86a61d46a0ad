"""Says that something in the network may have changed; what it is, the next snapshot tells.

A netlink socket on the link, neighbour, address and route groups is read only to be emptied: its
messages are a trigger, so a lost one (ENOBUFS) is as good as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

_RTMGRP = 0x1 | 0x4 | 0x10 | 0x40  # link, neigh, IPv4 ifaddr, IPv4 route
#: Seconds from the first event of a burst to the call.
SETTLE = 0.05
_READ_SIZE = 65536


class ChangeTrigger:
    """Calls ``callback`` on the running event loop once per burst of events."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, _RTMGRP))
            self._loop.add_reader(self._socket, self._drain)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Stop calling; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _drain(self) -> None:
        # BlockingIOError: empty. ENOBUFS: events were lost, and that too means: look again.
        with contextlib.suppress(OSError):
            while self._socket.recv(_READ_SIZE):
                pass
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._callback()
