"""What several tools say of sockets: addresses as text, and whose a socket is."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tempos_observe.frame.session import Session
from tempos_observe.tool import Hook

_V4_LEN = 4
#: To know whose a socket is; for the hooks of a tool that uses :func:`owners`.
OWNERS = Hook(
    "tempos_owners",
    "iterator task_file: who has a socket open, when it is shown",
    without="whose a socket is",
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a socket open. ``others``: how many more have it, too."""

    pid: int
    comm: str
    others: int = 0


@lru_cache(4096)
def address(raw: bytes, family: int) -> str:
    """An address as people write it; `*`: any."""
    if family == socket.AF_INET:
        return "*" if not any(raw[:_V4_LEN]) else socket.inet_ntop(socket.AF_INET, raw[:_V4_LEN])
    if family == socket.AF_INET6:
        return "*" if not any(raw) else socket.inet_ntop(socket.AF_INET6, raw)
    return "?"


def owners(session: Session) -> Mapping[int, Owner]:
    """Who has which socket open now, by its inode."""
    if OWNERS.program not in session.has:
        return {}
    found: dict[int, dict[int, str]] = {}
    for each in session.iterate(OWNERS.program, "tempos_owner"):
        found.setdefault(each.inode, {})[each.pid] = each.comm
    return {
        inode: Owner(min(processes), processes[min(processes)], len(processes) - 1)
        for inode, processes in found.items()
    }
