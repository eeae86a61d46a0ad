"""What grows is told from what only moves, over lives of a program that each have a level of their own."""

from __future__ import annotations

import random

import pytest

from tempos_bench.measure.beside import Beside, Took, corrected
from tempos_bench.measure.growth import SPAN, Sample, growth

HOUR = 3600.0


def samples(per_hour: float, noise: float, lives: int = 6, steps: int = 120) -> list[Sample]:
    """Samples every five seconds around 100, in lives whose levels differ by more than all they grow."""
    rng = random.Random(1)
    found = []
    for life in range(lives):
        level = 100 + 7 * rng.random()
        for step in range(steps):
            at = (life * steps + step) * 5.0
            grown = per_hour * 100 * step * 5.0 / HOUR
            found.append(Sample(at, life, level + grown + rng.gauss(0, noise)))
    return found


@pytest.mark.parametrize(
    ("per_hour", "noise", "verdict"),
    [(0, 0.5, "flat"), (0.02, 0.5, "flat"), (0.2, 0.5, "grows"), (-0.5, 0.5, "flat"), (0, 40, "unclear")],
)
def test_a_verdict_is_what_the_whole_interval_says(per_hour: float, noise: float, verdict: str) -> None:
    found = growth(samples(per_hour, noise), 0.05)
    assert found.verdict == verdict
    # The level is a median, somewhat above what it began with.
    assert found.low - 0.02 <= per_hour <= found.high + 0.02
    assert found.level == pytest.approx(100, abs=20)


def test_what_was_looked_at_too_shortly_is_unclear() -> None:
    """However steep it is: what has just begun is not worn in."""
    short = [each for each in samples(5.0, 0.1) if each.at < SPAN / 2]
    assert growth(short, 0.05).verdict == "unclear"
    assert growth([], 0.05).verdict == "unclear"
    assert growth(short[:1] * 50, 0.05).verdict == "unclear"
    assert growth([Sample(s.at, s.life, 0.0) for s in samples(0, 0)], 0.05).verdict == "flat"


def minutes(per_hour: float, seed: int) -> list[Beside]:
    """An hour on a machine with much else to do: what that costs wanders, and some minutes are wild.

    The broker takes 150 us, the relay 60; what they wait for is the same, but for what is random.
    """
    rng = random.Random(seed)
    waits, found = 100.0, []
    for minute in range(50):
        at = minute * 60.0
        waits = max(20.0, waits + rng.gauss(0, 25))
        wild = rng.uniform(200, 2000) if rng.random() < 0.1 else 0.0
        broker = 150 * (1 + per_hour * at / HOUR) + waits + wild * rng.uniform(0.5, 1.5)
        bare = 60 + waits + wild * rng.uniform(0.5, 1.5)
        found.append(Beside(at, 1, broker * rng.gauss(1, 0.03), bare * rng.gauss(1, 0.03)))
    return found


@pytest.mark.parametrize(("per_hour", "verdict"), [(0.0, "flat"), (2.0, "grows")])
def test_beside_a_bare_relay_it_is_clear_what_the_broker_takes(per_hour: float, verdict: str) -> None:
    """Though by itself what it took would say nothing, or the wrong thing."""
    alone = []
    for seed in range(3):
        found = minutes(per_hour, seed)
        assert growth(corrected(found), 0.25, robust=True).verdict == verdict
        alone.append(growth([Sample(each.at, each.life, each.broker) for each in found], 0.25).verdict)
    assert any(each != verdict for each in alone)


def test_a_minute_in_which_nothing_came_by_one_of_them_is_none() -> None:
    took = Took()
    took.add(Took([5, 1, 3], []))
    assert took.beside(50, 1.0, 1) is None
    took.add(Took([], [2]))
    assert took.beside(50, 1.0, 1) == Beside(1.0, 1, 3, 2)
    assert corrected([]) == []


def test_a_robust_slope_goes_by_lives() -> None:
    """Levels of lives are not what grows."""
    assert growth(samples(0.0, 0.5, lives=3, steps=50), 0.3, robust=True).verdict == "flat"
    steep = growth(samples(0.5, 0.5, lives=3, steps=50), 0.05, robust=True)
    assert steep.verdict == "grows"
    assert steep.per_hour == pytest.approx(0.5, rel=0.2)
