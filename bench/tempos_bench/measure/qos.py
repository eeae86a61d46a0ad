"""What the scenarios of the two quality classes share: their loads, and the figures these give.

A load is told by what flows: SQ alone, BQ alone, both with BQ at so many times what can be carried. SQ
is timed from its schedule, whatever held its publisher up. A flood of BQ is timed from when it was really
sent: the flooder is asked for more than it can send.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tempos import Topic, Unavailable
from tempos_bench.measure import samples
from tempos_bench.measure.load import Flow, Heard, Load
from tempos_bench.measure.stats import ratio, ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import turned
from tempos_bench.runs.run import Cell, Run

SQ_ALONE, BQ_ALONE, CARRIES = "SQ alone", "BQ alone", "BQ as much as can be"
#: Plays that may end without a single event on a machine that is too busy.
_TRIES = 3

#: Nothing is twice as fast for being disturbed: where it seems so, it was disturbed alone.
_CREDIBLE = (0.5, math.inf)

#: What was heard, by load and then by class; of one round.
Plays: TypeAlias = Mapping[str, Mapping[str, Heard]]


@dataclass(frozen=True, slots=True)
class TwoClasses:
    """``rate``: of SQ, events/s. ``flood``: of BQ, more than can be carried, in buffers of ``segments``."""

    sq: Topic
    bq: Topic
    rate: float
    flood: float
    segments: int

    def strict(self) -> Flow:
        return Flow(self.sq, self.rate)

    def best_effort(self, rate: float) -> Flow:
        return Flow(self.bq, min(rate, self.flood), flood=True, segments=self.segments)


def both(times: float) -> str:
    """The name of the load with BQ at so many times what can be carried."""
    return f"BQ x{times:g}"


def loads(
    load: Load,
    classes: TwoClasses,
    times: Sequence[float],
    seconds: float,
    run: Run,
    *,
    text: str,
    number: int,
    work: float = 0.0,
    carried: float | None = None,
) -> dict[str, dict[str, Heard]]:
    """All loads one after the other, in another order each round (``number``).

    The first tells what can be carried, events/s of BQ, unless ``carried`` is what counts. ``text``: what
    is measured; ``work``: see :meth:`Load.play`.
    """
    found = {}
    with run.variant(f"{text}: {CARRIES}"):
        for _ in range(_TRIES):
            found[CARRIES] = load.play([classes.best_effort(classes.flood)], seconds, work)
            most = carried or found[CARRIES][classes.bq.name].outcome.rate
            if most:
                break
        else:
            raise Unavailable(f"{text}: of {classes.flood:,.0f} events/s of BQ none came in {_TRIES} plays")
    flows = {SQ_ALONE: [classes.strict()], BQ_ALONE: [classes.best_effort(most)]}
    flows |= {both(n): [classes.strict(), classes.best_effort(n * most)] for n in times}
    for name in turned(list(flows), number):
        with run.variant(f"{text}: {name}"):
            found[name] = load.play(flows[name], seconds, work)
    return {name: found[name] for name in (CARRIES, *flows)}


def keep(run: Run, variant: str, plays: Plays) -> None:
    """Keep the outcomes of a round, and the samples behind them."""
    for name, heard in plays.items():
        run.keep(f"{variant}: {name}", {quality: each.outcome for quality, each in heard.items()})
        for quality, each in heard.items():
            of = {"load": name, "class": quality, "from": each.start}
            run.add_samples(variant, {**of, **samples.pack(each.latency)})


def describe(run: Run, variants: Mapping[str, Sequence[Plays]]) -> None:
    """The table of every variant, load and class; rates and losses are sums or medians of the rounds.

    p50, p99 and jitter are medians of the rounds; p99.9 and the worst are of all rounds together. The last
    columns tell what of it is the sender's doing, and what comes on top until the program has the event.
    """
    rows: list[list[Cell]] = []
    for variant, rounds in variants.items():
        for name in rounds[0] if rounds else ():
            for quality in rounds[0][name]:
                heard = [plays[name][quality] for plays in rounds]
                together = samples.summarize(array("I", (s for h in heard for s in h.latency)))
                each = [h.outcome.latency for h in heard]
                rows.append([
                    variant, name, quality,
                    summarize([h.outcome.offered for h in heard]).median,
                    summarize([h.outcome.rate for h in heard]).median,
                    100 * ratio(sum(h.outcome.lost for h in heard), sum(h.outcome.sent for h in heard)),
                    summarize([one.p50 for one in each]).median,
                    summarize([one.p99 for one in each]).median,
                    together.p999, together.max,
                    summarize([one.jitter for one in each]).median,
                    _lateness(heard),
                    summarize([h.outcome.program.p99 for h in heard]).median,
                ])  # fmt: skip
    headers = ("variant", "load", "class", "offered/s", "delivered/s", "lost %", "p50 us", "p99 us",
               "p99.9 us", "worst us", "jitter us", "sent late p99 us", "to program p99 us")  # fmt: skip
    run.add_table("One-way latency", headers, rows, left=3)


def _lateness(heard: Sequence[Heard]) -> float | None:
    """p99 of how late events were sent; None of a flood, which is always as late as it may be."""
    if heard[0].start == "sending":
        return None
    return summarize([each.outcome.late.p99 for each in heard]).median


def judged_figures(variant: str, rounds: Sequence[Plays], times: Sequence[float]) -> list[Figure]:
    """What BQ does to SQ: its p99 to that of SQ alone in the same round, and what SQ lost in all."""
    alone = [plays[SQ_ALONE]["SQ"].outcome.latency for plays in rounds]
    figures = []
    for name in map(both, times):
        loaded = [plays[name]["SQ"].outcome.latency for plays in rounds]
        ratio = ratios([one.p99 for one in loaded], [one.p99 for one in alone])
        middle = ratios([one.p50 for one in loaded], [one.p50 for one in alone])
        figures += [
            median(f"{variant}, {name}: SQ p99 to alone", ratio, "x", Better.LOWER, credible=_CREDIBLE),
            median(f"{variant}, {name}: SQ p50 to alone", middle, "x", Better.LOWER),
        ]
    lost = sum(
        h.outcome.lost for plays in rounds for heard in plays.values() for q, h in heard.items() if q == "SQ"
    )
    return [*figures, Figure(f"{variant}: SQ lost", lost, "events", Better.LOWER)]


def carried_figures(variant: str, rounds: Sequence[Plays], times: Sequence[float]) -> list[Figure]:
    """What BQ can have, and how many times that the flooder really sent."""
    carried = [plays[CARRIES]["BQ"].outcome.rate for plays in rounds]
    figures = [median(f"{variant}: BQ carried", summarize(carried), "events/s")]
    for name in map(both, times):
        offered = [plays[name]["BQ"].outcome.offered for plays in rounds]
        really = ratios(offered, carried)
        figures.append(median(f"{variant}, {name}: BQ offered to carried", really, "x", Better.NEITHER))
    return figures
