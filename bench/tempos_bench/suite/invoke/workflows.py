"""Workflows over a rising rate, from the signal to the result at a subscriber: where each class bends.

Two workflows, a strict and a best-effort one: datagrams to a trigger, a topic, an invoker's function, a
result topic, whoever subscribes to it. As the source did it, each alone and then both, on one schedule; its
two were set off by the same event and went up to 1,000 events/s. A class bends as `qos-rate` has it. A signal
is timed from its place in the schedule, so all that waits anywhere is in it: in the trigger, in the invoker's
queue, and in the source, whose end is part of what is measured. A third workflow is a chain of four steps,
far below what it can carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import Quality, TemposError
from tempos_bench.calls.workflows import Outcome, System, Workflow
from tempos_bench.measure import samples
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.run import Cell, Run
from tempos_bench.suite.qos_rate import Step, bend

MODES = {"slow path": "off", "fast path": "native"}
STRICT, BEST, CHAIN = (
    Workflow("SQ", Quality.SQ),
    Workflow("BQ", Quality.BQ),
    Workflow("chain", Quality.SQ, steps=4),
)
LOADS = {"SQ alone": (STRICT,), "BQ alone": (BEST,), "both": (BEST, STRICT)}
_SOURCE = {"both": {"BQ": "about 500 events/s", "SQ": "not up to 1,000 events/s"}}
#: How far the source went, events/s of each workflow.
_THEIRS = 1000.0

#: By load and rate, the outcomes of each round by workflow.
Heard = dict[str, dict[float, list[dict[str, Outcome]]]]


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rates``: signals/s of each workflow, rising, each for ``seconds``; ``base`` is one of them.

    ``chain_rate``: signals/s into the chain of four. ``lost``: percent, ``times``: see `qos-rate`.
    ``priority``: of SCHED_FIFO for all of SQ, 0: none.
    """

    paths: tuple[str, ...]
    rounds: int
    seconds: float
    rates: tuple[float, ...]
    base: float
    lost: float
    times: float
    chain_rate: float
    priority: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if p.base not in p.rates or list(p.rates) != sorted(p.rates):
        raise TemposError(f"workflows: the rates must rise, and base ({p.base:g}) be one of them")
    if unknown := [path for path in p.paths if path not in MODES]:
        raise TemposError(f"workflows: no path {', '.join(unknown)}, there are {', '.join(MODES)}")
    heard: Heard = {}
    chains: dict[str, list[Outcome]] = {path: [] for path in p.paths}
    failures: dict[str, dict[str, int]] = {}
    faults: list[str] = []
    progress.plan(p.rounds * len(p.paths) * (len(LOADS) * len(p.rates) + 1))
    with progress.keeping(lambda: all(chains.values())):
        for number in progress.repetitions(p.rounds):
            for path in p.paths:
                with ExitStack() as stack:
                    topology = stack.enter_context(build())
                    folder = stack.enter_context(topology.subscriber.folder())
                    system = System(
                        stack, topology, (STRICT, BEST, CHAIN), folder, MODES[path], priority=p.priority
                    )
                    text = f"round {number + 1} of {p.rounds}, {path}"
                    with progress.variant(f"{text}: a chain of four"):
                        outcome = _kept(
                            system, path, "chain", (CHAIN,), p.chain_rate, 2 * p.seconds, progress
                        )
                    chains[path].append(outcome[CHAIN.name])
                    for name, workflows in LOADS.items():
                        for rate in p.rates:
                            with progress.variant(f"{text}, {name}: {rate:,.0f} signals/s"):
                                found = _kept(system, path, name, workflows, rate, p.seconds, progress)
                            heard.setdefault(f"{path}, {name}", {}).setdefault(rate, []).append(found)
                    faults += [f"{path}: {fault}" for fault in system.faults()]
                    failures[path] = system.failures()
                    progress.note(f"{path}: {_scheduling(system)}", about=path)
    for path, failed in failures.items():
        told = ", ".join(f"{count:,} by {condition}" for condition, count in failed.items()) or "none"
        progress.note(f"{path}: invocations that failed in the last round: {told}")
    for fault in faults:
        progress.note(fault)
    progress.note(
        "signals, triggers and subscribers at A, broker at B, invokers at C, a trigger and an invoker for "
        "each class; functions in Python, a worker each, give their event back; sources and subscribers are "
        "Python, too, on the second core; SQ has real time from end to end as far as the kernel gives it"
    )
    beside = _beside(heard, p)
    slowest = max(summarize([one.latency.p50 for one in outcomes]).median for outcomes in chains.values())
    return [
        *_bends(heard, p, progress),
        *beside,
        *(figure for path, outcomes in chains.items() for figure in _chain(path, outcomes)),
        Figure("chain of four, p50 of the slowest path", slowest, "us", Better.LOWER, source="8,500 us"),
        Figure(
            "SQ lost up to what the source tried",
            sum(each.value for each in beside if "SQ lost" in each.name),
            "events",
            Better.LOWER,
        ),
        Figure("accounts that are not exact", len(faults), "", Better.LOWER),
    ]


def _kept(
    system: System, path: str, load: str, workflows: Sequence[Workflow], rate: float, seconds: float, run: Run
) -> dict[str, Outcome]:
    """Play, and keep what came of it and the samples behind it."""
    found = system.play(workflows, rate, seconds)
    for name, (_, latency) in found.items():
        about = {"load": load, "class": name, "from": "schedule", "rate": rate}
        run.add_samples(path, {**about, **samples.pack(latency)})
    outcomes = {name: outcome for name, (outcome, _) in found.items()}
    run.keep(f"{path}, {load}: {rate:g} signals/s", outcomes)
    return outcomes


def _scheduling(system: System) -> str:
    """What the workers of each class really got."""
    told = {each["class"]: each["workers"] for each in system.scheduling()}
    loops = {each["class"]: each["invoker"] for each in system.scheduling()}
    return "; ".join(
        [
            *(f"workers of {quality}: {_policies(workers)}" for quality, workers in told.items()),
            *(
                f"invoker of {quality}: {loop['policy']} {loop['priority']}"
                for quality, loop in loops.items()
            ),
        ]
    )


def _policies(workers: Sequence[Mapping[str, object]]) -> str:
    return ", ".join(str(worker.get("scheduling")) for worker in workers)


def _bends(heard: Heard, p: Parameters, progress: Run) -> list[Figure]:
    figures: list[Figure] = []
    rows: list[list[Cell]] = []
    for name, steps in heard.items():
        path, _, load = name.partition(", ")
        for workflow in LOADS[load]:
            quality = workflow.name
            curve = [_summary(rate, [one[quality] for one in found]) for rate, found in steps.items()]
            rows += [
                [name, quality, step.asked, step.offered, 100 * step.lost_share, step.p50, step.p99]
                for step in curve
            ]
            knee = bend(curve, p.base, p.lost / 100, p.times)
            source = _SOURCE.get(load, {}).get(quality)
            figures.append(
                Figure(f"{path}, {load}: {quality} bends at", knee, "events/s", Better.HIGHER, source=source)
            )
            if math.isnan(knee):
                last = max(step.offered for step in curve)
                progress.note(
                    f"{name}: {quality} does not bend up to {last:,.0f} events/s, the most that was sent"
                )
    headers = ("load", "class", "asked/s", "offered/s", "lost %", "p50 us", "p99 us")
    progress.add_table("From signal to result over a rising rate", headers, rows, left=2)
    return figures


def _summary(rate: float, outcomes: Sequence[Outcome]) -> Step:
    return Step(
        asked=rate,
        offered=summarize([one.offered for one in outcomes]).median,
        lost_share=summarize([one.lost_share for one in outcomes]).median,
        p50=summarize([one.latency.p50 for one in outcomes]).median,
        p99=summarize([one.latency.p99 for one in outcomes]).median,
    )


def _beside(heard: Heard, p: Parameters) -> list[Figure]:
    """At what the source went up to: each class beside the other, and whether anything of it was lost."""
    figures = []
    rate = max(each for each in p.rates if each <= _THEIRS or each == p.base)
    for path in p.paths:
        both = heard[f"{path}, both"]
        for workflow in LOADS["both"]:
            quality = workflow.name
            latencies = [one[quality].latency for one in both[rate]]
            text = f"{path}, both, {rate:,.0f}/s: {quality}"
            figures += [
                median(f"{text} p50", summarize([one.p50 for one in latencies]), "us"),
                median(f"{text} p99", summarize([one.p99 for one in latencies]), "us", Better.NEITHER),
            ]
            lost = sum(
                one[quality].lost
                for load in (f"{path}, {quality} alone", f"{path}, both")
                for asked, found in heard[load].items()
                if asked <= rate
                for one in found
            )
            figures.append(
                Figure(f"{path}: {quality} lost up to {rate:,.0f}/s", lost, "events", Better.LOWER)
            )
    return figures


def _chain(path: str, outcomes: Sequence[Outcome]) -> list[Figure]:
    latencies = [one.latency for one in outcomes]
    return [
        median(
            f"{path}: chain of four, p50", summarize([one.p50 for one in latencies]), "us", source="8,500 us"
        ),
        median(
            f"{path}: chain of four, p99", summarize([one.p99 for one in latencies]), "us", Better.NEITHER
        ),
        Figure(f"{path}: chain of four, lost", sum(one.lost for one in outcomes), "events", Better.LOWER),
    ]
