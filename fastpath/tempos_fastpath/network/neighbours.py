"""What the slow path asks the kernel about its members: who is next on the way to each, and is he known.

An implementation of the broker's ``Neighbours``. Needs no privilege, but for :meth:`ask`. Blocking, but for
:meth:`stirred`.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence

from tempos_fastpath.network.facts import Destination
from tempos_fastpath.network.netlink import Netlink, neighbours_told

_RTN_UNICAST = 1
_INCOMPLETE, _FAILED = 0x01, 0x20
_SO_BINDTOIFINDEX = 62
#: From so many on all neighbours are read rather than each of these.
_MANY = 64
_RTMGRP_NEIGH, _READ_SIZE = 0x4, 65536

#: An interface's index, and an address.
Place = tuple[int, str]


class KernelNeighbours:
    """``port``: the one that events leave from. ``marks``: the TOS bytes that they may have."""

    def __init__(self, port: int, marks: Collection[int] = ()) -> None:
        self._port = port
        self._marks = frozenset(marks)
        self._news: socket.socket | None = None

    def close(self) -> None:
        """Ask no more; safe to call twice."""
        if self._news is not None:
            self._news.close()

    def stirred(self) -> bool:
        """Whether any neighbour may be known no more since this was asked; the first time that is so.

        One that was known is forgotten, or found wanting, before it is being resolved again.
        """
        first = self._news is None
        if self._news is None:
            self._news = _news()
        stirred = first
        try:
            while True:
                told = neighbours_told(self._news.recv(_READ_SIZE)) or [None]
                stirred |= not all(each and each.usable for each in told)
        except BlockingIOError:
            return stirred
        except OSError:
            # Some of it was lost.
            return True

    def ways(self, towards: Sequence[tuple[str, str | None]]) -> Mapping[tuple[str, str | None], Place | str]:
        """Who is next on the way to each (address, from this one of ours), where there is anybody.

        In words why the kernel takes nothing for there, where that is so from whichever address and of
        whichever class.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            bound = probe.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
        with Netlink() as netlink:
            routes = netlink.routes([Destination(*each) for each in towards], oif=bound, port=self._port)
            found: dict[tuple[str, str | None], Place | str] = {
                where: (route.interface, route.gateway or where[0])
                for where, route in zip(towards, routes, strict=True)
                if not route.error and route.kind == _RTN_UNICAST and not route.strange
            }
            refused = {where: route for where, route in zip(towards, routes, strict=True) if route.error}
            # Rules may go by what is not asked about here.
            if refused and not netlink.rules_by_port():
                anyhow = {where: self._anyhow(*where) for where in refused}
                asked = list(dict.fromkeys(each for tries in anyhow.values() for each in tries))
                routes = netlink.routes(asked, oif=bound, port=self._port)
                errors = {each: route.error for each, route in zip(asked, routes, strict=True)}
                for where, tries in anyhow.items():
                    if all(errors[each] for each in tries):
                        found[where] = f"the kernel has no way to it ({refused[where].refusal})"
        return found

    def _anyhow(self, ip: str, source: str | None) -> list[Destination]:
        """From there, or from whichever address, and of each class."""
        return [Destination(ip, each, tos=mark) for each in (source, None) for mark in (0, *self._marks)]

    def unresolved(self, places: Collection[Place]) -> tuple[set[Place], set[Place], set[Place]]:
        """Of these: those that are known, those that are being resolved, those that could not be."""
        with Netlink() as netlink:
            found = netlink.neighbours_of(places) if len(places) < _MANY else netlink.neighbours()
        states = {(each.interface, each.ip): each.state for each in found}
        there = {place: states[place] for place in places if place in states}
        resolving = {place for place, state in there.items() if state & _INCOMPLETE}
        failed = {place for place, state in there.items() if state & _FAILED}
        known = {place for place, state in there.items() if state and place not in resolving | failed}
        return known, resolving, failed

    def ask(self, places: Collection[Place]) -> bool:
        """Have the kernel find out who these are; False: this process may not."""
        try:
            with Netlink() as netlink:
                netlink.use(places)
        except PermissionError:
            return False
        return True


def _news() -> socket.socket:
    """Where the kernel tells of neighbours from now on."""
    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
    try:
        news.setblocking(False)
        news.bind((0, _RTMGRP_NEIGH))
    except OSError:
        news.close()
        raise
    return news
