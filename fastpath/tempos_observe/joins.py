"""Sockets that processes connect and accept, counted by family and by protocol (joins.h)."""

from __future__ import annotations

import socket

from tempos_observe import calls

CONNECT, ACCEPT = 1, 2
#: The counters, in the order in which they are shown.
WAYS = {"accept": ACCEPT, "connect": CONNECT}
TABLE = {"connect": CONNECT, "accept": ACCEPT, "accept4": ACCEPT}
HOOK = "tracepoint sys_exit: connect, whatever came of it, and accept and accept4 that gave a socket"
BLIND = (
    "datagrams that are sent without connecting: tempos observe socketio",
    "connections that the kernel makes for itself, and calls that have not ended yet",
    *calls.BLIND,
)
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
_FAMILIES = {int(each): each.name for each in socket.AddressFamily}
_PROTOCOLS = {
    int(value): name
    for name, value in vars(socket).items()
    if name.startswith("IPPROTO_") and isinstance(value, int)
}


def family_name(family: int) -> str | None:
    """AF_INET of 2."""
    return _FAMILIES.get(family)


def protocol_name(family: int, protocol: int) -> str | None:
    """IPPROTO_UDP of 17; other families number their protocols in their own way, and have no such names."""
    return _PROTOCOLS.get(protocol) if family in _INTERNET else None
