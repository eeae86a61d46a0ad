"""The fast path's run time per packet against an empty program's, by the kernel's own BPF statistics.

Both carry the statistics' cost (some 20 ns), so only the difference means something. The empty program
passes frames addressed to another MAC, which the kernel throws away at once.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tempos_bench.measure import probe
from tempos_bench.measure.lane import Lane
from tempos_bench.measure.probe import Probe
from tempos_bench.measure.stats import differences, summarize
from tempos_bench.report.figures import Figure, median
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run

_NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` a round and variant, ``payload`` bytes of UDP payload."""

    rounds: int
    frames: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    with ExitStack() as stack:
        progress("building two lanes")
        empty = Lane(stack, core, p.payload, mac=_NOBODY)
        empty_node = empty.topology.broker
        yardstick = Probe(empty_node, core)
        yardstick.attach("pass_only", empty_node.interfaces[0])
        fast = Lane(stack, core, p.payload)
        broker = fast.forward_by_broker(stack, other)

        def per_packet(lane: Lane, pid: int) -> float:
            before = probe.figures(lane.topology.broker, pid, lane.program())
            lane.source.generate(p.frames)
            after = probe.figures(lane.topology.broker, pid, before.id)
            return (after.run_time_ns - before.run_time_ns) / (after.runs - before.runs)

        variants = {
            "empty program": lambda: per_packet(empty, yardstick.pid),
            "fast path": lambda: per_packet(fast, broker.pid),
        }
        yardstick.statistics(on=True)
        warm_up(variants, progress)
        results = interleave(p.rounds, variants, progress)
        instructions = probe.figures(broker.node, broker.pid, fast.program()).instructions
    difference = differences(results["fast path"], results["empty program"])
    return [
        median("empty program", summarize(results["empty program"]), "ns"),
        median("fast path", summarize(results["fast path"]), "ns", yardstick="empty program"),
        median("difference", difference, "ns"),
        Figure("difference, lower quartile", difference.low, "ns"),
        Figure("difference, upper quartile", difference.high, "ns"),
        Figure("verified instructions", instructions, "instructions"),
    ]
