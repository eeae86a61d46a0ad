"""The search for the rate without loss: ends, and ends at the truth within its tolerance."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_bench.measure.search import Trial, carried_rate, no_drop_rate

LOWEST, HIGHEST, TOLERANCE = 1_000.0, 1_000_000.0, 0.05


def link(carries: float, sender: float = math.inf):
    def attempt(rate: float) -> Trial:
        sent = min(rate, sender)
        return Trial(sent, 1000, 0 if sent <= carries else 7)

    return attempt


@given(carries=st.floats(LOWEST, HIGHEST * 0.9))
def test_finds_what_a_link_carries(carries: float) -> None:
    found = no_drop_rate(link(carries), LOWEST, HIGHEST, TOLERANCE)
    assert not found.bound
    assert carries / (1 + TOLERANCE) <= found.rate <= carries
    assert len(found.trials) < 25


@given(sender=st.floats(LOWEST * 2, HIGHEST * 0.9), above=st.floats(1, 3))
def test_a_slow_sender_gives_a_lower_bound(sender: float, above: float) -> None:
    found = no_drop_rate(link(sender * above, sender), LOWEST, HIGHEST, TOLERANCE)
    assert found.bound
    assert found.rate == pytest.approx(sender, rel=0.06)


@given(sender=st.floats(LOWEST * 2, HIGHEST * 0.9), below=st.floats(0.3, 0.9))
def test_a_slow_sender_can_still_be_too_fast(sender: float, below: float) -> None:
    carries = max(sender * below, LOWEST)
    found = no_drop_rate(link(carries, sender), LOWEST, HIGHEST, TOLERANCE)
    assert not found.bound
    assert carries / (1 + TOLERANCE) <= found.rate <= carries


def test_a_link_that_carries_nothing_has_no_rate() -> None:
    found = no_drop_rate(link(LOWEST / 2), LOWEST, HIGHEST, TOLERANCE)
    assert math.isnan(found.rate)


def test_a_rate_that_held_by_luck_gives_way() -> None:
    lucky = {"left": 1}

    def attempt(rate: float) -> Trial:
        held = rate <= 40_000 or (rate < 60_000 and lucky["left"] > 0)
        lucky["left"] -= 40_000 < rate < 60_000
        return Trial(rate, 1000, 0 if held else 1)

    found = no_drop_rate(attempt, LOWEST, HIGHEST, TOLERANCE)
    assert 40_000 / (1 + TOLERANCE) <= found.rate <= 40_000


@pytest.mark.parametrize(("low", "high", "tolerance"), [(0, 10, 0.1), (10, 10, 0.1), (1, 10, 0), (1, 10, 1)])
def test_refuses_what_cannot_be_searched(low: float, high: float, tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"search between|tolerance"):
        no_drop_rate(link(5), low, high, tolerance)


def queue(carries: float, sender: float):
    """Loses what it cannot carry; 0 is asked for as fast as the sender can."""

    def attempt(rate: float) -> Trial:
        sent = min(rate or sender, sender)
        return Trial(sent, 10_000, round(10_000 * max(0.0, 1 - carries / sent)))

    return attempt


@given(carries=st.floats(LOWEST, HIGHEST / 10), sender=st.floats(HIGHEST / 8, HIGHEST))
def test_what_is_carried_is_found_in_few_attempts(carries: float, sender: float) -> None:
    tried: list[float] = []

    def attempt(rate: float) -> Trial:
        tried.append(rate)
        return queue(carries, sender)(rate)

    best, bound = carried_rate(attempt, 0.0, 6, TOLERANCE, 0.001)
    assert best is not None
    assert not bound
    assert carries * 0.85 <= best.rate <= carries * 1.002
    assert len(tried) <= 6
    again, _ = carried_rate(queue(carries, sender), best.rate, 3, TOLERANCE, 0.001)
    assert again is not None
    assert best.rate <= again.rate <= carries * 1.002


def test_a_sender_that_loses_nothing_is_the_limit_and_who_carries_nothing_has_no_rate() -> None:
    best, bound = carried_rate(queue(HIGHEST, LOWEST), 0.0, 6, TOLERANCE, 0.001)
    assert (best and best.rate, bound) == (LOWEST, True)
    best, bound = carried_rate(queue(HIGHEST, LOWEST * 2), LOWEST * 2, 3, TOLERANCE, 0.001)
    assert (best and best.rate, bound) == (LOWEST * 2, True)
    assert carried_rate(lambda rate: Trial(rate, 100, 100), 0.0, 6, TOLERANCE, 0.001) == (None, False)
