"""The fast path against an XDP program that only redirects: live frames per second at the far end.

Two equal lanes stand side by side, so that a round switches from one to the other at no cost. What
must agree besides the rate: every frame came out, and the broker counts all of them as its fast path's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tempos_bench.lane import TOPIC, Lane
from tempos_bench.probe import Probe
from tempos_bench.report import Figure
from tempos_bench.rounds import cores, interleave
from tempos_bench.stats import ratios, summarize


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` a round and variant, ``payload`` bytes of UDP payload."""

    rounds: int
    frames: int
    payload: int


def run(p: Parameters, progress: Callable[[str], None]) -> list[Figure]:
    """Measure."""
    core, other = cores()
    with ExitStack() as stack:
        progress("building two lanes")
        bare = Lane(stack, core, p.payload)
        node = bare.topology.broker
        near, far = node.interfaces
        Probe(node, core).attach("redirect_only", near, redirect_to=far)
        fast = Lane(stack, core, p.payload)
        broker = fast.forward_by_broker(stack, other)
        variants = {
            "redirect only": lambda: bare.cross(p.frames),
            "fast path": lambda: fast.cross(p.frames),
        }
        interleave(1, variants, lambda text: progress("warming up"))
        before = broker.topic(TOPIC.name).fast
        results = interleave(p.rounds, variants, progress)
        by_fast_path = broker.topic(TOPIC.name).fast - before
    rates = {name: [crossing.rate for crossing in rows] for name, rows in results.items()}
    ratio = ratios(rates["fast path"], rates["redirect only"])
    sent = sum(crossing.sent for crossing in results["fast path"])
    return [
        Figure("redirect only", summarize(rates["redirect only"]).median, "datagrams/s"),
        Figure("fast path", summarize(rates["fast path"]).median, "datagrams/s"),
        Figure("ratio", ratio.median, "x"),
        Figure("ratio, lower quartile", ratio.low, "x"),
        Figure("ratio, upper quartile", ratio.high, "x"),
        Figure(
            "lost, redirect only", sum(c.sent - c.received for c in results["redirect only"]), "datagrams"
        ),
        Figure("lost, fast path", sum(c.sent - c.received for c in results["fast path"]), "datagrams"),
        Figure("not by the fast path", sent - by_fast_path, "datagrams"),
    ]
