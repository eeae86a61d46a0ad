"""What changed between two runs of the benchmark, with their noise taken into account.

For every figure that has rounds in both runs: the ratio of the medians, new to old, and an interval that
holds it with 99 % confidence, whatever the distribution of the rounds (Hodges and Lehmann's). Rounds of
one set-up suffer the same, so their median stands for them. Five on either side are the fewest that can
give such an interval; with fewer there is none. Where a figure was measured beside a yardstick, its
rounds are taken as multiples of the yardstick's: a machine that was slower that day is then no
regression; the yardstick itself is told but not judged.

| verdict       | when                                                                          |
|---------------|-------------------------------------------------------------------------------|
| better, worse | the whole interval lies beyond the tolerance, on that side                    |
| same          | it does not, and a change of a tenth would have shown: it lies within 10 %    |
| unclear       | neither: so much noise that a tenth more or less could hide in it, or too few |
|               | rounds                                                                        |
| worse         | also: a target was met and is missed now; for a count, that alone decides     |
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tempos_bench.measure.stats import in_blocks, moved, summarize
from tempos_bench.report.figures import Better, Report, Row, number, table

BETTER, WORSE, SAME, UNCLEAR, TOLD = "better", "worse", "same", "unclear", "told"
#: A change of this share must show, or nothing is said to be the same.
_RESOLUTION = 0.1
_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs. ``ratio`` is new to old, ``low`` to ``high`` its interval, None without one.

    ``spread``: the larger of both runs' own, as a share of the median. ``why``: what the verdict stands on.
    """

    scenario: str
    figure: str
    unit: str
    old: float | None
    new: float | None
    ratio: float | None
    low: float | None
    high: float | None
    spread: float | None
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every change, and what could not be compared."""

    changes: tuple[Change, ...]
    remarks: tuple[str, ...]
    tolerance: float

    @property
    def worse(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.verdict == WORSE)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "worse": len(self.worse)}


def compare(old: Mapping[str, Report], new: Mapping[str, Report], tolerance: float = 0.03) -> Comparison:
    """Compare reports by scenario; ``tolerance``: the share up to which a change is none."""
    remarks = [f"{name}: only in the old run" for name in old if name not in new]
    remarks += [f"{name}: only in the new run" for name in new if name not in old]
    changes: list[Change] = []
    for name in old:
        if name in new:
            remarks += _remarks(old[name], new[name])
            changes += _changes(old[name], new[name], tolerance)
    return Comparison(tuple(changes), tuple(remarks), tolerance)


def as_text(found: Comparison) -> str:
    """A table a scenario, then the verdicts' numbers."""
    parts = list(found.remarks)
    for scenario in dict.fromkeys(change.scenario for change in found.changes):
        rows = [_cells(change) for change in found.changes if change.scenario == scenario]
        headers = (scenario, "old", "new", "unit", "change", f"{_CONFIDENCE:.0%} interval", "verdict", "")
        parts.append(table(headers, rows))
    counts = [
        f"{sum(change.verdict == verdict for change in found.changes)} {verdict}"
        for verdict in (WORSE, BETTER, SAME, UNCLEAR)
    ]
    parts.append(", ".join(counts) + f" (changes up to {found.tolerance:.1%} are none)")
    return "\n\n".join(parts)


def interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float] | None:
    """Ratio of the medians, new to old, and the ends of its interval; None where rounds are too few for one.

    Where a round is not above 0 (a difference may be anything) medians are not divided by each other: the
    ratio is then 1 and the change as a share of the old median, which must not be 0.
    """
    before = statistics.median(old)
    positive = min(*old, *new) > 0

    def ratio(left: float, right: float) -> float:
        return right / left if positive else 1 + (right - left) / abs(before)

    ends = moved(old, new, _CONFIDENCE, ratio)
    return ends and (ratio(before, statistics.median(new)), *ends)


def _changes(old: Report, new: Report, tolerance: float) -> list[Change]:
    after = {row.name: row for row in new.rows}
    yardsticks = {row.yardstick for row in (*old.rows, *new.rows) if row.yardstick}
    return [
        _change(old, row, new, after[row.name], row.name in yardsticks, tolerance)
        for row in old.rows
        if row.name in after
    ]


def _change(old: Report, before: Row, new: Report, after: Row, yardstick: bool, tolerance: float) -> Change:
    def told(
        verdict: str, why: str, found: tuple[float, float, float] | None, spread: float | None
    ) -> Change:
        ratio, low, high = found or (None, None, None)
        if found is None and before.value and after.value is not None:
            ratio = after.value / before.value
        return Change(
            old.scenario, before.name, before.unit, before.value, after.value, ratio, low, high, spread,
            verdict, why,
        )  # fmt: skip

    left, right = _blocks(old, before), _blocks(new, after)
    measured = bool(left and right)
    middles = [[statistics.median(block) for block in blocks] for blocks in (left, right)]
    found = interval(*middles) if measured and statistics.median(middles[0]) else None
    spread = max(summarize(_pooled(left)).spread, summarize(_pooled(right)).spread) if measured else None
    if before.met and after.met is False:
        return told(WORSE, f"the target {after.target} was met and is missed now", found, spread)
    if before.met is False and after.met:
        return told(BETTER, f"the target {after.target} was missed and is met now", found, spread)
    better = Better(after.better)
    if better is Better.NEITHER:
        return told(TOLD, "neither way is better", found, spread)
    if yardstick:
        return told(TOLD, "the yardstick: how the machine itself changed", found, spread)
    if found is None:
        return told(*_without_interval(before, after, left, right), found, spread)
    against = f", as multiples of {after.yardstick!r}" if _has_yardstick(new, after) else ""
    return told(_verdict(found, better, tolerance), f"{_rounds(left, right)}{against}", found, spread)


def _verdict(found: tuple[float, float, float], better: Better, tolerance: float) -> str:
    _, low, high = found
    up, down = (BETTER, WORSE) if better is Better.HIGHER else (WORSE, BETTER)
    if low > 1 + tolerance:
        return up
    if high < 1 - tolerance:
        return down
    within = max(tolerance, _RESOLUTION)
    return SAME if 1 - within <= low and high <= 1 + within else UNCLEAR


def _without_interval(
    before: Row, after: Row, left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]
) -> tuple[str, str]:
    if before.value == after.value:
        return SAME, "equal"
    if left and right:
        return UNCLEAR, f"{_rounds(left, right)} are too few for an interval of {_CONFIDENCE:.0%}"
    if before.met is not None:
        verdict = SAME if before.met else UNCLEAR
        return (
            verdict,
            f"no rounds; the target {after.target} is {'met' if after.met else 'missed'} as before",
        )
    return TOLD, "no rounds to judge by"


def _blocks(report: Report, row: Row) -> list[list[float]]:
    """The rounds of a figure in blocks that were measured on one set-up; as multiples of its yardstick."""
    values = list(row.rounds)
    if _has_yardstick(report, row):
        beside = next(other for other in report.rows if other.name == row.yardstick)
        values = [a / b if a is not None and b else None for a, b in zip(values, beside.rounds, strict=True)]
    blocks = [[value for value in block if value is not None] for block in in_blocks(values, row.blocks)]
    return [block for block in blocks if block]


def _has_yardstick(report: Report, row: Row) -> bool:
    return any(other.name == row.yardstick and len(other.rounds) == len(row.rounds) for other in report.rows)


def _pooled(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [value for block in blocks for value in block]


def _rounds(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> str:
    rounds = f"{len(_pooled(left))} and {len(_pooled(right))} rounds"
    setups = f" on {len(left)} and {len(right)} set-ups"
    return rounds + (setups if (len(left), len(right)) != (len(_pooled(left)), len(_pooled(right))) else "")


def _remarks(old: Report, new: Report) -> list[str]:
    name = old.scenario
    before, after = {row.name for row in old.rows}, {row.name for row in new.rows}
    remarks = [f"{name}: {figure!r} only in the old run" for figure in sorted(before - after)]
    remarks += [f"{name}: {figure!r} only in the new run" for figure in sorted(after - before)]
    if old.parameters != new.parameters:
        remarks.append(
            f"{name}: measured with other parameters: {_differing(old.parameters, new.parameters)}"
        )
    for key in ("cpu", "cores", "kernel", "governor", "mitigations", "sysctls"):
        if old.machine.get(key) != new.machine.get(key):
            remarks.append(f"{name}: on another machine or with other settings: {key} differs")
    remarks += [f"{name}: the {which} run is not complete" for which, report in (("old", old), ("new", new))
                if not report.complete]  # fmt: skip
    return remarks


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(f"{key} {old.get(key)} and {new.get(key)}" for key in keys)


def _cells(change: Change) -> tuple[str, ...]:
    by = "" if change.ratio is None else f"{change.ratio - 1:+.1%}"
    between = (
        "" if change.low is None or change.high is None else f"{change.low - 1:+.1%} … {change.high - 1:+.1%}"
    )
    verdict = change.verdict.upper() if change.verdict == WORSE else change.verdict
    return (
        change.figure, number(change.old), number(change.new), change.unit, by, between, verdict,
        change.why,
    )  # fmt: skip
