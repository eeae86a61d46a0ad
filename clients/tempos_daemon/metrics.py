"""A daemon's numbers for Prometheus, rendered by its official client, while the event loop serves in between.

A page is made of families, each told once, and of samples that come in any order. Rules: names end with
their unit, and with ``_total`` where they only grow; a sample has all the labels of its family; the client is
loaded when somebody asks first, for it takes memory.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tempos_daemon.slices import Slices

#: What the client calls its text format.
MEDIA_TYPE = "text/plain; version=1.0.0; charset=utf-8"
#: Samples that are rendered without a look at what else there is to do: some 0.2 ms. Seconds left to that.
_AT_ONCE, _PAUSE = 32, 0.001
_PIECE = 0.00025


class Kind(enum.Enum):
    """What a family counts, as Prometheus calls it."""

    COUNTER = "Counter"
    GAUGE = "Gauge"
    HISTOGRAM = "Histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its whole name, what it means, and what its samples are told apart by."""

    name: str
    means: str
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.GAUGE

    def __post_init__(self) -> None:
        assert self.name.endswith("_total") == (self.kind is Kind.COUNTER), self.name


def counter(name: str, means: str, *labels: str) -> Family:
    """What only grows."""
    return Family(name, means, labels, Kind.COUNTER)


def gauge(name: str, means: str, *labels: str) -> Family:
    """What goes up and down."""
    return Family(name, means, labels)


class Buckets(NamedTuple):
    """The value of a histogram: how many were at most so much, by rising bounds; all; their sum."""

    below: Sequence[tuple[float, int]]
    number: int
    sum: float


class Sample(NamedTuple):
    """``labels``: values, in the order of the family's."""

    family: Family
    labels: tuple[str, ...]
    value: float | Buckets


def sample(family: Family, value: float | Buckets, *labels: object) -> Sample:
    """One sample; labels are told as text."""
    assert len(labels) == len(family.labels), (family.name, labels)
    return Sample(family, tuple(map(str, labels)), value)


@dataclass(slots=True)
class _Page:
    """What has come so far, by family."""

    families: dict[Family, list[Sample]] = field(default_factory=dict)

    def add(self, each: Sample) -> None:
        self.families.setdefault(each.family, []).append(each)


class _Only:
    """As the client wants a registry: one metric."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Any]:
        return (self._metric,)


async def pieces(samples: Iterator[Sample]) -> AsyncIterator[bytes]:
    """The page in pieces: the event loop serves between two of them, also while the samples are made."""
    # It is large, and other threads run while it is read.
    client = await asyncio.to_thread(importlib.import_module, "prometheus_client")
    page = _Page()
    slices = Slices(_PIECE, _PAUSE)
    for each in samples:
        page.add(each)
        await slices.pause()
    for piece in _rendered(client, page):
        yield piece
        await asyncio.sleep(_PAUSE)
    yield _process(client)


def _rendered(client: Any, page: _Page) -> Iterator[bytes]:
    core, render = importlib.import_module("prometheus_client.core"), client.generate_latest
    for family, samples in page.families.items():
        head = b""
        for begin in range(0, len(samples), _AT_ONCE):
            metric = getattr(core, f"{family.kind.value}MetricFamily")(
                family.name, family.means, labels=family.labels
            )
            for each in samples[begin : begin + _AT_ONCE]:
                if isinstance(each.value, Buckets):
                    below = [(str(bound), count) for bound, count in each.value.below]
                    metric.add_metric(each.labels, [*below, ("+Inf", each.value.number)], each.value.sum)
                else:
                    metric.add_metric(each.labels, each.value)
            piece = render(_Only(metric))
            # What a family is stands before its first sample, and nowhere else.
            yield piece.removeprefix(head) if head else piece
            head = head or b"".join(line + b"\n" for line in piece.split(b"\n")[:2])


def _process(client: Any) -> bytes:
    """Memory, processor time, descriptors and start of this process, by the client's own names."""
    found: bytes = client.generate_latest(client.ProcessCollector(registry=None))
    return found
