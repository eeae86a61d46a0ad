"""The figures that measurements are boiled down to. Each is computed here and nowhere else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


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
