"""Round trips over the fast path against kernel IP forwarding through the same node.

Fast path: topic 1 takes A's datagram to an echo at C, topic 2 takes the answer back to A. Kernel: the
same two programs, addressed to each other, through B without any XDP program. Both programs share a
core, because otherwise the wake-up of an idle core is most of what one measures.

A third way tells what of the difference is the price of XDP itself between sockets on veth, where a
frame becomes an XDP frame and then a packet again: a program that only hands frames on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tempos import DATA_PORT, Framing, Group, Member, Path, TemposError, Topic
from tempos_bench.measure import samples
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.probe import Probe, macs
from tempos_bench.measure.stats import percentile, ratios, summarize
from tempos_bench.nodes.topology import LEFT_OUT, Topology, build, links_are_ours, mac_of
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run, current

_THERE = Topic(id=1, name="there", framing=Framing.EVENT)
_BACK = Topic(id=2, name="back", framing=Framing.EVENT)
_WARM_UP = 200
_MODES = ("native", "generic")
_KERNEL, _HANDED_ON = "kernel forwarding", "XDP that only hands on"


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


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with build("straight") as topology:
        variants: dict[str, Callable[[], Trips]] = {}
        if topology.broker.inquire("forwards"):
            variants[_KERNEL] = lambda: _by_kernel(topology, p, _KERNEL)
        else:
            progress.note(f"{LEFT_OUT}: {_KERNEL}; the broker's host has net.ipv4.ip_forward off")
        if links_are_ours():
            there, back = Probe(topology.broker), Probe(topology.broker)
            variants[_HANDED_ON] = lambda: _by_yardstick(topology, p, there, back)
        else:
            progress.note(f"{LEFT_OUT}: {_HANDED_ON}; it writes MACs of links that we made")
        for mode in _MODES:
            variants[f"fast path, {mode}"] = partial(_by_fast_path, topology, p, mode)
        results = interleave(p.rounds, variants, progress)
    medians = {name: [trips.p50 for trips in rows] for name, rows in results.items()}
    yardstick = _KERNEL if _KERNEL in results else None
    figures = [
        median(name, summarize(values), "us", yardstick=None if name == _KERNEL else yardstick)
        for name, values in medians.items()
    ]
    for mode in _MODES if _KERNEL in results else ():
        ratio = ratios(medians[f"fast path, {mode}"], medians[_KERNEL])
        figures += [
            median(f"ratio, {mode}", ratio, "x", Better.LOWER),
            Figure(f"ratio, {mode}, lower quartile", ratio.low, "x"),
            Figure(f"ratio, {mode}, upper quartile", ratio.high, "x"),
        ]
    if _HANDED_ON in results:
        to_xdp = ratios(medians["fast path, native"], medians[_HANDED_ON])
        figures.append(median("native to XDP that only hands on", to_xdp, "x", Better.LOWER))
    lost = sum(trips.lost for rows in results.values() for trips in rows)
    return [
        *figures,
        *(
            median(f"{name}, p99", summarize([t.p99 for t in rows]), "us", Better.NEITHER)
            for name, rows in results.items()
        ),
        Figure("lost", lost, "datagrams", Better.LOWER),
    ]


def _by_kernel(topology: Topology, p: Parameters, variant: str) -> Trips:
    return _ping(topology, f"{topology.subscriber.address}:{DATA_PORT}", None, p, variant)


def _by_yardstick(topology: Topology, p: Parameters, there: Probe, back: Probe) -> Trips:
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    (near, far), (near_address, far_address) = b.interfaces, b.addresses
    there.attach("hand_on", near, far, {"macs": macs(mac_of(c.address), mac_of(far_address))})
    back.attach("hand_on", far, near, {"macs": macs(mac_of(a.address), mac_of(near_address))})
    try:
        return _by_kernel(topology, p, _HANDED_ON)
    finally:
        there.detach()
        back.detach()


def _by_fast_path(topology: Topology, p: Parameters, mode: str) -> Trips:
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    topics = {
        _THERE: (Group("echo", (Member(c.address, DATA_PORT),)),),
        _BACK: (Group("origin", (Member(a.address, DATA_PORT),)),),
    }
    with Broker(b, topics, mode=mode, cpu=cores()[1]) as broker:
        for topic in topics:
            broker.wait_path(topic.name, Path.FAST)
        reply_to = f"{topology.facing_subscriber}:{DATA_PORT}"
        trips = _ping(topology, f"{b.address}:{DATA_PORT}", reply_to, p, f"fast path, {mode}")
        trips_and_warm_up = p.round_trips + _WARM_UP
        for topic in topics:
            status = broker.wait_received(topic.name, trips_and_warm_up, limit=2)
            # Generic mode leaves 1 in 65,536 to the slow path; more would be another path's figure.
            if status.fast < 0.999 * trips_and_warm_up:
                raise TemposError(
                    f"only {status.fast} of {trips_and_warm_up} took the fast path: {status.reason}"
                )
    return trips


def _ping(topology: Topology, to: str, reply_to: str | None, p: Parameters, variant: str) -> Trips:
    core, _ = cores()
    a, c = topology.publisher, topology.subscriber
    back = ("--reply-to", reply_to) if reply_to else ()
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
    pinged = a.role(
        "ping", "--bind", f"{a.address}:{DATA_PORT}", "--to", to, "--topic", _THERE.id,
        "--count", p.round_trips, "--warm-up", _WARM_UP, "--size", p.payload, cpu=core,
    ).result(60)  # fmt: skip
    echo.stop()
    times = pinged["samples_ns"]
    current().add_samples(variant, samples.pack(times))
    return Trips(percentile(times, 50) / 1000, percentile(times, 99) / 1000, pinged["lost"])
