"""The fast path against an XDP program that only redirects: live frames per second at the far end.

Two equal lanes stand side by side, so that a round switches from one to the other at no cost. Where a
lane's buffers happen to lie makes a difference of some percent even between equal programs, so the
lanes are built anew for every repetition, and by turns the one or the other first. What must agree
besides the rate: every frame came out, and the broker counts all of them as its fast path's.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tempos_bench.measure.lane import TOPIC, Crossing, Lane
from tempos_bench.measure.probe import Probe
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` a round and variant, ``payload`` bytes of UDP payload."""

    repetitions: int
    rounds: int
    frames: int
    payload: int


BARE, FAST = "redirect only", "fast path"
LOW = Better.LOWER


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    crossings: dict[str, list[Crossing]] = {BARE: [], FAST: []}
    by_fast_path = 0
    blocks: list[int] = []
    progress.plan(p.repetitions * p.rounds * len(crossings))
    with progress.keeping(lambda: blocks):
        for number in progress.repetitions(p.repetitions):
            progress(f"building lanes {number + 1} of {p.repetitions}")
            results, counted = _repeat(p, (BARE, FAST) if number % 2 else (FAST, BARE), progress)
            by_fast_path += counted
            blocks.append(len(results[FAST]))
            for name, rows in results.items():
                crossings[name] += rows
    rates = {name: [crossing.rate for crossing in rows] for name, rows in crossings.items()}
    lost = {name: sum(c.sent - c.received for c in rows) for name, rows in crossings.items()}
    ratio = ratios(rates[FAST], rates[BARE])
    return [
        median(BARE, summarize(rates[BARE]), "datagrams/s", blocks=blocks),
        median(FAST, summarize(rates[FAST]), "datagrams/s", blocks=blocks, yardstick=BARE),
        median("ratio", ratio, "x", Better.HIGHER, blocks=blocks, credible=(0, 1.1)),
        Figure("ratio, lower quartile", ratio.low, "x"),
        Figure("ratio, upper quartile", ratio.high, "x"),
        Figure(f"lost, {BARE}", lost[BARE], "datagrams", LOW),
        Figure(f"lost, {FAST}", lost[FAST], "datagrams", LOW),
        Figure("not by the fast path", sum(c.sent for c in crossings[FAST]) - by_fast_path, "datagrams", LOW),
    ]


def _repeat(p: Parameters, order: tuple[str, ...], progress: Run) -> tuple[dict[str, list[Crossing]], int]:
    """All rounds over freshly built lanes; the crossings, and how many datagrams the broker counted."""
    core, other = cores()
    with ExitStack() as stack:
        lanes = {name: Lane(stack, core, p.payload) for name in order}
        node = lanes[BARE].topology.broker
        near, far = node.interfaces
        Probe(node, core).attach("redirect_only", near, redirect_to=far)
        broker = lanes[FAST].forward_by_broker(stack, other)
        variants = {
            BARE: lambda: lanes[BARE].cross(p.frames),
            FAST: lambda: lanes[FAST].cross(p.frames),
        }
        warm_up(variants, progress)
        before = broker.topic(TOPIC.name).fast
        results = interleave(p.rounds, variants, progress)
        return results, broker.topic(TOPIC.name).fast - before
