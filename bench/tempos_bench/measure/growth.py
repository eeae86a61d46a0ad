"""Whether something grows while a run goes on: a slope, an interval around it, and a word.

Samples of one *life* have a level of their own, and only what happens inside of lives is looked at; what goes
on over all of them (a file) is one life. Neighbouring samples resemble each other, so the interval comes from
stretches of neighbours, drawn again and again (a block bootstrap); with few stretches there is none.

A *robust* slope is the median of those of all pairs within a life (Theil and Sen): samples that have nothing
in common with the others, a quarter of all at most, do not change it much. It is for some hundred samples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import TypeAlias

from tempos_bench.measure.stats import percentile

#: Stretches that the samples are cut into, and how often as many are drawn again; the same of robust slopes.
STRETCHES, DRAWS, ROBUST_DRAWS = 12, 1000, 300
#: Seconds that say something of an hour.
SPAN = 600.0
#: Of the interval around a slope.
CONFIDENCE = 99.0
_HOUR = 3600.0
_Point: TypeAlias = tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """A value ``at`` so many seconds of the run, in a life of the program."""

    at: float
    life: int
    value: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth per hour as a share of the level: what it is, and between what it is.

    ``verdict``: `flat` if the whole interval is within the tolerance, `grows` if all of it is beyond, else
    `unclear`, as is whatever was looked at for less than :data:`SPAN`.
    """

    level: float
    per_hour: float
    low: float
    high: float
    verdict: str


def growth(samples: Sequence[Sample], tolerance: float, seed: int = 1, *, robust: bool = False) -> Growth:
    """The growth of what was sampled; ``tolerance``: so much an hour, as a share of the level, is flat."""
    if not samples:
        return Growth(math.nan, math.nan, -math.inf, math.inf, "unclear")
    values = [each.value for each in samples]
    level = percentile(values, 50) or max(values)
    points = _centred(samples)
    slope_of = _median_slope if robust else _slope
    slope = slope_of(points)
    if not any(values):
        return Growth(0.0, 0.0, 0.0, 0.0, "flat")
    span = samples[-1].at - samples[0].at
    if span < SPAN or len(points) < 2 * STRETCHES or math.isnan(slope) or not level:
        share = slope * _HOUR / level if level else math.nan
        return Growth(level, share, -math.inf, math.inf, "unclear")
    size = math.ceil(len(points) / STRETCHES)
    stretches = [points[first : first + size] for first in range(0, len(points), size)]
    rng = random.Random(seed)
    drawn = [slope_of([p for each in rng.choices(stretches, k=len(stretches)) for p in each])
             for _ in range(ROBUST_DRAWS if robust else DRAWS)]  # fmt: skip
    slopes = [each for each in drawn if not math.isnan(each)]
    beyond = (100 - CONFIDENCE) / 2
    ends = percentile(slopes, beyond), percentile(slopes, 100 - beyond)
    low, high = (each * _HOUR / level for each in ends)
    verdict = "grows" if low > tolerance else "flat" if high <= tolerance else "unclear"
    return Growth(level, slope * _HOUR / level, low, high, verdict)


def _centred(samples: Sequence[Sample]) -> list[_Point]:
    """Times and values, each less the mean of its life; and which life that is."""
    points: list[_Point] = []
    for _, lived in groupby(samples, key=lambda each: each.life):
        life = list(lived)
        at = sum(each.at for each in life) / len(life)
        value = sum(each.value for each in life) / len(life)
        points += [(each.at - at, each.value - value, each.life) for each in life]
    return points


def _slope(points: Sequence[_Point]) -> float:
    """Through the origin; nan where all times are one."""
    over = sum(at * at for at, _, _ in points)
    return sum(at * value for at, value, _ in points) / over if over else math.nan


def _median_slope(points: Sequence[_Point]) -> float:
    """Of all pairs within a life; nan where there are none at two times."""
    lives: dict[int, list[_Point]] = {}
    for point in points:
        lives.setdefault(point[2], []).append(point)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for life in lives.values()
        for earlier, later in combinations(life, 2)
        if later[0] != earlier[0]
    ]
    return percentile(slopes, 50) if slopes else math.nan
