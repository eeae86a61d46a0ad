"""Says that something in the network may have changed; what it is, the next snapshot tells.

Netlink sockets on the groups for links, neighbours, addresses, routes, next hops, rules and IPv4's settings,
and on the one that tells what devices can do (a veth's peer whose GRO was toggled), are read only to be
emptied: their messages are a trigger, so a lost one (ENOBUFS) is as good as any other. Told apart is only
whether it may have been more than neighbours: those change all the time. The kernel tells of one that it has
heard again as of any other, so those that are as they are known to be trigger nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from tempos_fastpath.network.netlink import neighbours_told

#: link, neigh, IPv4 ifaddr, IPv4 route, IPv4 rule, how interfaces take IPv4 (rp_filter), and next hops that
#: are objects of their own
_RTMGRP = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 1 << 23 | 1 << 31
_NETLINK_GENERIC = 16
#: IPsec's policies, and the rules of nftables.
_ELSEWHERE = ((6, 1 << 3), (12, 1 << 6))
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
#: Seconds from the first event of a burst to the call.
SETTLE = 0.05
_READ_SIZE = 65536


class ChangeTrigger:
    """Calls ``callback`` on the running event loop once per burst of events.

    Its argument: whether anything but neighbours may have changed.
    ``is_known``: whether it is known, and not being found out just now, that a neighbour (the index of its
    interface, its address) has this MAC, or none that can be used.
    ``features``: the generic netlink group of device features, 0 where the kernel has none.
    """

    def __init__(
        self,
        callback: Callable[[bool], None],
        features: int = 0,
        is_known: Callable[[int, str, str], bool] = lambda ifindex, ip, mac: False,
    ) -> None:
        self._callback = callback
        self._is_known = is_known
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._more = False
        self._sockets: list[socket.socket] = []
        try:
            self._listen(socket.NETLINK_ROUTE, _RTMGRP)
            for family, groups in _ELSEWHERE:
                # Kernels have it or not, and only the privileged may listen; the regular look sees it, too.
                with contextlib.suppress(OSError):
                    self._listen(family, groups)
            if features:
                self._listen(_NETLINK_GENERIC, 0).setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, features)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop calling; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()
        self._sockets.clear()

    def _listen(self, family: int, groups: int) -> socket.socket:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        netlink.setblocking(False)
        try:
            netlink.bind((0, groups))
        except OSError:
            netlink.close()
            raise
        self._sockets.append(netlink)
        self._loop.add_reader(netlink, self._drain, netlink)
        return netlink

    def _drain(self, netlink: socket.socket) -> None:
        news = False
        try:
            while True:
                data = netlink.recv(_READ_SIZE)
                told = neighbours_told(data) if netlink.proto == socket.NETLINK_ROUTE else None
                self._more |= told is None
                news |= told is None or not all(
                    each and self._is_known(each.interface, each.ip, each.usable) for each in told
                )
        except BlockingIOError:
            pass
        except OSError:
            # ENOBUFS: events were lost, and that too means: look again.
            self._more = news = True
        if news and self._timer is None:
            self._timer = self._loop.call_later(SETTLE, self._fire)

    def _fire(self) -> None:
        self._timer = None
        more, self._more = self._more, False
        self._callback(more)
