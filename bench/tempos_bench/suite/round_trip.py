"""Round trips over the fast path against kernel IP forwarding through the same node.

Fast path: topic 1 takes A's datagram to an echo at C, topic 2 takes the answer back to A. Kernel: the
same two programs, addressed to each other, through B without any XDP program. Both programs share a
core, because otherwise the wake-up of an idle core is most of what one measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, Path, TemposError, Topic
from tempos_bench.broker import Broker
from tempos_bench.report import Figure
from tempos_bench.rounds import cores, interleave
from tempos_bench.stats import percentile, ratios, summarize
from tempos_bench.topology import Topology, build

_THERE = Topic(id=1, name="there", framing=Framing.EVENT)
_BACK = Topic(id=2, name="back", framing=Framing.EVENT)
_WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Parameters:
    """``round_trips`` a round and variant, with datagrams of ``payload`` bytes."""

    rounds: int
    round_trips: int
    payload: int


@dataclass(frozen=True, slots=True)
class Trips:
    """Percentiles in microseconds."""

    p50: float
    p99: float
    lost: int


def run(p: Parameters, progress: Callable[[str], None]) -> list[Figure]:
    """Measure."""
    with build("straight") as topology:
        variants = {
            "kernel forwarding": lambda: _by_kernel(topology, p),
            "fast path": lambda: _by_fast_path(topology, p),
        }
        results = interleave(p.rounds, variants, progress)
    medians = {name: [trips.p50 for trips in rows] for name, rows in results.items()}
    ratio = ratios(medians["fast path"], medians["kernel forwarding"])
    lost = sum(trips.lost for rows in results.values() for trips in rows)
    return [
        Figure("kernel forwarding", summarize(medians["kernel forwarding"]).median, "us"),
        Figure("fast path", summarize(medians["fast path"]).median, "us"),
        Figure("ratio", ratio.median, "x"),
        Figure("ratio, lower quartile", ratio.low, "x"),
        Figure("ratio, upper quartile", ratio.high, "x"),
        Figure(
            "kernel forwarding, p99", summarize([t.p99 for t in results["kernel forwarding"]]).median, "us"
        ),
        Figure("fast path, p99", summarize([t.p99 for t in results["fast path"]]).median, "us"),
        Figure("lost", lost, "datagrams"),
    ]


def _by_kernel(topology: Topology, p: Parameters) -> Trips:
    return _ping(topology, f"{topology.subscriber.address}:{DATA_PORT}", None, p)


def _by_fast_path(topology: Topology, p: Parameters) -> Trips:
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    topics = {
        _THERE: (Group("echo", (Member(c.address, DATA_PORT),)),),
        _BACK: (Group("origin", (Member(a.address, DATA_PORT),)),),
    }
    with Broker(b, topics, mode="native", cpu=cores()[1]) as broker:
        for topic in topics:
            broker.wait_path(topic.name, Path.FAST)
        reply_to = f"{topology.facing_subscriber}:{DATA_PORT}"
        trips = _ping(topology, f"{b.address}:{DATA_PORT}", reply_to, p)
        for topic in topics:
            status = broker.wait_received(topic.name, p.round_trips + _WARM_UP, limit=2)
            if status.slow:
                raise TemposError(f"{status.slow} datagrams of topic {topic.name!r} took the slow path")
    return trips


def _ping(topology: Topology, to: str, reply_to: str | None, p: Parameters) -> Trips:
    core, _ = cores()
    a, c = topology.publisher, topology.subscriber
    back = ("--reply-to", reply_to) if reply_to else ()
    echo = c.role(
        "echo", "--bind", f"{c.address}:{DATA_PORT}", "--topic", _BACK.id, *back, ready=True, cpu=core
    )
    pinged = a.role(
        "ping", "--bind", f"{a.address}:{DATA_PORT}", "--to", to, "--topic", _THERE.id,
        "--count", p.round_trips, "--warm-up", _WARM_UP, "--size", p.payload, cpu=core,
    ).result(60)  # fmt: skip
    echo.stop()
    samples = pinged["samples_ns"]
    return Trips(percentile(samples, 50) / 1000, percentile(samples, 99) / 1000, pinged["lost"])
