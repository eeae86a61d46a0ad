"""The highest rate at which nothing is lost, by bisection. Pure: what a trial does is the caller's.

The search halves the *ratio* between the highest rate that held and the lowest that did not, so that the
tolerance means the same at 10,000 as at 500,000 a second (RFC 2544, 26.1, searches likewise). A sender that
cannot go as fast as it is asked to ends the search: what it reached is then a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

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


class Tried(Protocol):
    """What came of a rate: sent and lost, and the rate really sent (datagrams/s)."""

    @property
    def rate(self) -> float: ...
    @property
    def sent(self) -> int: ...
    @property
    def lost(self) -> int: ...


T = TypeVar("T", bound=Tried)
#: From one rate to the next as long as there is nothing to go between; nobody is asked for less, datagrams/s.
_LEAP, _LOWEST = 1.5, 100.0


def carried_rate(
    attempt: Callable[[float], T], begin: float, steps: int, tolerance: float, allowed: float
) -> tuple[T | None, bool]:
    """The best of at most ``steps`` attempts that lost no more than the share ``allowed``; None if none did.

    The first one goes at ``begin``, or, if that is 0, after one without a pause whose losses say where to
    begin. True: nothing faster was sent, so what carries has carried all. A sender that falls behind the rate
    it is asked for was disturbed, and is asked again. Ends early where the best and the lowest that did not
    hold are closer than ``tolerance``.
    """
    best: T | None = None
    held, fell, rate, short = 0.0, math.inf, begin, False
    for step in range(steps):
        tried = attempt(rate)
        if tried.lost <= allowed * tried.sent:
            if tried.rate > held:
                best, held = tried, tried.rate
            if not rate:
                return best, True
            short = tried.rate < REACHED * rate
            if short:
                continue
        elif rate:
            fell = min(fell, rate, max(tried.rate, held))
        if held and fell <= held * (1 + tolerance):
            break
        if not step and not rate:
            rate = tried.rate * (1 - tried.lost / tried.sent) * 0.9 if tried.sent > tried.lost else _LOWEST
        elif held:
            rate = min(held * _LEAP, math.sqrt(held * fell)) if fell < math.inf else held * _LEAP
        else:
            rate = max(fell / _LEAP, _LOWEST)
    return best, short
