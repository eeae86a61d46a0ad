"""Copies per second to a thousand plain subscribers of a topic, slow path, beside a bare `sendmmsg` loop.

A plain subscriber is a group of its own, so each gets every event. Both wait in the broker's node on the same
core, take their events from a full socket, and their copies are counted and dropped at the far end.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tempos import DATA_PORT, Group, Member
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lane import TOPIC, Crossing, Lane
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run

_FIRST_PORT, _BARE_PORT = 10_000, 9801
_SLOW, _BARE = "slow path", "bare"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``events`` of ``payload`` bytes a round and variant, each to so many ``subscribers``."""

    rounds: int
    subscribers: int
    events: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    with ExitStack() as stack:
        progress("building")
        lane = Lane(stack, core, p.payload)
        node, far = lane.topology.broker, lane.topology.subscriber.address
        node.role("forward", "--bind", f"{node.address}:{_BARE_PORT}", "--member", f"{far}:{_FIRST_PORT}",
                  "--each", p.subscribers, ready=True, cpu=other)  # fmt: skip
        groups = tuple(
            Group(f"plain-{number}", (Member(far, _FIRST_PORT + number),)) for number in range(p.subscribers)
        )
        broker = stack.enter_context(Broker(node, {TOPIC: groups}, mode="off", cpu=other))

        def cross(port: int) -> Crossing:
            lane.aim(TOPIC.id, port)
            crossing = lane.flood(p.events)
            return Crossing(p.events * p.subscribers, crossing.received, crossing.seconds)

        variants = {_SLOW: lambda: cross(DATA_PORT), _BARE: lambda: cross(_BARE_PORT)}
        warm_up(variants, progress)
        results: dict[str, list[Crossing]] = interleave(p.rounds, variants, progress)
        (served,) = broker.status()["topics"]
    rates = {name: [crossing.rate for crossing in crossings] for name, crossings in results.items()}
    ratio = ratios(rates[_SLOW], rates[_BARE])
    lost = {name: sum(each.sent - each.received for each in crossings) for name, crossings in results.items()}
    return [
        median(_SLOW, summarize(rates[_SLOW]), "copies/s", yardstick="bare sendmmsg loop"),
        median("bare sendmmsg loop", summarize(rates[_BARE]), "copies/s"),
        median("ratio to the bare loop", ratio, "x", Better.HIGHER),
        Figure("ratio to the bare loop, lower quartile", ratio.low, "x"),
        Figure("ratio to the bare loop, upper quartile", ratio.high, "x"),
        Figure(f"lost, {_SLOW}", lost[_SLOW], "copies"),
        Figure(f"lost, {_BARE}", lost[_BARE], "copies", Better.NEITHER),
        Figure("groups", len(served["groups"]), "groups", Better.NEITHER),
    ]
