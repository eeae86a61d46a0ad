"""Scenarios: a TOML file each (description, parameters, targets), a module of `suite` that measures.

The files are found in the installed package or, in a checkout, in config/bench. A file gives every
parameter its module knows and no other; targets name the figures they judge.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from tempos import ConfigError
from tempos_bench import report, suite

#: Python 3.10 has no TOML of its own; tomli is the same library under its older name.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: Tells a person what is being done now.
Progress = Callable[[str], None]

_PACKAGED = Path(__file__).parent / "scenarios"
_CHECKOUT = Path(__file__).parents[2] / "config" / "bench"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as its file describes it; ``parameters`` is the module's own ``Parameters``."""

    name: str
    description: str
    parameters: Any
    targets: Mapping[str, report.Target]


def names() -> tuple[str, ...]:
    """Every scenario there is, in the order of their names."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load(name: str) -> Scenario:
    """Read and check a scenario; raises :class:`ConfigError` with every fault of the file."""
    path = _folder() / f"{name}.toml"
    if name not in names():
        raise ConfigError([f"there is no scenario {name!r}; there are {', '.join(names())}"])
    try:
        content = _toml.loads(path.read_text(encoding="utf-8"))
        module = _module(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    problems = [f"{key}: unknown, allowed: description, parameters, targets" for key in content
                if key not in {"description", "parameters", "targets"}]  # fmt: skip
    parameters = _table(content, "parameters", problems)
    problems += _parameter_problems(parameters, module.Parameters)
    targets = {}
    for figure, text in _table(content, "targets", problems).items():
        try:
            targets[figure] = report.Target.parse(text)
        except ValueError as error:
            problems.append(f"targets.{figure}: {error}")
    description = content.get("description")
    if not isinstance(description, str):
        problems.append(f"description: {description!r}, allowed: a text")
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return Scenario(name, str(description), module.Parameters(**parameters), targets)


def run(scenario: Scenario, progress: Progress) -> report.Report:
    """Measure. Raises :class:`~tempos.TemposError` where it cannot be done, with what is missing."""
    started = report.now()
    figures = _module(scenario.name).run(scenario.parameters, progress)
    rows = report.judge(figures, scenario.targets)
    return report.Report(scenario.name, report.machine(), started, rows)


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def _module(name: str) -> ModuleType:
    return suite.MODULES[name]


def _table(content: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    value = content.get(key, {})
    if isinstance(value, dict):
        return value
    problems.append(f"{key}: {value!r}, allowed: a table")
    return {}


def _parameter_problems(given: Mapping[str, Any], kind: type) -> list[str]:
    wanted = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    problems = [f"parameters.{name}: missing" for name in wanted.keys() - given.keys()]
    for name, value in given.items():
        if name not in wanted:
            problems.append(f"parameters.{name}: unknown, allowed: {', '.join(wanted)}")
        elif type(value) not in {wanted[name], int} or value <= 0:
            problems.append(f"parameters.{name}: {value!r}, allowed: {wanted[name].__name__} above 0")
    return problems
