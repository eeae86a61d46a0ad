"""The source's first test (its chapter 5.1): ICMP echo from A to C, straight or by way of B.

A, B and C are ports of one bridge. By way of B: A and C take each other's frames to B's MAC, and B sends
them on, out of the same interface, by the kernel's IP forwarding or by an XDP program that does only
that (`relay` of bench/bpf/yardsticks.bpf.c): ICMP is no event, and a broker leaves it to the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, pstdev

from tempos_bench.measure import samples
from tempos_bench.measure.probe import Probe, macs
from tempos_bench.measure.stats import differences, summarize
from tempos_bench.nodes.topology import LEFT_OUT, Topology, build, know, links_are_ours, mac_of
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.report.source import NOT_A_NIC
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_DIRECT, _KERNEL = "direct", "kernel forwarding"
#: The ways by way of B -> the mode of the XDP program there, None: the kernel forwards.
_DETOURS = {_KERNEL: None, "native": "native", "generic": "generic"}
#: What the source's `ping` printed: least, mean, most and deviation, in milliseconds.
_SOURCE = {
    _DIRECT: ("0.120", "0.225", "0.321", "0.012"),
    "native": ("0.194", "0.371", "0.533", "0.040"),
    "generic": ("0.171", "0.363", "0.546", "0.041"),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``packets`` a variant in all, one each ``interval`` seconds, in ``rounds``; ``payload`` bytes."""

    rounds: int
    packets: int
    interval: float
    payload: int


@dataclass(frozen=True, slots=True)
class Pings:
    """Round trips of one round, microseconds; ``deviation`` is the standard one, `mdev` of `ping`."""

    least: float
    mean: float
    most: float
    deviation: float
    lost: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if links_are_ours():
        progress.note(NOT_A_NIC)
    progress.note("the source's times are those of the `ping` command, waits of its own included")
    with build("one-armed") as topology:
        variants: dict[str, Callable[[], Pings]] = {_DIRECT: lambda: _ping(topology, p, progress, _DIRECT)}
        if links_are_ours():
            probe = Probe(topology.broker)
            variants |= {
                name: lambda name=name, mode=mode: _by_way_of_b(topology, p, progress, name, mode, probe)  # type: ignore[misc]
                for name, mode in _DETOURS.items()
            }
        else:
            progress.note(
                f"{LEFT_OUT}: all but {_DIRECT}; A and C would have to take each other's frames to B, by "
                "neighbours that are the hosts' own"
            )
        results = interleave(p.rounds, variants, progress)
    figures = []
    for name, rows in results.items():
        theirs = [f"{value} ms" for value in _SOURCE[name]] if name in _SOURCE else (None,) * 4
        mean = summarize([pings.mean for pings in rows])
        deviation = summarize([pings.deviation for pings in rows])
        least, most = min(pings.least for pings in rows), max(pings.most for pings in rows)
        figures += [
            median(f"{name}: mean", mean, "us", source=theirs[1]),
            Figure(f"{name}: least", least, "us", Better.NEITHER, source=theirs[0]),
            Figure(f"{name}: most", most, "us", Better.NEITHER, source=theirs[2]),
            median(f"{name}: deviation", deviation, "us", Better.NEITHER, source=theirs[3]),
        ]
    for name in (name for name in _DETOURS if name in results):
        added = differences([x.mean for x in results[name]], [x.mean for x in results[_DIRECT]])
        extra = {"native": "0.146 ms", "generic": "0.138 ms"}.get(name)
        figures.append(median(f"{name}: added by way of B", added, "us", source=extra))
    lost = sum(pings.lost for rows in results.values() for pings in rows)
    return [*figures, Figure("lost", lost, "packets", Better.LOWER)]


def _by_way_of_b(
    topology: Topology, p: Parameters, progress: Run, name: str, mode: str | None, probe: Probe
) -> Pings:
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    interface = b.interfaces[0]
    with _detour(topology):
        if mode is None:
            return _ping(topology, p, progress, name)
        constants = {
            "relay_hosts": socket.inet_aton(a.address) + socket.inet_aton(c.address),
            "relay_macs": macs(mac_of(a.address), mac_of(c.address), mac_of(b.address)),
        }
        probe.attach("relay", interface, interface, constants, mode)
        try:
            return _ping(topology, p, progress, name)
        finally:
            probe.detach()


@contextmanager
def _detour(topology: Topology) -> Iterator[None]:
    """Meanwhile A and C take B for each other."""
    a, b, c = topology.publisher, topology.broker, topology.subscriber
    ends = ((a, c), (c, a))
    for here, there in ends:
        know(here, here.interfaces[0], there.address, mac_of(b.address))
    try:
        yield
    finally:
        for here, there in ends:
            know(here, here.interfaces[0], there.address)


def _ping(topology: Topology, p: Parameters, progress: Run, name: str) -> Pings:
    count = max(p.packets // p.rounds, 1)
    got = topology.publisher.role(
        "icmp", "--to", topology.subscriber.address, "--count", count, "--interval", p.interval,
        "--size", p.payload, cpu=cores()[0],
    ).result(count * (p.interval + 0.001) + 60)  # fmt: skip
    times = [sample / 1000 for sample in got["samples_ns"]]
    progress.add_samples(name, samples.pack(got["samples_ns"]))
    if not times:
        return Pings(*(float("nan"),) * 4, lost=got["lost"])
    return Pings(min(times), fmean(times), max(times), pstdev(times), got["lost"])
