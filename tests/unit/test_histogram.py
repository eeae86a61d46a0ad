"""Histograms: buckets without a gap, percentiles never too small, and what the status makes of them."""

from __future__ import annotations

import bisect
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos._abi import LATENCY_BEYOND, LATENCY_BUCKETS
from tempos.cli.status import nanoseconds, render
from tempos.histogram import Histogram, Latency, bounds
from tempos_broker.api.models import LatencyOut
from tempos_broker.latency import latency_document
from tempos_broker.slowpath.measures import Measured

EMPTY = Histogram((0,) * LATENCY_BUCKETS)
STARTS = [bounds(index)[0] for index in range(LATENCY_BUCKETS)]


def histogram(times: list[int], **more: int) -> Histogram:
    """By the plainest rule there is: the last bucket that does not begin behind the time."""
    buckets = [0] * LATENCY_BUCKETS
    for time in times:
        buckets[bisect.bisect_right(STARTS, time) - 1] += 1
    return Histogram(tuple(buckets), max(times, default=0), **more)


def test_buckets_have_no_gap_end_where_times_are_beyond_and_are_at_most_an_eighth_wide() -> None:
    every = [bounds(index) for index in range(LATENCY_BUCKETS)]
    assert every[0] == (0, 1)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(every))
    assert every[-1][1] == LATENCY_BEYOND
    assert all(above - low <= max(1, low / 8) for low, above in every)
    for index in (-1, LATENCY_BUCKETS):
        with pytest.raises(IndexError, match=f"none is number {index}"):
            bounds(index)


@given(
    st.lists(st.integers(0, LATENCY_BEYOND - 1), min_size=1),
    st.floats(0, 100, exclude_min=True, allow_subnormal=False),
)
def test_a_percentile_is_never_less_than_it_was_and_at_most_an_eighth_more(
    times: list[int], share: float
) -> None:
    told = histogram(times).percentile(share)
    exact = sorted(times)[max(1, math.ceil(len(times) * share / 100)) - 1]
    assert told is not None
    assert exact <= told <= exact * 1.125
    assert histogram(times).percentile(100) == max(times)


def test_what_is_no_time_is_counted_but_moves_no_percentile() -> None:
    odd = histogram([5, 7], beyond=3, ahead=2)
    assert (odd.count, odd.measured, odd.percentile(100)) == (7, 2, 7)
    assert EMPTY.percentile(50) is None
    for share in (0, -1, 100.1):
        with pytest.raises(ValueError, match="no percentage"):
            odd.percentile(share)


def test_the_status_has_summary_and_buckets() -> None:
    assert latency_document(None) is None
    document = latency_document(Latency(histogram([60, 61, 70, 3000]), EMPTY))
    assert document == {
        "program": {
            "count": 4, "p50_ns": 63, "p99_ns": 3000, "p999_ns": 3000, "max_ns": 3000,
            "ahead": 0, "beyond": 0,
            "buckets": [[60, 64, 2], [64, 72, 1], [2816, 3072, 1]],
        },
        "since_sent": None, "slow": None, "slow_since_sent": None,
    }  # fmt: skip
    slow = Measured(0, 0, histogram([70]), histogram([3000]))
    both = latency_document(Latency(histogram([60]), EMPTY), slow)
    assert both is not None
    assert {name: each and each["max_ns"] for name, each in both.items()} == {
        "program": 60, "since_sent": None, "slow": 70, "slow_since_sent": 3000,
    }  # fmt: skip
    assert LatencyOut.model_validate(document).model_dump(mode="json")["program"]["count"] == 4


def test_the_status_for_people_says_what_clocks_disagree_about() -> None:
    late = Histogram(EMPTY.buckets, ahead=1200, beyond=1)
    topic = {
        "id": 1, "name": "alarms", "class": "SQ", "priority": 0, "framing": "event", "policy": "auto",
        "path": "fast", "reason": "", "epoch": 1, "received": 0, "fast": 0, "slow": 0, "refused": {},
        "problems": [], "groups": [],
        "latency": latency_document(Latency(histogram([60, 3000, 12_345_678]), late)),
    }  # fmt: skip
    document = {
        "broker": {"ready": True, "version": "1", "pid": 1, "uptime_s": 1.0, "instance": "x"},
        "paths": {
            "fast": {"mode": "native", "reason": "", "interfaces": []},
            "slow": {"io": "recvmmsg", "reason": "", "listen": [], "receive_buffer": 1, "queued": 0},
        },
        "topics": [topic],
    }
    lines = list(render(document))
    assert "    in the kernel's program: 3 events, p50 3.07 µs, p99 12.3 ms, max 12.3 ms" in lines
    assert (
        "    from sent to forwarded: 1,201 events; 1,200 sent later than they came: the clocks disagree; "
        "1 sent absurdly long ago"
    ) in lines
    topic["latency"] = None
    assert not any("in the kernel's program" in line for line in render(document))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1000, "1.00 µs"), (12_345, "12.3 µs"), (123_456, "123 µs"),
     (2_000_000, "2.00 ms"), (17_000_000_000, "17.0 s")],
)  # fmt: skip
def test_times_for_people(value: int, text: str) -> None:
    assert nanoseconds(value) == text
