"""How long one event takes: tempos and what one would use instead, on the same nodes at the same rates.

One way is measured at a time, at each rate. An event is timed from its place in the publisher's schedule,
so one that leaves late because the publisher was held up counts as late, until the subscribing program
has it. No way is batched here beyond what a library does by itself. Both cores are kept from sleeping.
Round trips are those of the raw generators: there by one topic, back by another, both through the server.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tempos_bench.measure import samples
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.peers.field import Field
from tempos_bench.peers.ways import Played, Trips, Way
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run
from tempos_bench.suite.peers_rate import check_peers, costs

_OURS = Way("tempos fast native", "Python", "library", "tempos")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``peers``: their names; each rate (events/s) for ``seconds`` a round; bodies of ``payload`` bytes."""

    peers: tuple[str, ...]
    rounds: int
    seconds: float
    rates: tuple[float, ...]
    payload: int
    round_trips: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    check_peers(p.peers)
    with ExitStack() as stack:
        field = Field(stack, p.peers, awake=True)
        ways = field.ways(batched=False)
        raw = [way for way in ways if way.is_raw]
        field.connect(ways)
        variants = {
            _of(way, rate): partial(_timed, field, way, p, rate, progress) for rate in p.rates for way in ways
        }
        trips = {f"round trip: {way.name}": partial(_round_trip, field, way, p) for way in raw}
        found = interleave(p.rounds, variants, progress)
        bounced = interleave(p.rounds, trips, progress)
    progress.note("publisher on the first core, subscriber on the other, servers on both; both kept awake")
    return [
        *ratios_to_peers(ways, found, p.rates),
        *(figure for name, rows in found.items() for figure in _latency(name, rows)),
        *(
            figure
            for way in ways
            for figure in costs(way, found[_of(way, p.rates[-1])], f"{p.rates[-1]:,.0f}/s")
        ),
        *(figure for name, rows in bounced.items() for figure in _trips(name, rows)),
    ]


def ratios_to_peers(
    ways: Sequence[Way], found: dict[str, list[Played]], rates: Sequence[float]
) -> list[Figure]:
    """The p99 of our Python client against that of each peer's, and of the best of them, round by round."""
    theirs = [way for way in ways if not way.is_raw and not way.is_tempos]
    figures = []
    for rate in rates:
        ours = _p99(found[_of(_OURS, rate)])
        if not theirs:
            continue
        best = [min(values) for values in zip(*(_p99(found[_of(way, rate)]) for way in theirs), strict=True)]
        text = f"{rate:,.0f}/s: p99 of tempos Python to"
        figures.append(median(f"{text} the best peer's client", ratios(ours, best), "x", Better.LOWER))
        figures += [
            median(f"{text} {way.name}", ratios(ours, _p99(found[_of(way, rate)])), "x", Better.LOWER)
            for way in theirs
        ]
    return figures


def _timed(field: Field, way: Way, p: Parameters, rate: float, progress: Run) -> Played:
    played, latency = field.ends(way).play(p.payload, p.seconds, rate)
    progress.add_samples(
        _of(way, rate), {"from": "schedule", "rate": rate, **samples.pack(array("I", latency))}
    )
    return played


def _round_trip(field: Field, way: Way, p: Parameters) -> Trips:
    return field.round_trip(way).play(p.payload, p.round_trips)


def _latency(name: str, rows: Sequence[Played]) -> list[Figure]:
    known = [row.latency for row in rows if row.latency is not None]
    lost = sum(row.lost for row in rows)
    return [
        median(f"{name}, p50", summarize([each.p50 for each in known]), "us"),
        median(f"{name}, p99", summarize([each.p99 for each in known]), "us"),
        median(f"{name}, p99.9", summarize([each.p999 for each in known]), "us", Better.NEITHER),
        Figure(f"{name}, lost", lost, "events", Better.LOWER),
    ]


def _trips(name: str, rows: Sequence[Trips]) -> list[Figure]:
    return [
        median(f"{name}, p50", summarize([row.p50 for row in rows]), "us"),
        median(f"{name}, p99", summarize([row.p99 for row in rows]), "us"),
        Figure(f"{name}, lost", sum(row.lost for row in rows), "events", Better.LOWER),
    ]


def _p99(rows: Sequence[Played]) -> list[float]:
    return [row.latency.p99 for row in rows if row.latency is not None]


def _of(way: Way, rate: float) -> str:
    return f"{rate:,.0f}/s: {way.name}"
