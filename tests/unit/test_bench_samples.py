"""Latency samples: packed without loss, and boiled down to figures that are right."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_bench.measure import samples

TIMES = st.lists(st.integers(0, 2**32 - 1))


@given(TIMES)
def test_what_is_packed_comes_out_again(times: list[int]) -> None:
    record = json.loads(json.dumps(samples.pack(times)))
    assert samples.unpack(record).tolist() == times
    assert record["count"] == len(times)


def test_packing_is_worth_it() -> None:
    times = [50_000 + number * 7919 % 30_000 for number in range(10_000)]
    assert len(samples.pack(times)["data"]) < 3.2 * len(times)


@pytest.mark.parametrize("beyond", [-1, 2**32])
def test_a_time_that_does_not_fit_is_refused(beyond: int) -> None:
    with pytest.raises(ValueError, match="outside 0 to"):
        samples.pack([1, beyond])


GOOD = samples.pack([1, 2, 3])


@pytest.mark.parametrize(
    "record",
    [None, [], {}, {**GOOD, "encoding": "hdr"}, {**GOOD, "data": "*"}, {**GOOD, "data": "AAAA"},
     {**GOOD, "count": 4}, {"encoding": samples.ENCODING}, {**GOOD, "data": 7}],
)  # fmt: skip
def test_what_are_no_samples_is_refused(record: Any) -> None:
    with pytest.raises(ValueError, match="samples"):
        samples.unpack(record)


def test_figures_are_microseconds_of_the_samples_in_their_order() -> None:
    found = samples.summarize([*range(1000, 1_000_001, 1000)])
    assert found == samples.Latency(1000, 500.0, 990.0, 999.0, 1000.0, jitter=1.0)


def test_jitter_is_the_mean_difference_of_neighbours() -> None:
    assert samples.jitter([10, 30, 20, 20]) == 10
    assert samples.jitter([5] * 9) == 0
    assert math.isnan(samples.jitter([7]))


def test_no_sample_gives_no_figure() -> None:
    found = samples.summarize([])
    assert found.count == 0
    assert math.isnan(found.p999)
    assert math.isnan(found.max)
