"""Which members are there, as far as the kernel can tell: who is next on the way, and whether it answers.

What is sent to a neighbour that does not answer waits for it in the kernel, up to three seconds, and takes
the room of all others in the socket that it was sent by. So members behind one are left out until the kernel
has resolved it. Sans-IO: time is an argument.

Rules: one that fails to be resolved is absent at once, one that is being resolved only if that lasts, or if a
socket is full already; it is there again as soon as the kernel knows it, and not because its entry is gone.
Who is absent is asked for again and again. Nobody waits for one that no way leads to, but each datagram for
it is an error that breaks off a batch: it is absent if that lasts, and there again with the first way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tempos_broker.addresses import Towards

#: Seconds that resolving may take where nobody else suffers from it; and between two tries for who is absent.
LASTS, ASK_AGAIN = 0.4, 1.0


class Hop(NamedTuple):
    """Who is next on a way: the index of the interface, and an address."""

    interface: int
    ip: str


class State(Enum):
    """What the kernel knows of a neighbour."""

    KNOWN = "known"
    RESOLVING = "resolving"
    FAILED = "failed"


@dataclass(slots=True)
class _Unresolved:
    since: float
    asked: float
    absent: bool = False


class Presence:
    """Keeps in mind which neighbours do not answer."""

    def __init__(self) -> None:
        self._ways: dict[Towards, Hop] = {}
        self._unresolved: dict[Hop, _Unresolved] = {}
        #: Where members are that no way leads to, and since when.
        self._nowhere: dict[Towards, float] = {}
        #: Where members are that are left out.
        self.absent: frozenset[Towards] = frozenset()

    @property
    def unresolved(self) -> int:
        """Neighbours that packets may wait for in the kernel."""
        return len(self._unresolved)

    def hop(self, towards: Towards) -> Hop | None:
        """Who is next on the way there."""
        return self._ways.get(towards)

    def look(
        self,
        ways: Mapping[Towards, Hop],
        states: Mapping[Hop, State],
        now: float,
        *,
        full: bool = False,
        nowhere: Collection[Towards] = (),
    ) -> bool:
        """Go by what the kernel says now; whether other members are absent than before.

        ``ways``: who is next on the way to each member; one without a way waits for nobody. ``states``: what
        is known of these, where the kernel has an entry for it. ``full``: a socket takes no more.
        ``nowhere``: members that the kernel takes nothing for.
        """
        self._ways = dict(ways)
        wanted = set(ways.values())
        for gone in self._unresolved.keys() - wanted:
            del self._unresolved[gone]
        for hop in wanted:
            state = states.get(hop)
            known = self._unresolved.get(hop)
            if state is State.KNOWN:
                self._unresolved.pop(hop, None)
            elif state is not None:
                if known is None:
                    known = self._unresolved[hop] = _Unresolved(now, now)
                lasts = now - known.since >= LASTS
                known.absent |= state is State.FAILED or full or lasts
            elif known is not None and not known.absent:
                # Asked for no more, and not found wanting.
                del self._unresolved[hop]
        self._nowhere = {towards: self._nowhere.get(towards, now) for towards in nowhere}
        before = self.absent
        silent = {
            towards
            for towards, hop in ways.items()
            if (known := self._unresolved.get(hop)) is not None and known.absent
        }
        lost = {towards for towards, since in self._nowhere.items() if now - since >= LASTS}
        self.absent = frozenset(silent | lost)
        return self.absent != before

    def to_ask(self, states: Mapping[Hop, State], now: float) -> list[Hop]:
        """Whom the kernel is to ask for now, for nothing is sent there that would have it do so."""
        due = [
            hop
            for hop, each in self._unresolved.items()
            if each.absent and states.get(hop) is not State.RESOLVING and now - each.asked >= ASK_AGAIN
        ]
        for hop in due:
            self._unresolved[hop].asked = now
        return due

    def behind(self, hops: Iterable[Hop]) -> list[Towards]:
        """A member's place behind each of these."""
        first: dict[Hop, Towards] = {}
        for towards, hop in self._ways.items():
            first.setdefault(hop, towards)
        return [first[hop] for hop in hops if hop in first]
