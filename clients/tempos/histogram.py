"""Histograms of time, in the buckets of fastpath/bpf/abi.h.

Buckets are 1 ns wide up to 8 ns; from there on each power of two has 8 of them. A time is known to its
bucket: the end of one is at most an eighth more than its begin. Beyond the last (17 s) they are only counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tempos._abi import LATENCY_BUCKETS, LATENCY_STEP_BITS

_STEPS = 1 << LATENCY_STEP_BITS


def bounds(index: int) -> tuple[int, int]:
    """The times in ns that a bucket counts: from, and below which."""
    if not 0 <= index < LATENCY_BUCKETS:
        raise IndexError(f"there are {LATENCY_BUCKETS} buckets, none is number {index}")
    shift = max(0, index // _STEPS - 1)
    low = (index - shift * _STEPS) << shift
    return low, low + (1 << shift)


@dataclass(frozen=True, slots=True)
class Histogram:
    """``buckets``: how many times fell into each. ``longest``: of those, ns; 0 if there are none.

    ``beyond``: how many were longer than any bucket reaches. ``ahead``: how many began after they ended, as
    two clocks saw it.
    """

    buckets: tuple[int, ...]
    longest: int = 0
    beyond: int = 0
    ahead: int = 0

    @property
    def measured(self) -> int:
        """Those that fell into a bucket."""
        return sum(self.buckets)

    @property
    def count(self) -> int:
        """All that were counted."""
        return self.measured + self.beyond + self.ahead

    def filled(self) -> Iterator[tuple[int, int, int]]:
        """The buckets that are not empty: from, below which, how many."""
        for index, count in enumerate(self.buckets):
            if count:
                yield (*bounds(index), count)

    def percentile(self, share: float) -> int | None:
        """The time in ns that at least ``share`` percent did not exceed; None if nothing was measured.

        Never less than it was, and at most an eighth more. Raises :class:`ValueError` if ``share`` is not
        above 0 and at most 100.
        """
        if not 0 < share <= 100:
            raise ValueError(f"{share} is no percentage above 0 and at most 100")
        wanted, reached = self.measured * share / 100, 0
        for _, above, count in self.filled():
            reached += count
            if reached >= wanted:
                return min(above - 1, self.longest)
        return None


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the events of one topic that the fast path forwarded.

    ``program``: from the entry of the program to its redirect. ``since_sent``: from the send time in the
    event to that moment; empty for a topic without event framing.
    """

    program: Histogram
    since_sent: Histogram
