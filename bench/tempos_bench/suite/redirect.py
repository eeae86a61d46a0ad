"""The fast path against an XDP program that only redirects: live frames per second at the far end.

Two equal lanes stand side by side, so that a round switches from one to the other at no cost. Where a
lane's buffers happen to lie makes a difference of some percent even between equal programs, so the
lanes are built anew for every repetition, and by turns the one or the other first. What must agree
besides the rate: every frame came out, and the broker counts all of them as its fast path's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tempos_bench.lane import TOPIC, Crossing, Lane
from tempos_bench.probe import Probe
from tempos_bench.report import Figure
from tempos_bench.rounds import cores, interleave
from tempos_bench.stats import ratios, summarize


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` a round and variant, ``payload`` bytes of UDP payload."""

    repetitions: int
    rounds: int
    frames: int
    payload: int


BARE, FAST = "redirect only", "fast path"


def run(p: Parameters, progress: Callable[[str], None]) -> list[Figure]:
    """Measure."""
    crossings: dict[str, list[Crossing]] = {BARE: [], FAST: []}
    by_fast_path = 0
    for number in range(p.repetitions):
        order = (BARE, FAST) if number % 2 else (FAST, BARE)

        def tell(text: str, number: int = number) -> None:
            progress(f"lanes {number + 1} of {p.repetitions}, {text}")

        results, counted = _repeat(p, order, tell)
        by_fast_path += counted
        for name, rows in results.items():
            crossings[name] += rows
    rates = {name: [crossing.rate for crossing in rows] for name, rows in crossings.items()}
    lost = {name: sum(c.sent - c.received for c in rows) for name, rows in crossings.items()}
    ratio = ratios(rates[FAST], rates[BARE])
    return [
        Figure(BARE, summarize(rates[BARE]).median, "datagrams/s"),
        Figure(FAST, summarize(rates[FAST]).median, "datagrams/s"),
        Figure("ratio", ratio.median, "x"),
        Figure("ratio, lower quartile", ratio.low, "x"),
        Figure("ratio, upper quartile", ratio.high, "x"),
        Figure(f"lost, {BARE}", lost[BARE], "datagrams"),
        Figure(f"lost, {FAST}", lost[FAST], "datagrams"),
        Figure("not by the fast path", sum(c.sent for c in crossings[FAST]) - by_fast_path, "datagrams"),
    ]


def _repeat(
    p: Parameters, order: tuple[str, ...], progress: Callable[[str], None]
) -> tuple[dict[str, list[Crossing]], int]:
    """All rounds over freshly built lanes; the crossings, and how many datagrams the broker counted."""
    core, other = cores()
    with ExitStack() as stack:
        progress("building")
        lanes = {name: Lane(stack, core, p.payload) for name in order}
        node = lanes[BARE].topology.broker
        near, far = node.interfaces
        Probe(node, core).attach("redirect_only", near, redirect_to=far)
        broker = lanes[FAST].forward_by_broker(stack, other)
        variants = {
            BARE: lambda: lanes[BARE].cross(p.frames),
            FAST: lambda: lanes[FAST].cross(p.frames),
        }
        interleave(1, variants, lambda text: progress("warming up"))
        before = broker.topic(TOPIC.name).fast
        results = interleave(p.rounds, variants, progress)
        return results, broker.topic(TOPIC.name).fast - before
