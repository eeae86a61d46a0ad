"""The slow path against two forwarders that do nothing else: one in C, one plain under uvloop.

All three wait in the broker's node, on the same core and on ports of their own; a round blasts at each
in turn, faster than any of them forwards. Counted is what reaches the subscriber's socket while the
sender sends; the kernel discards it there, so that no receiver takes time from what is measured.

The scenario `slow-path-gso` is the same with publishers that use UDP GSO: a burst then crosses the link as
one buffer, and a receiver that asks for it (UDP_GRO) gets it as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, PathPolicy, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import rate_between, ratios, summarize
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT, policy=PathPolicy.SLOW)
_MEMBER_PORT = 9001
_C_PORT, _UVLOOP_PORT = 9801, 9802
#: What is not counted at the begin of each blast, nanoseconds: until queues and caches are warm.
_START_NS = 200_000_000
_ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True)
class Parameters:
    """Blasts of ``seconds`` with datagrams of ``payload`` bytes, one per round and variant.

    ``segments``: datagrams that the publisher hands to its kernel as one buffer (UDP GSO); 1: none.
    """

    rounds: int
    seconds: float
    payload: int
    segments: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Datagrams/s that the sender offered and that were delivered meanwhile."""

    offered: float
    delivered: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    with build() as topology:
        progress("starting the broker and two forwarders")
        b, c = topology.broker, topology.subscriber
        member = Member(c.address, _MEMBER_PORT)
        for role, port in (("forward", _C_PORT), ("plain", _UVLOOP_PORT)):
            b.role(role, "--bind", f"{b.address}:{port}", "--member", member, ready=True, cpu=other)
        with Broker(b, {_TOPIC: (Group("bench", (member,)),)}, mode="off", cpu=other):
            ports = {"slow path": DATA_PORT, "C": _C_PORT, "uvloop": _UVLOOP_PORT}
            variants = {
                name: lambda port=port: _blast(topology, port, p, core) for name, port in ports.items()
            }
            results: dict[str, list[Rate]] = interleave(p.rounds, variants, progress)
    rates = {name: [rate.delivered for rate in rows] for name, rows in results.items()}
    to_c = ratios(rates["slow path"], rates["C"])
    to_uvloop = ratios(rates["slow path"], rates["uvloop"])
    offered = [rate.offered for rows in results.values() for rate in rows]
    # Near 1 the sender was the limit, and the ratios are what the slow path reaches at least.
    share = ratios(rates["slow path"], [rate.offered for rate in results["slow path"]])
    return [
        median("slow path", summarize(rates["slow path"]), "datagrams/s", yardstick="C forwarder"),
        median("C forwarder", summarize(rates["C"]), "datagrams/s"),
        median("uvloop forwarder", summarize(rates["uvloop"]), "datagrams/s", Better.NEITHER),
        median("ratio to C", to_c, "x", Better.HIGHER),
        Figure("ratio to C, lower quartile", to_c.low, "x"),
        Figure("ratio to C, upper quartile", to_c.high, "x"),
        median("ratio to uvloop", to_uvloop, "x", Better.HIGHER),
        Figure("offered", summarize(offered).median, "datagrams/s", Better.NEITHER),
        Figure("slow path, share of what was offered", share.median, "x"),
    ]


def _blast(topology: Topology, port: int, p: Parameters, core: int) -> Rate:
    c = topology.subscriber
    sink = c.role("sink", "--bind", f"{c.address}:{_MEMBER_PORT}", "--discard", "--idle", 0.2,
                  ready=True, talk=True, cpu=core)  # fmt: skip
    sent = topology.publisher.role(
        "blast", "--to", f"{topology.broker.address}:{port}", "--topic", _TOPIC.id,
        "--count", _ENDLESS, "--limit", p.seconds, "--size", p.payload,
        "--segments", p.segments, cpu=core,
    ).result(p.seconds + 30)  # fmt: skip
    marks = sink.ask("all is sent", 60)["marks"]
    took_ns = sent["ended_ns"] - sent["began_ns"]
    # From the first arrival on, for as long as the sender sent: so no clock is held against another's.
    began_ns = next((when for when, count in marks if count), 0)
    return Rate(
        offered=sent["sent"] / took_ns * 1e9,
        delivered=rate_between(marks, began_ns + _START_NS, began_ns + took_ns),
    )
