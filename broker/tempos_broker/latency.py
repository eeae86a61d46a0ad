"""What the status says of latency inside the kernel: a summary, and the buckets it is made from."""

from __future__ import annotations

from typing import Any

from tempos.histogram import Histogram, Latency

#: Percent of the events, by the name in the document.
PERCENTILES = {"p50_ns": 50.0, "p99_ns": 99.0, "p999_ns": 99.9}


def latency_document(latency: Latency | None) -> dict[str, Any] | None:
    """Of one topic; None where nothing was measured."""
    if latency is None:
        return None
    since_sent = latency.since_sent if latency.since_sent.count else None
    return {
        "program": _histogram(latency.program),
        "since_sent": None if since_sent is None else _histogram(since_sent),
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        **{name: histogram.percentile(share) for name, share in PERCENTILES.items()},
        "max_ns": histogram.longest if histogram.measured else None,
        "ahead": histogram.ahead,
        "beyond": histogram.beyond,
        "buckets": [list(filled) for filled in histogram.filled()],
    }
