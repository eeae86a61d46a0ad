"""The token bucket as a value: C and Python decide alike, and nobody ever gets more than burst and rate."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Overflow, Topic
from tempos._abi import LIMIT_SHIFT
from tempos_broker.paths import LocalLimits

RATES = st.integers(1, 100_000_000)
BURSTS = st.integers(1, 1_000_000)
#: Pauses in ns, and how many datagrams come after each.
ARRIVALS = st.lists(st.tuples(st.integers(0, 3 * 10**9), st.integers(1, 100_000)), min_size=1, max_size=40)
SECOND = 10**9


class Bucket:
    """`limit.h` with the clock in the test's hand."""

    def __init__(self, rate: int, burst: int) -> None:
        structs = pytest.importorskip("tempos_fastpath.structs")
        self._ffi, self._lib = structs.ffi, structs.lib
        self.limit = self._lib.tempos_limit_of(rate, burst)
        self.due = 0

    def take(self, now_ns: int, wanted: int) -> int:
        following = self._ffi.new("__u64 *")
        now = now_ns << LIMIT_SHIFT & 2**64 - 1
        granted = int(self._lib.tempos_limit_grant(self.limit, self.due, now, wanted, following))
        self.due = int(following[0])
        return granted


def local(rate: int, burst: int, clock: list[int], overflow: Overflow = Overflow.DROP) -> LocalLimits:
    limits = LocalLimits(lambda: clock[0])
    limits.configure([Topic(1, "limited", rate=rate, burst=burst, overflow=overflow)])
    return limits


@given(RATES, BURSTS, ARRIVALS)
def test_c_and_python_decide_alike_and_stay_below_burst_and_rate(
    rate: int, burst: int, arrivals: list[tuple[int, int]]
) -> None:
    bucket, clock = Bucket(rate, burst), [10**15]
    limits = local(rate, burst, clock)
    began, total = clock[0], 0
    for pause, wanted in arrivals:
        clock[0] += pause
        granted = bucket.take(clock[0], wanted)
        assert granted == limits.take(1, wanted)
        # Whole datagrams only, and rounded in favour of the limit: a 1/1024 ns per datagram at most.
        total += granted
        allowed = burst + Fraction(rate * (clock[0] - began), SECOND)
        assert total <= allowed
        if granted < wanted:
            # What was refused would have come before its time.
            assert bucket.take(clock[0], 1) == 0
            assert limits.take(1, 1) == 0


@given(RATES, BURSTS, ARRIVALS)
def test_a_batch_is_as_many_singles(rate: int, burst: int, arrivals: list[tuple[int, int]]) -> None:
    batch, singles, now = Bucket(rate, burst), Bucket(rate, burst), 10**15
    for pause, wanted in arrivals:
        now += pause
        few = wanted % 50 + 1
        assert batch.take(now, few) == sum(singles.take(now, 1) for _ in range(few))
        assert batch.due == singles.due


@given(RATES, BURSTS, st.integers(1, 10**10))
def test_who_asks_all_the_time_gets_the_rate(rate: int, burst: int, time_ns: int) -> None:
    """Not less either, but for the rounding of the interval."""
    clock = [0]
    limits = local(rate, burst, clock)
    assert limits.take(1, burst + 1) == burst
    got = 0
    for _ in range(16):
        clock[0] += time_ns // 16
        got += limits.take(1, burst)
    due = min(Fraction(rate * (time_ns // 16), SECOND), Fraction(burst)) * 16
    assert got >= int(due * Fraction(9999, 10_000)) - 16


@pytest.mark.parametrize("rate", [1, 3, 999, 7_000_001, 9_999_999, 100_000_000])
def test_the_interval_is_exact_to_a_ten_thousandth(rate: int) -> None:
    interval = Bucket(rate, 1).limit.interval
    exact = Fraction(SECOND << LIMIT_SHIFT, rate)
    assert 0 <= (interval - exact) / exact <= Fraction(1, 10_000)


@pytest.mark.parametrize(
    ("ahead_s", "granted"),
    [
        (-(10**9), 5), (-1, 5), (0, 5), (Fraction(1, 2), 4), (1, 4), (Fraction(3, 2), 3), (4, 1),
        (Fraction(9, 2), 0), (5, 0),
        # Not even a burst and an interval ahead would explain these: left by another limit, or another boot.
        (Fraction(13, 2), 5), (100, 5), (10**6, 5),
    ],
)  # fmt: skip
def test_a_bucket_is_as_full_as_its_time_says(ahead_s: Fraction, granted: int) -> None:
    bucket, now = Bucket(1, 5), 10**18
    bucket.due = (now + int(ahead_s * SECOND)) << LIMIT_SHIFT & 2**64 - 1
    assert bucket.take(now, 9) == granted


def test_a_clock_that_runs_over_changes_nothing() -> None:
    """2^64 / 1024 ns are 208 days, and machines are up longer than that."""
    bucket, edge = Bucket(1000, 10), 2 ** (64 - LIMIT_SHIFT)
    bucket.due = (edge - SECOND) << LIMIT_SHIFT
    assert bucket.take(edge - 5_000_000, 99) == 10
    assert bucket.take(edge - 1, 99) == 4
    assert bucket.take(edge + 5_000_000, 99) == 6
    assert bucket.take(edge + 120 * 86400 * SECOND, 99) == 10


def test_topics_without_a_rate_and_those_whose_excess_passes_are_not_asked() -> None:
    clock = [0]
    assert local(1, 1, clock, Overflow.PASS).take(1, 1000) == 1000
    assert local(1, 1, clock).take(2, 1000) == 1000
    unlimited = LocalLimits()
    unlimited.configure([Topic(1, "free")])
    assert unlimited.take(1, 1000) == 1000


def test_a_bucket_begins_full_when_its_limit_changes_and_only_then() -> None:
    clock = [0]
    limits = local(1, 5, clock)
    assert limits.take(1, 9) == 5
    limits.configure([Topic(1, "same limit, other name", rate=1, burst=5), Topic(2, "new")])
    assert limits.take(1, 9) == 0
    limits.configure([Topic(1, "limited", rate=2, burst=7)])
    assert limits.take(1, 9) == 7
    limits.configure([])
    assert limits.take(1, 9) == 9
