"""Over a rising rate: where best effort bends, and where strict quality does.

One publisher sends events of both workflows on one schedule, as the source's one event triggered both;
first each workflow by itself, then both, on the slow path and on the fast path. A class bends at the
first rate from which on, for two steps, more than `lost` percent are lost or p99 is more than `times`
that at `base` events/s. What counts is the rate that was really offered, for the sender has an end, too.
Where a class does not bend, its figure is empty and a note says up to where it did not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import Framing, PathPolicy, Quality, TemposError, Topic
from tempos_bench.measure.load import Flow, Heard, Load, Outcome, Subject
from tempos_bench.measure.qos import keep
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure
from tempos_bench.runs.run import Cell, Run

MODES = {"slow path": "off", "fast path": "native"}
LOADS = {"SQ alone": ("SQ",), "BQ alone": ("BQ",), "both": ("BQ", "SQ")}
_PORTS = {"SQ": 9001, "BQ": 9002}
_SOURCE = {"both": {"BQ": "about 500 events/s", "SQ": "not up to 1,000 events/s"}}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rates``: events/s of each workflow, rising; ``base`` is one of them."""

    rounds: int
    seconds: float
    rates: tuple[float, ...]
    base: float
    lost: float
    times: float
    segments: int
    payload: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a class had at one rate: medians of the rounds; ``asked`` and ``offered`` in events/s."""

    asked: float
    offered: float
    lost_share: float
    p50: float
    p99: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if p.base not in p.rates or list(p.rates) != sorted(p.rates):
        raise TemposError(f"qos-rate: the rates must rise, and base ({p.base:g}) be one of them")
    heard: dict[str, dict[float, list[dict[str, Heard]]]] = {}
    progress.note(
        "from the sending, not the schedule, until the subscriber's kernel: the sender has an end, too"
    )
    progress.plan(p.rounds * len(MODES) * len(LOADS) * len(p.rates))
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, list(_PORTS.values()), size=p.payload)
        with progress.keeping(lambda: heard):
            for number in progress.repetitions(p.rounds):
                this: dict[str, dict[float, dict[str, Heard]]] = {}
                for path, mode in MODES.items():
                    topics = _topics(path)
                    subjects = [Subject(topic, _PORTS[name]) for name, topic in topics.items()]
                    with load.broker(subjects, mode=mode):
                        for name, classes in LOADS.items():
                            this[f"{path}, {name}"] = {
                                rate: _step(load, [topics[each] for each in classes], rate, p, progress,
                                            f"round {number + 1} of {p.rounds}, {path}, {name}")
                                for rate in p.rates
                            }  # fmt: skip
                for name, steps in this.items():
                    for rate, found in steps.items():
                        heard.setdefault(name, {}).setdefault(rate, []).append(found)
                        keep(progress, name, {f"{rate:g} events/s": found})
    return _figures(heard, p, progress)


def _topics(path: str) -> dict[str, Topic]:
    policy = PathPolicy.SLOW if path == "slow path" else PathPolicy.AUTO
    return {
        name: Topic(number, name, quality=Quality(name), framing=Framing.EVENT, policy=policy)
        for number, name in enumerate(_PORTS, start=1)
    }


def _step(
    load: Load, topics: Sequence[Topic], rate: float, p: Parameters, progress: Run, text: str
) -> dict[str, Heard]:
    with progress.variant(f"{text}: {rate:,.0f} events/s"):
        return load.play([Flow(topic, rate, flood=True, segments=p.segments) for topic in topics], p.seconds)


def _figures(
    heard: dict[str, dict[float, list[dict[str, Heard]]]], p: Parameters, progress: Run
) -> list[Figure]:
    figures: list[Figure] = []
    rows: list[list[Cell]] = []
    for name, steps in heard.items():
        for quality in LOADS[name.partition(", ")[2]]:
            curve = [_summary(rate, [one[quality].outcome for one in found]) for rate, found in steps.items()]
            rows += [
                [name, quality, step.asked, step.offered, 100 * step.lost_share, step.p50, step.p99]
                for step in curve
            ]
            knee = bend(curve, p.base, p.lost / 100, p.times)
            title = f"{name}: {quality} bends at"
            source = _SOURCE.get(name.partition(", ")[2], {}).get(quality)
            figures.append(Figure(title, knee, "events/s", Better.HIGHER, source=source))
            if math.isnan(knee):
                last = max(step.offered for step in curve)
                progress.note(
                    f"{name}: {quality} does not bend up to {last:,.0f} events/s, the most that was sent"
                )
    headers = ("load", "class", "asked/s", "offered/s", "lost %", "p50 us", "p99 us")
    progress.add_table("Over a rising rate", headers, rows, left=2)
    return figures


def _summary(rate: float, outcomes: Sequence[Outcome]) -> Step:
    return Step(
        asked=rate,
        offered=summarize([one.offered for one in outcomes]).median,
        lost_share=summarize([one.lost_share for one in outcomes]).median,
        p50=summarize([one.latency.p50 for one in outcomes]).median,
        p99=summarize([one.latency.p99 for one in outcomes]).median,
    )


def bend(curve: Sequence[Step], base: float, lost_share: float, times: float) -> float:
    """The offered rate from which on two steps in turn are bad, nan if there is none.

    Bad: more than ``lost_share`` lost, or p99 above ``times`` that at ``base``. The last needs no second.
    """
    limit = times * next(step.p99 for step in curve if step.asked == base)
    bad = [step.asked > base and (step.lost_share > lost_share or step.p99 > limit) for step in curve]
    for at, step in enumerate(curve):
        if all(bad[at : at + 2]):
            return step.offered
    return math.nan
