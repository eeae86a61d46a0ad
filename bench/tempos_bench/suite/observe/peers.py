"""The tools of `tempos observe` beside those of bpftrace, libbpf-tools and bcc, on the same acts.

For each act (TCP connects, opens, starts of programs, page faults) every tool that tells of it is tried by
a known event; those that work watch a program that acts at a rate and then without pause, in turn with
nobody watching. Figures: which events they did not tell of, the processor time that they took, and how much
slower the watched program was. Whoever prints a line for each event has its output go into a file.

Those that stop the program at each system call (strace) are given fewer events, and are held against nobody
watching so many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tempos import ConfigError, Unavailable
from tempos_bench.measure.stats import Summary, ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run
from tempos_bench.watching.trial import Trial, alone, watched
from tempos_bench.watching.watchers import BPFTRACE, TEMPOS, Watcher, watchers

_NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``acts``: which of connects, opens, execs, faults.

    Of each of the four, in this order: ``counts`` in each of the two parts, ``rates`` a second in the first.
    ``fewer``: those that stop the program see one event where others see so many.
    """

    rounds: int
    acts: tuple[str, ...]
    counts: tuple[int, ...]
    rates: tuple[int, ...]
    fewer: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """One act: how often in each part, how often a second in the first; who tells of it here."""

    act: str
    count: int
    rate: float
    fewer: int
    found: tuple[Watcher, ...] = ()

    def count_for(self, watcher: Watcher) -> int:
        return max(self.count // self.fewer, 1) if watcher.stops else self.count

    def nobody(self, count: int) -> str:
        """The name of the variant in which nobody watches so many."""
        return f"{self.act}: {_NOBODY}" + ("" if count == self.count else f", {count:,} events")

    def seen(self, count: int) -> int:
        """How many events of both parts there are to be seen."""
        return 2 * count if self.rate else count


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    known = watchers()
    plans = _plans(p, known)
    table: list[tuple[str, str, str]] = []
    plans = [
        replace(plan, found=tuple(_that_work(plan.act, known[plan.act], table, progress))) for plan in plans
    ]
    progress.add_table("Which tools work on this machine", ("act", "tool", ""), table, 3)
    variants: dict[str, Callable[[], Trial]] = {}
    for plan in filter(_has_ours, plans):
        act, rate = plan.act, plan.rate
        variants[plan.nobody(plan.count)] = partial(alone, act, plan.count, rate)
        for watcher in plan.found:
            count = plan.count_for(watcher)
            variants[f"{act}: {watcher.label}"] = partial(watched, watcher, act, count, rate)
            if count != plan.count:
                variants[plan.nobody(count)] = partial(alone, act, count, rate)
                progress.note(
                    f"{act}: {watcher.label} stops the program at each system call: it saw "
                    f"{plan.seen(count):,} events where others saw {plan.seen(plan.count):,}"
                )
    if not variants:
        raise Unavailable("no tool of tempos runs here: " + "; ".join(f"{a} {w}: {t}" for a, w, t in table))
    results = interleave(p.rounds, variants, progress)
    figures: list[Figure] = []
    for plan in plans:
        figures += (
            _figures(plan, results, progress) if _has_ours(plan) else _missing(plan.act, known[plan.act][0])
        )
    progress.add_table(
        "What each saw, what it took and how much slower the program was (medians)",
        ("act", "tool", "events", "not told", "CPU us/event", "slow-down"),
        [row for plan in filter(_has_ours, plans) for row in _rows(plan, results)],
        2,
    )
    return figures


def _plans(p: Parameters, known: Mapping[str, object]) -> list[_Plan]:
    for name, values in (("counts", p.counts), ("rates", p.rates)):
        if len(values) != len(known):
            raise ConfigError([f"{name}: one for each of {', '.join(known)}, and there are {len(values)}"])
    for act in p.acts:
        if act not in known:
            raise ConfigError([f"acts: {act!r}, allowed: {', '.join(known)}"])
    asked = zip(known, p.counts, p.rates, strict=True)
    return [_Plan(act, count, float(rate), p.fewer) for act, count, rate in asked if act in p.acts]


def _that_work(
    act: str, all_of_them: Sequence[Watcher], table: list[tuple[str, str, str]], progress: Run
) -> Iterator[Watcher]:
    """Those that tell of a known event."""
    for watcher in all_of_them:
        progress(f"{act}: does {watcher.label} work here?")
        tried = watched(watcher, act, 10, 0)
        table.append((act, watcher.label, tried.why_not or "works"))
        if not tried.why_not:
            yield watcher


def _has_ours(plan: _Plan) -> bool:
    return any(watcher.by == TEMPOS for watcher in plan.found)


def _missing(act: str, ours: Watcher) -> list[Figure]:
    """Where the tool of tempos does not run: not known, so no target is met."""
    names = (f"{ours.label}: not told", "CPU beside bpftrace", "slow-down beside the best other")
    return [Figure(f"{act}: {name}", float("nan"), "ratio", Better.LOWER) for name in names]


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of one watcher: events that there were in a trial, those of all trials not told; CPU and slow-down."""

    events: int
    missed: int
    cpu: list[float]
    slower: Summary

    @property
    def per_event(self) -> Summary:
        return summarize([each * 1e6 / self.events for each in self.cpu])


def _measured(plan: _Plan, watcher: Watcher, results: Mapping[str, list[Trial]]) -> _Measured:
    count = plan.count_for(watcher)
    trials, events = results[f"{plan.act}: {watcher.label}"], plan.seen(count)
    nobody = [trial.seconds for trial in results[plan.nobody(count)]]
    return _Measured(
        events,
        sum(max(events - trial.seen, 0) for trial in trials),
        [trial.cpu for trial in trials],
        ratios([trial.seconds for trial in trials], nobody),
    )


def _rows(plan: _Plan, results: Mapping[str, list[Trial]]) -> Iterator[tuple[str, str, str, str, str, str]]:
    for watcher in plan.found:
        found = _measured(plan, watcher, results)
        numbers = (f"{found.events:,}", f"{found.missed:,}", f"{found.per_event.median:.3g}")
        yield (plan.act, watcher.label, *numbers, f"{found.slower.median:.2f}")


def _figures(plan: _Plan, results: Mapping[str, list[Trial]], progress: Run) -> list[Figure]:
    figures: list[Figure] = []
    act, found = plan.act, plan.found
    measured = {watcher: _measured(plan, watcher, results) for watcher in found}
    for watcher, each in measured.items():
        name = f"{act}: {watcher.label}"
        figures += [
            Figure(f"{name}: not told", each.missed, "events", Better.LOWER),
            median(f"{name}: CPU", each.per_event, "us"),
            median(f"{name}: slow-down", each.slower, "ratio", Better.LOWER),
        ]
        for told in {trial.told for trial in results[name] if trial.told}:
            progress.note(f"{name} says itself: {told}")
    ours = next(watcher for watcher in found if watcher.by == TEMPOS)
    others = [watcher for watcher in found if watcher is not ours]
    if bpftrace := next((watcher for watcher in others if watcher.by == BPFTRACE), None):
        share = ratios(measured[ours].cpu, measured[bpftrace].cpu)
        figures.append(median(f"{act}: CPU beside bpftrace", share, "ratio", Better.LOWER))
    if others:
        best = min((measured[watcher].slower for watcher in others), key=lambda each: each.median)
        beside = measured[ours].slower.median / best.median
        figures.append(Figure(f"{act}: slow-down beside the best other", beside, "ratio", Better.LOWER))
    return figures
