"""Events/s from one publisher to one subscriber: tempos and what one would use instead, on the same nodes.

Every way (see :mod:`tempos_bench.peers.ways`) publishes bodies of each size as fast as it can; counted is
what reached the subscribing program, over the time of sending or of hearing, the longer one. TCP holds a
publisher back when the server cannot keep up; a datagram is lost then, so a way that loses more than one in
a thousand is asked for less until it does not, and that rate is its figure. Then, where a system has groups,
four members share the events of one.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tempos import Unavailable
from tempos_bench.measure.stats import Summary, ratios, summarize
from tempos_bench.peers.field import Field
from tempos_bench.peers.servers import SERVERS
from tempos_bench.peers.ways import GROUPED, Played, Way
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run

_BEST = "tempos fast native"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``peers``: their names. Every way publishes for ``seconds`` a round and size; ``sizes``: body bytes."""

    peers: tuple[str, ...]
    rounds: int
    seconds: float
    sizes: tuple[int, ...]


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    check_peers(p.peers)
    smallest = min(p.sizes)
    with ExitStack() as stack:
        field = Field(stack, p.peers)
        ways = field.ways(batched=True)
        grouped = [
            way for way in ways if way.is_raw and not way.batched and (way.is_tempos or way.system in GROUPED)
        ]
        field.connect(ways)
        field.connect(grouped, grouped=True)
        variants = {
            _of(way, size): partial(_lossless, field, way, size, p.seconds)
            for size in p.sizes
            for way in ways
        }
        variants |= {
            _of_group(way): partial(_lossless, field, way, smallest, p.seconds, grouped=True)
            for way in grouped
        }
        found = interleave(p.rounds, variants, progress)
    progress.note(
        "publisher on the first core, subscriber on the other, servers on both; batched: events share "
        "datagrams, as they share TCP's segments in all other systems"
    )
    rates = {name: [played.rate for played in rows] for name, rows in found.items()}
    figures = [
        median(f"tempos batched to NATS raw, {size} B", _ratio(rates, _of_name(_BEST, "raw batched", size),
               _of_name("NATS", "raw", size)), "x", Better.HIGHER)
        for size in p.sizes
    ]  # fmt: skip
    figures += clients(ways, rates, smallest)
    figures += [median(name, summarize(values), "events/s") for name, values in rates.items()]
    for way in grouped:
        even = [
            min(row.by_member) / max(row.by_member) for row in found[_of_group(way)] if any(row.by_member)
        ]
        figures.append(
            median(f"{_of_group(way)}, least to most served member", summarize(even), "of 1", Better.HIGHER)
        )
    for way in ways:
        figures += costs(way, found[_of(way, smallest)], f"{smallest} B")
        rows = [row for size in p.sizes for row in found[_of(way, size)]]
        lost = sum(row.lost for row in rows) / max(sum(row.sent for row in rows), 1)
        figures.append(Figure(f"lost: {way.name}", lost * 100, "%", Better.LOWER))
    return figures


def _lossless(field: Field, way: Way, size: int, seconds: float, *, grouped: bool = False) -> Played:
    return field.ends(way, grouped=grouped).lossless(size, seconds)


def clients(ways: list[Way], rates: dict[str, list[float]], size: int) -> list[Figure]:
    """Our Python client against each peer's, and against the best of them, round by round."""
    theirs = [way for way in ways if not way.is_raw and not way.is_tempos]
    figures = []
    for kind in ("Python batched", "Python"):
        ours = _of_name(_BEST, kind, size)
        if not theirs or ours not in rates:
            continue
        best = [max(values) for values in zip(*(rates[_of(way, size)] for way in theirs), strict=True)]
        name = f"tempos {kind} to"
        figures.append(
            median(f"{name} the best peer's client, {size} B", ratios(rates[ours], best), "x", Better.HIGHER)
        )
        figures += [
            median(
                f"{name} {way.name}, {size} B", ratios(rates[ours], rates[_of(way, size)]), "x", Better.HIGHER
            )
            for way in theirs
        ]
    return figures


def costs(way: Way, rows: list[Played], text: str) -> list[Figure]:
    """What a million events take: the server's processor time, everybody's, and the server's memory."""
    server = summarize([row.per_million(row.server) for row in rows])
    everybody = summarize([row.per_million(row.all) for row in rows])
    return [
        median(f"{text}, server's time: {way.name}", server, "s/million"),
        median(f"{text}, time of server and both ends: {way.name}", everybody, "s/million"),
        median(
            f"{text}, server's peak memory: {way.name}", summarize([row.peak / 1e6 for row in rows]), "MB"
        ),
    ]


def check_peers(names: tuple[str, ...]) -> None:
    """Raise :class:`Unavailable` for a name that is none of the peers'."""
    known = [server.name for server in SERVERS]
    if unknown := [name for name in names if name not in known]:
        raise Unavailable(f"no peer {', '.join(unknown)}, there are {', '.join(known)}")


def _ratio(rates: dict[str, list[float]], above: str, below: str) -> Summary:
    if above not in rates or below not in rates:
        return Summary(math.nan, math.nan, math.nan)
    return ratios(rates[above], rates[below])


def _of(way: Way, size: int) -> str:
    return _of_name(way.system, way.kind, size)


def _of_name(system: str, kind: str, size: int) -> str:
    return f"{size} B: {system}, {kind}"


def _of_group(way: Way) -> str:
    return f"group: {way.name}"
