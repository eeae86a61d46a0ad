"""What a scenario found: figures, the targets they are held against, the table and the JSON of both.

A figure becomes a row when its target is looked up; a row without a target is told but not judged. A
figure says itself whether more of it is better, and keeps the values of the rounds that it was boiled
down from: that is what two reports are compared by.
"""

from __future__ import annotations

import enum
import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tempos import ConfigError
from tempos_bench.measure.stats import Summary, in_blocks, interval
from tempos_bench.runs.run import Cell, as_json

#: That of a figure's interval: each end alone is passed once in twenty runs, and a target has one side.
CONFIDENCE = 0.9
#: What of the machine stands in the first line of a table.
_HEAD = ("cpu", "cores", "kernel", "python")
#: Those fields of a report that are lists in JSON.
_LISTS = ("notes", "tables", "samples", "topologies", "paths")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


class Better(enum.Enum):
    """Which way a figure gets better."""

    HIGHER = "higher"
    LOWER = "lower"
    #: Neither: a count that says what was done, a share that only describes.
    NEITHER = "neither"


class Verdict(enum.Enum):
    """What became of a target. UNCLEAR: the run was not one that could tell."""

    MET = "met"
    MISSED = "missed"
    UNCLEAR = "unclear"
    NONE = ""


#: Which way a figure of a unit gets better, unless the figure says otherwise.
DIRECTIONS: dict[str, Better] = {
    **dict.fromkeys(("datagrams/s", "events/s", "bytes/s", "bit/s"), Better.HIGHER),
    **dict.fromkeys(("ns", "us", "ms", "s", "s/million", "MB", "instructions"), Better.LOWER),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    ``better``: None is what :data:`DIRECTIONS` says of the unit, and NEITHER of units not listed there.
    ``rounds``: the values it was boiled down from. ``blocks``: how many of them in turn belong together,
    because they were measured on one and the same set-up; empty: each stands for itself.
    ``yardstick``: the figure that was measured beside it, round by round, and suffers what it suffers.
    ``source``: what the source document found, in its own words, where it has such a figure.
    ``credible``: within what it can be at all; what is found outside says that something was disturbed.
    ``at_least``: a lower bound, so that a target above it is not missed, but was not seen to be met.
    """

    name: str
    value: float
    unit: str
    better: Better | None = None
    rounds: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    yardstick: str | None = None
    source: str | None = None
    credible: tuple[float, float] = (-math.inf, math.inf)
    at_least: bool = False

    @property
    def direction(self) -> Better:
        return self.better or DIRECTIONS.get(self.unit, Better.NEITHER)


def median(
    name: str,
    values: Summary,
    unit: str,
    better: Better | None = None,
    *,
    blocks: Sequence[int] = (),
    yardstick: str | None = None,
    source: str | None = None,
    credible: tuple[float, float] = (-math.inf, math.inf),
) -> Figure:
    """The figure that is the median of a summary, with the rounds behind it."""
    return Figure(
        name, values.median, unit, better, values.values, tuple(blocks), yardstick, source, credible
    )


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is held against, written as in `>= 0.95`."""

    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: object) -> Target:
        """Read a target; raises :class:`ValueError` for anything else."""
        parts = text.split() if isinstance(text, str) else []
        if len(parts) != 2 or parts[0] not in _COMPARISONS:
            raise ValueError(f"{text!r} is no target, allowed: {', '.join(_COMPARISONS)} and a number")
        return cls(parts[0], float(parts[1]))

    def is_met(self, value: float) -> bool:
        return not math.isnan(value) and _COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        return f"{self.comparison} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside its target.

    ``met`` is None where there is no target, nothing was measured, or the run could not tell: then ``doubt``
    says why. ``low`` and ``high``: where the rounds put the figure with a confidence of :data:`CONFIDENCE`,
    None where there are none or too few.
    """

    name: str
    value: float | None
    unit: str
    target: str | None
    met: bool | None
    better: str = Better.NEITHER.value
    rounds: tuple[float | None, ...] = ()
    blocks: tuple[int, ...] = ()
    yardstick: str | None = None
    source: str | None = None
    low: float | None = None
    high: float | None = None
    doubt: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.met is None:
            return Verdict.UNCLEAR if self.doubt else Verdict.NONE
        return Verdict.MET if self.met else Verdict.MISSED

    def between(self) -> str:
        """The interval, for people."""
        return "" if self.low is None else f"{number(self.low)} … {number(self.high)}"


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one run. ``started`` and ``finished`` are UTC, ISO 8601.

    ``complete``: False where Ctrl-C ended the measuring; ``rounds``: the raw values by variant, as they
    were measured; ``tables``: what describes, beside the rows that judge; ``samples``: distributions;
    ``topologies`` and ``paths``: what was really used;
    ``load``: the load averages at the begin and at the end.
    """

    scenario: str
    machine: Mapping[str, Any]
    started: str
    rows: tuple[Row, ...]
    description: str = ""
    finished: str = ""
    complete: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    rounds: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    topologies: Sequence[Mapping[str, Any]] = ()
    paths: Sequence[Mapping[str, Any]] = ()
    load: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of any row."""
        found = {row.verdict for row in self.rows}
        return next((each for each in (Verdict.MISSED, Verdict.UNCLEAR) if each in found), Verdict.MET)

    def as_json(self) -> dict[str, Any]:
        """The document that a run leaves; ``variants`` names those that were measured."""
        document: dict[str, Any] = as_json(self)
        document["variants"] = list(self.rounds)
        for told, row in zip(document["rows"], self.rows, strict=True):
            told["verdict"] = row.verdict.value
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Report:
        """Read a document back, also one with fewer or more keys than ours; raises :class:`ValueError`."""
        try:
            known = {key: value for key, value in document.items() if key in cls.__slots__}
            known |= {key: tuple(document.get(key, ())) for key in _LISTS}
            return cls(**{**known, "rows": tuple(_row(row) for row in document["rows"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no result of a scenario: {error!r}") from error


def _row(document: Mapping[str, Any]) -> Row:
    known = {key: value for key, value in document.items() if key in Row.__slots__}
    for key in ("rounds", "blocks"):
        known[key] = tuple(known.get(key, ()))
    return Row(**known)


def judge(figures: Sequence[Figure], targets: Mapping[str, Target], complete: bool = True) -> tuple[Row, ...]:
    """Put figures beside their targets.

    A target without a figure is a :class:`ConfigError`. Where not everything is measured (Ctrl-C, hosts
    that are connected in one way only, other parameters than the file's) it is a row without value.
    """
    known = {figure.name for figure in figures}
    missing = [name for name in targets if name not in known]
    if missing and complete:
        there = ", ".join(repr(figure.name) for figure in figures)
        raise ConfigError([f"targets: no figure is named {name!r}, there are {there}" for name in missing])
    return (
        *(_judged(figure, targets.get(figure.name)) for figure in figures),
        *(Row(name, None, "", str(targets[name]), None) for name in missing),
    )


def _judged(figure: Figure, target: Target | None) -> Row:
    low, high = _between(figure) or (None, None)
    met, doubt = _met(figure, target, low, high) if target else (None, "")
    return Row(
        name=figure.name,
        # JSON has no nan: a figure that could not be had is null, and meets nothing.
        value=None if math.isnan(figure.value) else figure.value,
        unit=figure.unit,
        target=str(target) if target else None,
        met=met,
        better=figure.direction.value,
        rounds=tuple(None if math.isnan(value) else value for value in figure.rounds),
        blocks=figure.blocks,
        yardstick=figure.yardstick,
        source=figure.source,
        low=low,
        high=high,
        doubt=doubt,
    )


def _between(figure: Figure) -> tuple[float, float] | None:
    """The figure's interval. Rounds of one set-up suffer the same, so they count as one."""
    values = [
        [value for value in block if not math.isnan(value)]
        for block in in_blocks(figure.rounds, figure.blocks)
    ]
    return interval([statistics.median(block) for block in values if block], CONFIDENCE)


def _met(figure: Figure, target: Target, low: float | None, high: float | None) -> tuple[bool | None, str]:
    """Whether a target is met, and if the run cannot tell, why."""
    least, most = figure.credible
    if figure.value < least or figure.value > most:
        return None, f"not credible: {number(figure.value)} is outside {number(least)} … {number(most)}"
    met = target.is_met(figure.value)
    if not met and figure.at_least and target.comparison == ">=":
        return None, "a lower bound: what was sent was all carried"
    # Of what is counted rather than measured in rounds, and of an exact target, the value is all there is.
    if not figure.rounds or target.comparison == "==" or math.isnan(figure.value):
        return met, ""
    if low is None or high is None:
        number_of = len(in_blocks(figure.rounds, figure.blocks))
        return None, f"{number_of} rounds are too few to tell"
    if target.is_met(low) == target.is_met(high) == met:
        return met, ""
    return None, "the rounds lie on both sides"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first ``left`` to the left, the others, being numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, rows)])


def as_text(report: Report) -> str:
    """The report as a table for people."""
    columns = {
        "figure": [row.name for row in report.rows],
        "value": [number(row.value) for row in report.rows],
        "unit": [row.unit for row in report.rows],
        f"{CONFIDENCE:.0%} interval": [row.between() if row.target else "" for row in report.rows],
        "target": [row.target or "" for row in report.rows],
        "": [_shown(row.verdict) for row in report.rows],
        "source": [row.source or "" for row in report.rows],
    }
    # Columns in which nothing stands are left out.
    shown = {head: cells for head, cells in columns.items() if not head or any(cells)}
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items() if key in _HEAD)
    lines = [f"{report.scenario}  ({report.started}; {machine})"]
    if not report.complete:
        lines.append("NOT COMPLETE: interrupted; what follows is what was finished")
    tables = []
    for one in report.tables:
        texts = [[cell(value) for value in row] for row in one["rows"]]
        tables.append(f"\n{one['title']}\n{table(one['headers'], texts, one['left'])}")
    doubts = [f"unclear: {row.name}: {row.doubt}" for row in report.rows if row.doubt]
    notes = [f"note: {note}" for note in report.notes]
    return "\n".join(
        [*lines, table(list(shown), list(zip(*shown.values(), strict=True))), *tables, *doubts, *notes]
    )


def _shown(verdict: Verdict) -> str:
    return "MISSED" if verdict is Verdict.MISSED else verdict.value


def cell(value: Cell) -> str:
    """What stands in a table, as a text."""
    return value if isinstance(value, str) else number(value)


def number(value: float | None) -> str:
    """A number with as many digits as mean something."""
    if value is None or math.isnan(value):
        return "-"
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def now() -> str:
    """The present in UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
