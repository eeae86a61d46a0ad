"""Requests and their replies: tempos beside nats-py, on the same nodes, one at a time and many at once.

One way is measured at a time. A request is timed from the call of the library's function to its return, so
the client on either side is in it, and all four legs: to the server, to who answers, and back. Asker on the
first core, who answers on the other, servers on both. Most of a single request is waking up who sleeps: by
default cores sleep as they do at home, with ``awake`` they are kept from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tempos_bench.measure import samples
from tempos_bench.measure.stats import percentile, ratios, summarize
from tempos_bench.peers.field import Field
from tempos_bench.peers.ways import Asked, Way
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run, current

_PEER = "NATS"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``requests`` a round with bodies of ``payload`` bytes, for each number ``outstanding`` at a time.

    ``awake``: cores are kept from sleeping.
    """

    rounds: int
    requests: int
    payload: int
    outstanding: tuple[int, ...]
    awake: bool


@dataclass(frozen=True, slots=True)
class Trips:
    """Percentiles and processor time (of server and both ends) a request, in microseconds; answers/s."""

    p50: float
    p99: float
    rate: float
    lost: int
    cpu: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with ExitStack() as stack:
        field = Field(stack, (_PEER,), awake=p.awake)
        ways = [way for way in field.ways(batched=False) if not way.is_raw]
        variants = {_of(way, n): partial(_measured, field, way, p, n) for n in p.outstanding for way in ways}
        found = interleave(p.rounds, variants, progress)
    kept = "kept awake" if p.awake else "left to sleep"
    progress.note(f"asker on the first core, who answers on the other, servers on both; both {kept}")
    return [
        *(figure for n in p.outstanding for figure in _ratios(ways, found, n)),
        *(figure for name, rows in found.items() for figure in _trips(name, rows)),
    ]


def _measured(field: Field, way: Way, p: Parameters, outstanding: int) -> Trips:
    asked: Asked = field.requests(way).play(p.payload, p.requests, outstanding)
    current().add_samples(_of(way, outstanding), samples.pack(asked.samples_ns))
    times, answers = asked.samples_ns, len(asked.samples_ns)
    return Trips(
        percentile(times, 50) / 1000, percentile(times, 99) / 1000, answers / asked.seconds, asked.lost,
        asked.cpu / answers * 1e6,
    )  # fmt: skip


def _ratios(ways: Sequence[Way], found: Mapping[str, Sequence[Trips]], outstanding: int) -> list[Figure]:
    """Ours to the peer's, round by round."""
    theirs = next((found[_of(way, outstanding)] for way in ways if not way.is_tempos), None)
    if theirs is None:
        return []
    figures = []
    for way in (way for way in ways if way.is_tempos):
        ours = found[_of(way, outstanding)]
        text = f"{outstanding} at a time: {way.system} to nats-py"
        p50 = ratios([each.p50 for each in ours], [each.p50 for each in theirs])
        rate = ratios([each.rate for each in ours], [each.rate for each in theirs])
        cpu = ratios([each.cpu for each in ours], [each.cpu for each in theirs])
        figures += [
            median(f"{text}, p50", p50, "x", Better.LOWER),
            median(f"{text}, requests/s", rate, "x", Better.HIGHER),
            median(f"{text}, processor time", cpu, "x", Better.LOWER),
        ]
    return figures


def _trips(name: str, rows: Sequence[Trips]) -> list[Figure]:
    return [
        median(f"{name}, p50", summarize([row.p50 for row in rows]), "us"),
        median(f"{name}, p99", summarize([row.p99 for row in rows]), "us", Better.NEITHER),
        median(f"{name}, rate", summarize([row.rate for row in rows]), "requests/s"),
        median(f"{name}, processor time", summarize([row.cpu for row in rows]), "us/request"),
        Figure(f"{name}, lost", sum(row.lost for row in rows), "requests", Better.LOWER),
    ]


def _of(way: Way, outstanding: int) -> str:
    return f"{outstanding} at a time: {way.name}"
