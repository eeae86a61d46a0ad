"""The highest rate at which nothing is lost, by bisection. Pure: what a trial does is the caller's.

The search halves the *ratio* between the highest rate that held and the lowest that did not, so that the
tolerance means the same at 10,000 as at 500,000 a second (RFC 2544, 26.1, searches likewise). A sender that
cannot go as fast as it is asked to ends the search: what it reached is then a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Share of the rate asked for that a sender must reach for the trial to count as one of that rate.
REACHED = 0.97


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one rate: datagrams sent and lost, and the rate really sent (datagrams/s)."""

    rate: float
    sent: int
    lost: int


@dataclass(frozen=True, slots=True)
class Found:
    """``rate``: the highest that held (datagrams/s), nan if none did. ``bound``: nothing faster was sent."""

    rate: float
    bound: bool
    trials: tuple[Trial, ...]


def no_drop_rate(attempt: Callable[[float], Trial], lowest: float, highest: float, tolerance: float) -> Found:
    """Search between two rates until they are closer than ``tolerance`` (0.05: five percent).

    A rate holds if nothing at all of a trial was lost. The highest one is tried once more at the end, and
    gives way to a lower one if it does not hold again.
    """
    if not 0 < lowest < highest:
        raise ValueError(f"no rates to search between: {lowest:g} and {highest:g} datagrams/s")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance {tolerance:g}, allowed: above 0, below 1")
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trials.append(attempt(rate))
        return trials[-1].lost == 0

    held, fell = 0.0, highest
    rate = highest
    while True:
        if not holds(rate):
            # A sender that was asked for more than it can may have lost at a lower rate.
            fell = min(rate, trials[-1].rate)
        else:
            held = max(held, min(rate, trials[-1].rate))
            if trials[-1].rate < REACHED * rate or rate >= highest:
                return Found(held, bound=True, trials=tuple(trials))
        if held and fell / held <= 1 + tolerance:
            if holds(held):
                return Found(held, bound=False, trials=tuple(trials))
            held, fell = 0.0, held
        if not held and fell <= lowest:
            return Found(math.nan, bound=False, trials=tuple(trials))
        rate = max(math.sqrt(max(held, lowest) * fell), lowest) if fell > lowest * (1 + tolerance) else lowest
