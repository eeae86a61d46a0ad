"""The figures that measurements are boiled down to. Each is computed here and nowhere else."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """A median and the middle half around it. ``values``: what it is the summary of."""

    median: float
    low: float
    high: float
    values: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def spread(self) -> float:
        """Width of the middle half, as a share of the median; 0 where the median is 0."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of all are not above (nearest rank); nan of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles; nan of none."""
    if not values:
        return Summary(math.nan, math.nan, math.nan)
    return Summary(statistics.median(values), percentile(values, 25), percentile(values, 75), tuple(values))


def interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """The ends of what holds the median with that confidence, whatever the distribution of the values.

    They are two of the values themselves, so many from either end as coins thrown for each value allow: on
    which side of the median it lies. None where the values are too few for that confidence.
    """
    ordered = sorted(values)
    number, outside, cut = len(ordered), 0.0, -1
    for heads in range(number // 2 + 1):
        outside += math.comb(number, heads) / 2**number
        if 2 * outside > 1 - confidence:
            break
        cut = heads
    return (ordered[cut], ordered[number - 1 - cut]) if cut >= 0 else None


def moved(
    old: Sequence[float], new: Sequence[float], confidence: float, between: Callable[[float, float], float]
) -> tuple[float, float] | None:
    """The ends of what holds the change from ``old`` to ``new`` with that confidence (Hodges and Lehmann).

    ``between``: the change from one value to another. Whatever the distribution of the values: the ends are
    two of the changes from each old value to each new one, cut by the distribution of Mann and Whitney's U.
    None where both are too few: four and four can be mixed in 70 ways, and none of those is the one of 200.
    """
    cut = _cut(len(old), len(new), (1 - confidence) / 2)
    found = sorted(between(before, after) for before in old for after in new)
    return (found[cut - 1], found[-cut]) if cut else None


@functools.cache
def _cut(left: int, right: int, share: float) -> int:
    """How many of the changes lie outside at each end: P(U < cut) is at most ``share``."""
    allowed = share * math.comb(left + right, left)
    # In how many ways U can be 0, 1, 2, ...: the coefficients of Gauss's binomial.
    ways = [1] + [0] * (left * right // 2)
    for step in range(1, left + 1):
        for at in range(len(ways) - 1, right + step - 1, -1):
            ways[at] -= ways[at - right - step]
        for at in range(step, len(ways)):
            ways[at] += ways[at - step]
    return sum(seen <= allowed for seen in itertools.accumulate(ways))


def in_blocks(values: Sequence[T], sizes: Sequence[int]) -> list[Sequence[T]]:
    """The values of one set-up beside each other; each by itself where no sizes are given."""
    if len(sizes) < 2 or sum(sizes) != len(values):
        return [[value] for value in values]
    ends = list(itertools.accumulate(sizes))
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def ratio(above: float, below: float) -> float:
    """``above / below``; nan where nothing is below: of nothing there is no share."""
    return above / below if below else math.nan


def ratios(above: Sequence[float], below: Sequence[float]) -> Summary:
    """Round by round ``above / below``: what both sides of a round suffered alike cancels out."""
    return summarize([ratio(a, b) for a, b in zip(above, below, strict=True)])


def differences(left: Sequence[float], right: Sequence[float]) -> Summary:
    """Round by round ``left - right``."""
    return summarize([a - b for a, b in zip(left, right, strict=True)])


def rate_between(marks: Sequence[tuple[int, int]], began_ns: int, ended_ns: int) -> float:
    """Growth per second of a counter, from (nanoseconds, count) marks inside an interval; nan without two."""
    inside = [mark for mark in marks if began_ns <= mark[0] <= ended_ns]
    if len(inside) < 2 or inside[-1][0] == inside[0][0]:
        return math.nan
    (first_ns, first), (last_ns, last) = inside[0], inside[-1]
    return (last - first) / (last_ns - first_ns) * 1e9
