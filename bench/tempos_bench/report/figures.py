"""What a scenario found: figures, the targets they are held against, the table and the JSON of both.

A figure becomes a row when its target is looked up; a row without a target is told but not judged. A
figure says itself whether more of it is better, and keeps the values of the rounds that it was boiled
down from: that is what two reports are compared by.
"""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tempos import ConfigError
from tempos_bench.measure.stats import Summary
from tempos_bench.runs.run import Cell, as_json

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
    """

    name: str
    value: float
    unit: str
    better: Better | None = None
    rounds: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    yardstick: str | None = None
    source: str | None = None

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
) -> Figure:
    """The figure that is the median of a summary, with the rounds behind it."""
    return Figure(name, values.median, unit, better, values.values, tuple(blocks), yardstick, source)


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
    """A figure beside its target. ``met`` is None where there is no target, or nothing was measured."""

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
    def all_met(self) -> bool:
        return all(row.met is not False for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The document that a run leaves; ``variants`` names those that were measured."""
        document: dict[str, Any] = as_json(self)
        document["variants"] = list(self.rounds)
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
    return Row(
        name=figure.name,
        # JSON has no nan: a figure that could not be had is null, and meets nothing.
        value=None if math.isnan(figure.value) else figure.value,
        unit=figure.unit,
        target=str(target) if target else None,
        met=target.is_met(figure.value) if target else None,
        better=figure.direction.value,
        rounds=tuple(None if math.isnan(value) else value for value in figure.rounds),
        blocks=figure.blocks,
        yardstick=figure.yardstick,
        source=figure.source,
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first ``left`` to the left, the others, being numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, rows)])


#: What a table says of a row.
VERDICTS = {True: "met", False: "MISSED", None: ""}


def as_text(report: Report) -> str:
    """The report as a table for people."""
    sourced = any(row.source for row in report.rows)
    headers = ("figure", "value", "unit", "target", "", *(("source",) if sourced else ()))
    cells = [
        (row.name, number(row.value), row.unit, row.target or "", VERDICTS[row.met],
         *((row.source or "",) if sourced else ()))
        for row in report.rows
    ]  # fmt: skip
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items() if key in _HEAD)
    lines = [f"{report.scenario}  ({report.started}; {machine})"]
    if not report.complete:
        lines.append("NOT COMPLETE: interrupted; what follows is what was finished")
    tables = []
    for one in report.tables:
        texts = [[cell(value) for value in row] for row in one["rows"]]
        tables.append(f"\n{one['title']}\n{table(one['headers'], texts, one['left'])}")
    return "\n".join([*lines, table(headers, cells), *tables, *(f"note: {note}" for note in report.notes)])


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
