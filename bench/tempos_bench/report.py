"""What a scenario found: figures, the targets they are held against, the table and the JSON of both.

A figure becomes a row when its target is looked up; a row without a target is told but not judged.
"""

from __future__ import annotations

import math
import operator
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tempos import ConfigError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str


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
    """A figure beside its target. ``met`` is None where there is no target."""

    name: str
    value: float | None
    unit: str
    target: str | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one run. ``started`` is UTC, ISO 8601."""

    scenario: str
    machine: dict[str, Any]
    started: str
    rows: tuple[Row, ...]

    @property
    def all_met(self) -> bool:
        return all(row.met is not False for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(figures: Sequence[Figure], targets: Mapping[str, Target]) -> tuple[Row, ...]:
    """Put figures beside their targets; raises :class:`ConfigError` for a target without a figure."""
    unknown = targets.keys() - {figure.name for figure in figures}
    if unknown:
        known = ", ".join(repr(figure.name) for figure in figures)
        raise ConfigError([f"targets: no figure is named {name!r}, there are {known}" for name in unknown])
    rows = []
    for figure in figures:
        target = targets.get(figure.name)
        # JSON has no nan: a figure that could not be had is null, and meets nothing.
        value = None if math.isnan(figure.value) else figure.value
        met = target.is_met(figure.value) if target else None
        rows.append(Row(figure.name, value, figure.unit, str(target) if target else None, met))
    return tuple(rows)


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
    verdicts = {True: "met", False: "MISSED", None: ""}
    cells = [
        (row.name, number(row.value), row.unit, row.target or "", verdicts[row.met]) for row in report.rows
    ]
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    head = f"{report.scenario}  ({report.started}; {machine})"
    return f"{head}\n{table(('figure', 'value', 'unit', 'target', ''), cells)}"


def number(value: float | None) -> str:
    """A number with as many digits as mean something."""
    if value is None or math.isnan(value):
        return "-"
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def now() -> str:
    """The present in UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
