"""The source's round trip (its chapter 5.1): UDP from A to C and back, straight or by way of B.

A, B and C are ports of one bridge, as the source's nodes were of one switch, and B sends out of the
interface that an event came in on. One datagram is on its way at a time, one per interval. C answers from
a process, where the source's had an XDP program: that share is in every variant alike. Straight
means that A and C talk to each other and B sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure import samples
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import differences, percentile, summarize
from tempos_bench.nodes.topology import Topology, build, links_are_ours
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.report.source import NOT_A_NIC
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_THERE = Topic(id=1, name="there", framing=Framing.EVENT)
_BACK = Topic(id=2, name="back", framing=Framing.EVENT)
_WARM_UP = 100
_DIRECT = "direct"
_MODES = {"native": "native", "generic": "generic", "slow path": "off"}
#: Milliseconds, by variant.
_SOURCE = {_DIRECT: 0.172, "native": 0.340, "generic": 0.345}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``packets`` a variant in all, one each ``interval`` seconds, in ``rounds``; ``payload`` bytes."""

    rounds: int
    packets: int
    interval: float
    payload: int


@dataclass(frozen=True, slots=True)
class Trips:
    """Round trips of one round, microseconds."""

    mean: float
    p50: float
    p99: float
    worst: float
    lost: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if links_are_ours():
        progress.note(NOT_A_NIC)
    progress.note("the source waited 200 ms from one packet to the next, and its C answered from XDP")
    with build("one-armed") as topology:
        variants: dict[str, Callable[[], Trips]] = {_DIRECT: lambda: _direct(topology, p, progress)}
        variants |= {
            name: lambda name=name, mode=mode: _redirected(topology, p, progress, name, mode)  # type: ignore[misc]
            for name, mode in _MODES.items()
        }
        results = interleave(p.rounds, variants, progress)
    means = {name: [trips.mean for trips in rows] for name, rows in results.items()}
    figures = [
        median(f"{name}: mean", summarize(values), "us", source=_told(_SOURCE.get(name)))
        for name, values in means.items()
    ]
    for name in _MODES:
        added = differences(means[name], means[_DIRECT])
        theirs = _SOURCE[name] - _SOURCE[_DIRECT] if name in _SOURCE else None
        figures.append(median(f"{name}: added by way of B", added, "us", source=_told(theirs)))
    for name, rows in results.items():
        figures += [
            median(f"{name}: p50", summarize([trips.p50 for trips in rows]), "us", Better.NEITHER),
            median(f"{name}: p99", summarize([trips.p99 for trips in rows]), "us", Better.NEITHER),
            Figure(f"{name}: slowest", max(trips.worst for trips in rows), "us", Better.NEITHER),
        ]
    lost = sum(trips.lost for rows in results.values() for trips in rows)
    return [*figures, Figure("lost", lost, "datagrams", Better.LOWER)]


def _direct(topology: Topology, p: Parameters, progress: Run) -> Trips:
    return _trips(topology, f"{topology.subscriber.address}:{DATA_PORT}", None, p, progress, _DIRECT)


def _redirected(topology: Topology, p: Parameters, progress: Run, name: str, mode: str) -> Trips:
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    topics = {
        _THERE: (Group("echo", (Member(c.address, DATA_PORT),)),),
        _BACK: (Group("origin", (Member(a.address, DATA_PORT),)),),
    }
    with Broker(b, topics, mode=mode, cpu=cores()[1]) as broker:
        for topic in topics:
            broker.wait_path(topic.name, Path.SLOW if mode == "off" else Path.FAST)
        by_way_of = f"{b.address}:{DATA_PORT}"
        return _trips(topology, by_way_of, by_way_of, p, progress, name)


def _trips(
    topology: Topology, to: str, reply_to: str | None, p: Parameters, progress: Run, name: str
) -> Trips:
    core, _ = cores()
    a, c = topology.publisher, topology.subscriber
    back = ("--reply-to", reply_to) if reply_to else ()
    count = max(p.packets // p.rounds, 1)
    echo = c.role(
        "echo",
        "--bind",
        f"{c.address}:{DATA_PORT}",
        "--topic",
        _BACK.id,
        *back,
        ready=True,
        cpu=core,
    )
    got = a.role(
        "ping", "--bind", f"{a.address}:{DATA_PORT}", "--to", to, "--topic", _THERE.id, "--count", count,
        "--warm-up", _WARM_UP, "--interval", p.interval, "--size", p.payload, cpu=core,
    ).result((count + _WARM_UP) * (p.interval + 0.001) + 60)  # fmt: skip
    echo.stop()
    times = got["samples_ns"]
    progress.add_samples(name, samples.pack(times))
    return Trips(
        fmean(times) / 1000 if times else float("nan"), percentile(times, 50) / 1000,
        percentile(times, 99) / 1000, max(times, default=float("nan")) / 1000, got["lost"],
    )  # fmt: skip


def _told(milliseconds: float | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds:.3f} ms"
