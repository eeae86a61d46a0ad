"""The tools of `tempos observe` beside those of bpftrace, libbpf-tools and bcc, on the same acts.

For each act (TCP connects, opens, starts of programs, page faults) every tool that tells of it is tried by
a known event; those that work watch a program that acts at a rate and then without pause, in turn with
nobody watching. Figures: which events they did not tell of, the processor time that they took, and how much
slower the watched program was. Whoever prints a line for each event has its output go into a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tempos import Unavailable
from tempos_bench.measure.stats import Summary, ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run
from tempos_bench.watching.trial import Trial, alone, watched
from tempos_bench.watching.watchers import BPFTRACE, TEMPOS, Watcher, watchers

_NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``acts``: which; ``counts``: of each, in each of the two parts; ``rates``: a second, in the first."""

    rounds: int
    acts: tuple[str, ...]
    counts: tuple[int, ...]
    rates: tuple[int, ...]


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    known = watchers()
    for act in p.acts:
        if act not in known:
            raise Unavailable(f"acts: {act!r}, allowed: {', '.join(known)}")
    plans = [(act, *plan) for act, plan in zip(p.acts, zip(p.counts, p.rates, strict=True), strict=True)]
    found: dict[str, list[Watcher]] = {}
    table: list[tuple[str, str, str]] = []
    for act, *_ in plans:
        found[act] = []
        for watcher in known[act]:
            progress(f"{act}: does {watcher.label} work here?")
            tried = watched(watcher, act, 10, 0)
            table.append((act, watcher.label, tried.why_not or "works"))
            if not tried.why_not:
                found[act].append(watcher)
    progress.add_table("Which tools work on this machine", ("act", "tool", ""), table, 3)
    variants: dict[str, Callable[[], Trial]] = {}
    for act, count, rate in plans:
        if not any(watcher.by == TEMPOS for watcher in found[act]):
            continue
        variants[f"{act}: {_NOBODY}"] = partial(alone, act, count, float(rate))
        for watcher in found[act]:
            variants[f"{act}: {watcher.label}"] = partial(watched, watcher, act, count, float(rate))
    if not variants:
        raise Unavailable("no tool of tempos runs here: " + "; ".join(f"{a} {w}: {t}" for a, w, t in table))
    results = interleave(p.rounds, variants, progress)
    figures: list[Figure] = []
    for act, count, rate in plans:
        if f"{act}: {_NOBODY}" in results:
            figures += _figures(act, 2 * count if rate else count, found[act], results, progress)
        else:
            figures += _missing(act, known[act][0])
    return figures


def _missing(act: str, ours: Watcher) -> list[Figure]:
    """Where the tool of tempos does not run: not known, so no target is met."""
    names = (f"{ours.label}: not told", "CPU beside bpftrace", "slow-down beside the best other")
    return [Figure(f"{act}: {name}", float("nan"), "ratio", Better.LOWER) for name in names]


def _figures(
    act: str, events: int, found: list[Watcher], results: dict[str, list[Trial]], progress: Run
) -> list[Figure]:
    figures: list[Figure] = []
    ours = next(watcher for watcher in found if watcher.by == TEMPOS)
    nobody = [trial.seconds for trial in results[f"{act}: {_NOBODY}"]]
    cpu: dict[str, list[float]] = {}
    slower: dict[str, Summary] = {}
    for watcher in found:
        name = f"{act}: {watcher.label}"
        trials = results[name]
        missed = sum(max(events - trial.seen, 0) for trial in trials)
        cpu[watcher.label] = [trial.cpu for trial in trials]
        slower[watcher.label] = ratios([trial.seconds for trial in trials], nobody)
        figures += [
            Figure(f"{name}: not told", missed, "events", Better.LOWER),
            median(f"{name}: CPU", summarize([each * 1e6 / events for each in cpu[watcher.label]]), "us"),
            median(f"{name}: slow-down", slower[watcher.label], "ratio", Better.LOWER),
        ]
        for told in {trial.told for trial in trials if trial.told}:
            progress.note(f"{name} says itself: {told}")
    others = [watcher for watcher in found if watcher is not ours]
    if bpftrace := next((watcher for watcher in others if watcher.by == BPFTRACE), None):
        share = ratios(cpu[ours.label], cpu[bpftrace.label])
        figures.append(median(f"{act}: CPU beside bpftrace", share, "ratio", Better.LOWER))
    if others:
        best = min((slower[watcher.label] for watcher in others), key=lambda each: each.median)
        beside = slower[ours.label].median / best.median
        figures.append(Figure(f"{act}: slow-down beside the best other", beside, "ratio", Better.LOWER))
    return figures
