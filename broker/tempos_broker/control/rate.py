"""How often an address may ask: token buckets, one for each source and one for all together.

A bucket holds ``burst`` tokens at most, gains ``rate`` a second, and a request takes one. The table of
sources is bounded: the one that has been quiet for longest is forgotten first. Forged addresses can make
a source forgotten early, which gives it a full bucket again; the bucket for all bounds what that is worth.
"""

from __future__ import annotations

from collections import OrderedDict

#: Sources remembered at a time.
MAX_SOURCES = 4096
#: Seconds' worth of requests that may come at once.
BURST = 2.0
#: All sources together may ask so many times as often as one.
ALL = 10


class Bucket:
    """Tokens of one source; ``now`` is a monotonic clock in seconds."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, burst: float, now: float) -> None:
        self._tokens = burst
        self._at = now

    def fill(self, rate: float, burst: float, now: float) -> bool:
        """Add what has come in since the last time; whether there is a token."""
        self._tokens = min(burst, self._tokens + max(0.0, now - self._at) * rate)
        self._at = now
        return self._tokens >= 1

    def take(self) -> None:
        """Take a token that :meth:`fill` has found."""
        self._tokens -= 1


class RateLimit:
    """Whether a source may ask now. ``rate``: requests per second of one source."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._all = Bucket(rate * ALL * BURST, 0.0)
        self._sources: OrderedDict[str, Bucket] = OrderedDict()

    @property
    def sources(self) -> int:
        """How many sources are remembered."""
        return len(self._sources)

    def allows(self, source: str, now: float) -> bool:
        """Take a token for a request of this source, unless the source or all together have none left."""
        rate, burst = self._rate, self._rate * BURST
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.popitem(last=False)
            bucket = self._sources[source] = Bucket(burst, now)
        else:
            self._sources.move_to_end(source)
        # A source that may not ask takes nothing from the others.
        if not bucket.fill(rate, burst, now) or not self._all.fill(rate * ALL, burst * ALL, now):
            return False
        bucket.take()
        self._all.take()
        return True
