"""What the status says of how long either path took: a summary, and the buckets it is made from."""

from __future__ import annotations

from typing import Any

from tempos.histogram import Histogram, Latency
from tempos_broker.slowpath.measures import Measured

#: Percent of the events, by the name in the document.
PERCENTILES = {"p50_ns": 50.0, "p99_ns": 99.0, "p999_ns": 99.9}


def latency_document(kernel: Latency | None, slow: Measured | None = None) -> dict[str, Any] | None:
    """Of one topic, by the fast path and by the slow one; None where nothing was measured."""
    told = {
        "program": None if kernel is None else kernel.program,
        "since_sent": None if kernel is None else kernel.since_sent,
        "slow": None if slow is None else slow.inside,
        "slow_since_sent": None if slow is None else slow.since_sent,
    }
    known = {name: each if each is not None and each.count else None for name, each in told.items()}
    if not any(known.values()):
        return None
    return {name: None if each is None else _histogram(each) for name, each in known.items()}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        **{name: histogram.percentile(share) for name, share in PERCENTILES.items()},
        "max_ns": histogram.longest if histogram.measured else None,
        "ahead": histogram.ahead,
        "beyond": histogram.beyond,
        "buckets": [list(filled) for filled in histogram.filled()],
    }
