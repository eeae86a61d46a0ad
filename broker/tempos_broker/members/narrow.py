"""How large a datagram may be that all members of a topic get: what publishers are told.

Nothing is ever fragmented, so a member behind a narrower way than the others loses whatever is larger than
that takes. The kernel tells of each way, narrower hops that it has heard of included. Rules: what is known is
good for some seconds; no question takes longer than a few milliseconds, however many members there are: what
is not known yet narrows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from tempos import Member
from tempos.wire import IP_UDP_OVERHEAD
from tempos_broker.addresses import Towards, mtu_towards

#: Seconds that an answer of the kernel is good for; ways that are asked for at once.
GOOD_FOR, AT_ONCE = 2.0, 256
#: Ways that are kept in mind.
KEPT = 4096


class Narrowest:
    """``datagram``: bytes that the broker takes. ``measure``: the MTU of a way, None where there is none."""

    def __init__(
        self,
        datagram: int,
        measure: Callable[[Towards], int | None] = mtu_towards,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.datagram = datagram
        self._measure = measure
        self._now = now
        self._known: dict[Towards, tuple[float, int | None]] = {}

    def largest(self, members: Iterable[Member], absent: AbstractSet[Towards] = frozenset()) -> int:
        """Bytes of UDP payload that all of these get, but for those that are left out for they are absent."""
        now, asked, largest = self._now(), 0, self.datagram
        for towards in {(member.ip, member.source) for member in members} - absent:
            until, mtu = self._known.get(towards, (0.0, None))
            if now >= until and asked < AT_ONCE:
                asked += 1
                mtu = self._measure(towards)
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[towards] = now + GOOD_FOR, mtu
            if mtu is not None:
                largest = min(largest, mtu - IP_UDP_OVERHEAD)
        return largest
