"""When to look at whose lease, without looking at anybody's before.

A heap with one valid entry for each holder: the end of its lease that was known when it was made.
Renewals do not touch it; what was renewed is noted anew when its turn has come.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

from tempos_broker.account.accounts import Holder


class Leases:
    """``ends`` tells when the lease of a holder ends; None: it has none."""

    def __init__(self, ends: Callable[[Holder], float | None]) -> None:
        self._ends = ends
        #: An entry is void unless it says the time that is awaited.
        self._heap: list[tuple[float, Holder]] = []
        self._awaited: dict[Holder, float] = {}

    def begun(self, holder: Holder, ends: float) -> None:
        """A lease that ends then; one that the holder has already and that ends sooner counts."""
        if ends < self._awaited.get(holder, math.inf):
            self._awaited[holder] = ends
            heapq.heappush(self._heap, (ends, holder))

    def due(self, now: float) -> Iterator[Holder]:
        """Holders whose lease may have ended by now; what has ended is to be gone before the next."""
        while self._heap and self._heap[0][0] <= now:
            when, holder = heapq.heappop(self._heap)
            if self._awaited.get(holder) == when:
                yield holder
                self._again(holder, self._ends(holder))

    def next(self) -> float | None:
        """When the next lease ends, or None."""
        while self._heap:
            when, holder = self._heap[0]
            void = self._awaited.get(holder) != when
            earliest = None if void else self._ends(holder)
            if earliest is not None and earliest <= when:
                return when
            heapq.heappop(self._heap)
            if not void:
                self._again(holder, earliest)
        return None

    def _again(self, holder: Holder, earliest: float | None) -> None:
        del self._awaited[holder]
        if earliest is not None:
            self.begun(holder, earliest)
