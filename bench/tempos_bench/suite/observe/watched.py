"""What it costs to be watched: metrics scraped every second, the live page open, latency histograms on.

Beside a broker that nobody asks anything, in turn, on either path. Best effort floods it: that is the rate.
Strict events come steadily by themselves: what is seen is their p99. Who watches is elsewhere, as it
should be: on the slow path, which takes the core of the broker, on the other one, below all that measures; on
the fast path, which takes that of the flooder, on that of the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tempos import Framing, Quality, Topic
from tempos_bench.measure.load import Flow, Heard, Load, Subject
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, turned
from tempos_bench.runs.run import Run

PATHS = {"slow path": "off", "fast path": "native"}
ALONE, WATCHED = "alone", "watched"
_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT)
_BQ = Topic(id=2, name="BQ", quality=Quality.BQ, framing=Framing.EVENT)
_SQ_PORT, _BQ_PORT = 9001, 9002
_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rounds`` of ``seconds`` each: SQ at ``rate`` events/s; BQ at ``flood``, in buffers of ``segments``.

    ``every``: seconds between two scrapes.
    """

    rounds: int
    seconds: float
    rate: float
    flood: float
    segments: int
    every: float
    payload: int


@dataclass(frozen=True, slots=True)
class _Play:
    flood: Heard
    strict: Heard
    scrape: float = 0.0


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    found: dict[str, dict[str, list[_Play]]] = {path: {ALONE: [], WATCHED: []} for path in PATHS}
    progress.plan(p.rounds * len(PATHS) * 2)
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, (_SQ_PORT, _BQ_PORT), size=p.payload)
        with progress.keeping(lambda: all(each for plays in found.values() for each in plays.values())):
            for number in progress.repetitions(p.rounds):
                for path, mode in PATHS.items():
                    for way in turned((ALONE, WATCHED), number):
                        with progress.variant(f"round {number + 1} of {p.rounds}: {path}, {way}"):
                            play = _play(p, topology, load, mode, watched=way == WATCHED)
                        found[path][way].append(play)
                        outcomes = {"SQ": play.strict.outcome, "BQ": play.flood.outcome}
                        progress.keep(f"{path}, {way}", outcomes)
    return [figure for path, plays in found.items() for figure in _figures(path, plays)]


def _play(p: Parameters, topology: Topology, load: Load, mode: str, *, watched: bool) -> _Play:
    subjects = [Subject(_SQ, _SQ_PORT), Subject(_BQ, _BQ_PORT)]
    first, other = cores()
    viewer = (first if mode == "off" else other) if watched else None
    with load.broker(subjects, mode=mode, latency=watched), _viewer(p, topology, viewer) as end:
        flood = load.play([Flow(_BQ, p.flood, flood=True, segments=p.segments)], p.seconds)[_BQ.name]
        strict = load.play([Flow(_SQ, p.rate)], p.seconds)[_SQ.name]
        return _Play(flood, strict, end())


@contextmanager
def _viewer(p: Parameters, topology: Topology, cpu: int | None) -> Iterator[Callable[[], float]]:
    """Gives what ends it, and tells how long its longest scrape took, in s."""
    if cpu is None:
        yield lambda: 0.0
        return
    program = topology.broker.role("viewer", "--every", p.every, ready=True, talk=True, cpu=cpu)
    try:
        yield lambda: float(program.ask("end", _LIMIT)["slowest"])
    finally:
        program.stop()


def _figures(path: str, plays: dict[str, list[_Play]]) -> Iterator[Figure]:
    rates = {way: [each.flood.outcome.rate for each in them] for way, them in plays.items()}
    p99 = {way: [each.strict.outcome.latency.p99 for each in them] for way, them in plays.items()}
    yield median(f"{path}: rate watched, to alone", ratios(rates[WATCHED], rates[ALONE]), "x", Better.HIGHER)
    yield median(f"{path}: SQ p99 watched, to alone", ratios(p99[WATCHED], p99[ALONE]), "x", Better.LOWER)
    lost = sum(each.strict.outcome.lost for them in plays.values() for each in them)
    yield Figure(f"{path}: SQ lost", lost, "events", Better.LOWER)
    for way in plays:
        yield median(f"{path}: rate {way}", summarize(rates[way]), "events/s")
        yield median(f"{path}: SQ p99 {way}", summarize(p99[way]), "us")
    scrapes = summarize([each.scrape * 1e3 for each in plays[WATCHED]])
    yield median(f"{path}: longest scrape", scrapes, "ms", Better.LOWER)
