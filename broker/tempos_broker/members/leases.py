"""When to look at whose leases, without looking at anybody's before.

A heap with one valid entry for each endpoint: the earliest end of a lease that was known when it was made.
Renewals do not touch it; what was renewed is noted anew when its turn has come.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

#: IPv4 address and UDP port.
Endpoint = tuple[str, int]


class Leases:
    """``earliest`` tells when the first lease of an endpoint ends; None: it has none."""

    def __init__(self, earliest: Callable[[Endpoint], float | None]) -> None:
        self._earliest = earliest
        #: An entry is void unless it says the time that is awaited.
        self._heap: list[tuple[float, Endpoint]] = []
        self._awaited: dict[Endpoint, float] = {}

    def begun(self, endpoint: Endpoint, ends: float) -> None:
        """A lease that ends then; one that an endpoint has already and that ends sooner counts."""
        if ends < self._awaited.get(endpoint, math.inf):
            self._awaited[endpoint] = ends
            heapq.heappush(self._heap, (ends, endpoint))

    def due(self, now: float) -> Iterator[Endpoint]:
        """Endpoints of which a lease may have ended by now; what has ended is to be gone before the next."""
        while self._heap and self._heap[0][0] <= now:
            when, endpoint = heapq.heappop(self._heap)
            if self._awaited.get(endpoint) == when:
                yield endpoint
                self._again(endpoint, self._earliest(endpoint))

    def next(self) -> float | None:
        """When the next lease ends, or None."""
        while self._heap:
            when, endpoint = self._heap[0]
            void = self._awaited.get(endpoint) != when
            earliest = None if void else self._earliest(endpoint)
            if earliest is not None and earliest <= when:
                return when
            heapq.heappop(self._heap)
            if not void:
                self._again(endpoint, earliest)
        return None

    def _again(self, endpoint: Endpoint, earliest: float | None) -> None:
        del self._awaited[endpoint]
        if earliest is not None:
            self.begun(endpoint, earliest)
