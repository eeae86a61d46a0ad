"""How often an address may ask, how much a member may be sent: token buckets, of each and of all together.

A bucket holds ``burst`` tokens at most, gains ``rate`` a second, and a request takes one. The table of
sources is bounded: the one that has been quiet for longest is forgotten first. Forged addresses can make
a source forgotten early, which gives it a full bucket again; the bucket for all bounds what that is worth.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: Sources remembered at a time.
MAX_SOURCES = 4096
#: Seconds' worth of requests that may come at once.
BURST = 2.0
#: All sources together may ask so many times as often as one.
ALL = 10


class Bucket:
    """Tokens of one, or of all; ``now`` is a monotonic clock in seconds."""

    __slots__ = ("_at", "tokens")

    def __init__(self, burst: float, now: float) -> None:
        self.tokens = burst
        self._at = now

    def fill(self, rate: float, burst: float, now: float) -> bool:
        """Add what has come in since the last time; whether there is a token."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self._at) * rate)
        self._at = now
        return self.tokens >= 1

    def take(self, count: int = 1) -> None:
        """Take tokens that :meth:`fill` has found."""
        self.tokens -= count


class RateLimit:
    """Whether a source may ask now. ``rate``: requests per second of one source."""

    def __init__(self, rate: float) -> None:
        self._all = Bucket(rate * ALL * BURST, 0.0)
        self._all_rate, self._all_burst = rate * ALL, rate * BURST * ALL
        #: Seconds that a request takes of its source's time, and how far ahead of its time one may come.
        # A little more, for sums of such times are not exact.
        self._each, self._ahead = 1 / rate, BURST - 1 / rate + 1e-9
        #: A bucket as one number: when it would be full again.
        self._sources: OrderedDict[str, float] = OrderedDict()

    @property
    def sources(self) -> int:
        """How many sources are remembered."""
        return len(self._sources)

    def allows(self, source: str, now: float) -> bool:
        """Take a token for a request of this source, unless the source or all together have none left."""
        sources = self._sources
        full = sources.get(source)
        if full is None:
            if len(sources) >= MAX_SOURCES:
                sources.popitem(last=False)
            full = sources[source] = now
        else:
            sources.move_to_end(source)
        # A clock that was set back takes nothing from anybody.
        full = now if full <= now or full > now + 2 * BURST else full
        # A source that may not ask takes nothing from the others.
        if full - now > self._ahead or not self._all.fill(self._all_rate, self._all_burst, now):
            return False
        sources[source] = full + self._each
        self._all.take()
        return True


class Allowance:
    """How many of something each may have now. ``rate``: a second, ``burst``: at once; ``all_*``: of all."""

    def __init__(self, rate: float, burst: float, all_rate: float, all_burst: float) -> None:
        self._each, self._together = (rate, burst), (all_rate, all_burst)
        self._all = Bucket(all_burst, 0.0)
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def left(self, who: Hashable, now: float) -> int:
        """How many these are."""
        bucket = self._buckets.pop(who, None) or Bucket(self._each[1], now)
        self._buckets[who] = bucket
        while len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        bucket.fill(*self._each, now)
        self._all.fill(*self._together, now)
        return int(min(bucket.tokens, self._all.tokens))

    def take(self, who: Hashable, count: int) -> None:
        """Take so many of what is :meth:`left`."""
        self._buckets[who].take(count)
        self._all.take(count)
