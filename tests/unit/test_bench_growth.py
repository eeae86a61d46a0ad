"""What grows is told from what only moves, over lives of a program that each have a level of their own."""

from __future__ import annotations

import random

import pytest

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
