"""The same function behind tempos and behind what one would use instead, on the same three nodes.

One way is measured at a time, by a schedule that waits for nobody. An event is timed from its place in the
publisher's schedule until the function has run for it. All Python ways run the same function with the same
recorder: behind an invoker of tempos, in a member of a group of tempos or of NATS, in a shared subscription
of MQTT, in an HTTP server. In a library of C behind an invoker it writes down itself when it has run, as the
program does, which costs it a system call for each event. Ways that start a program for each event have one
program, which writes down itself when it has run; they are measured at a lower rate. Processor time is that
of server and worker, with all that they start: for tempos that of broker, invoker and its workers. What a
packet's way through the kernel takes is charged to whoever runs just then, so the time of everybody, the
publisher included, is told as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tempos_bench.calls import event
from tempos_bench.calls.stands import IN_WORKER, SPAWNING, WAYS, Stands
from tempos_bench.measure import samples
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.peers.ways import Played, Way
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate`` events/s for ``seconds`` a round, ``spawn_rate`` where a program is started for each.

    ``paths``: those that tempos is measured by, fast and slow; ``burst``: seconds of each attempt at the
    highest rate.
    """

    paths: tuple[str, ...]
    rounds: int
    seconds: float
    rate: float
    spawn_rate: float
    burst: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with ExitStack() as stack:
        field = Stands(stack, p.paths)
        ways = field.ways()
        for way in ways:
            field.ends(way)
        called, spawned = [way for way in ways if way in WAYS], [way for way in ways if way in SPAWNING]
        kept = [way for way in called if way.kind == IN_WORKER]
        slow = [*spawned, *kept] if spawned else []
        timed = {
            _of(way, rate): partial(_timed, field, way, p.seconds, rate, progress)
            for rate, each in ((p.rate, called), (p.spawn_rate, slow))
            for way in each
        }
        most = {_most(way): partial(field.ends(way).lossless, event.SIZE, p.burst) for way in called}
        variants: dict[str, Callable[[], Played]] = {**timed, **most}
        found = interleave(p.rounds, variants, progress)
    progress.note(
        f"events of {event.SIZE} bytes; publisher on the first core, who runs the function on the other, "
        "servers on both, all left to sleep; class BQ: the invoker's workers have ordinary scheduling, as "
        "all others have"
    )
    return [
        *_compared(called, found, p.rate),
        *_compared_spawning(slow, found, p.spawn_rate),
        *(figure for name in timed for figure in _told(name, found[name])),
        *(median(name, summarize([row.rate for row in found[name]]), "events/s") for name in most),
    ]


def _timed(field: Stands, way: Way, seconds: float, rate: float, progress: Run) -> Played:
    played, latency = field.ends(way).play(event.SIZE, seconds, rate)
    progress.add_samples(_of(way, rate), {"from": "schedule", "rate": rate, **samples.pack(latency)})
    return played


def _compared(ways: Sequence[Way], found: Mapping[str, Sequence[Played]], rate: float) -> list[Figure]:
    """Ours to the peers', round by round; to the best of them, whichever that is in a round."""
    theirs = [way for way in ways if not way.is_tempos]
    figures: list[Figure] = []
    for ours in (way for way in ways if way.is_tempos and theirs):
        who = ours.system if ours.kind == IN_WORKER else ours.name
        text, rows = f"{rate:,.0f}/s: {who}", found[_of(ours, rate)]
        best = [min(values) for values in zip(*(_p50(found[_of(way, rate)]) for way in theirs), strict=True)]
        figures.append(median(f"{text}, p50 to the best peer", ratios(_p50(rows), best), "x", Better.LOWER))
        for way in theirs:
            other = found[_of(way, rate)]
            most, least = [row.rate for row in found[_most(ours)]], [row.rate for row in found[_most(way)]]
            figures += [
                median(f"{text}, p50 to {way.system}", ratios(_p50(rows), _p50(other)), "x", Better.LOWER),
                median(f"{text}, CPU to {way.system}", ratios(_cpu(rows), _cpu(other)), "x", Better.LOWER),
                median(f"highest rate: {who} to {way.system}", ratios(most, least), "x", Better.HIGHER),
            ]
    return figures


def _compared_spawning(
    ways: Sequence[Way], found: Mapping[str, Sequence[Played]], rate: float
) -> list[Figure]:
    """Ours to an HTTP server that starts a program for each request."""
    server = [found[_of(way, rate)] for way in ways if way.system == "HTTP"]
    return [
        median(
            f"{rate:,.0f}/s: {way.name}, {what} to HTTP that spawns",
            ratios(of(found[_of(way, rate)]), of(theirs)),
            "x",
            Better.LOWER,
        )
        for theirs in server
        for way in ways
        if way.is_tempos
        for what, of in (("p50", _p50), ("CPU", _cpu))
    ]


def _told(name: str, rows: Sequence[Played]) -> list[Figure]:
    known = [row.latency for row in rows if row.latency is not None]
    return [
        median(f"{name}, p50", summarize([each.p50 for each in known]), "us"),
        median(f"{name}, p99", summarize([each.p99 for each in known]), "us", Better.NEITHER),
        median(f"{name}, CPU of server and worker", summarize(_cpu(rows)), "s/million"),
        median(
            f"{name}, CPU of everybody", summarize([row.per_million(row.all) for row in rows]), "s/million"
        ),
        Figure(f"{name}, lost", sum(row.lost for row in rows), "events", Better.LOWER),
        Figure(f"{name}, doubled", sum(row.repeated for row in rows), "events", Better.LOWER),
    ]


def _p50(rows: Sequence[Played]) -> list[float]:
    return [row.latency.p50 for row in rows if row.latency is not None]


def _cpu(rows: Sequence[Played]) -> list[float]:
    return [row.per_million(row.server + row.worker) for row in rows]


def _of(way: Way, rate: float) -> str:
    return f"{rate:,.0f}/s: {way.name}"


def _most(way: Way) -> str:
    return f"highest rate: {way.name}"
