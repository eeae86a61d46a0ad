"""Scenarios: a TOML file each (description, parameters, targets), a module of `suite` that measures.

The files are found in the installed package or, in a checkout, in config/bench. A file gives every
parameter its module knows and no other; `[short]` gives some of them other values for a quick look;
targets name the figures they judge.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from tempos import ConfigError
from tempos_bench import suite
from tempos_bench.nodes import machine
from tempos_bench.report.figures import Figure, Report, Target, judge, now
from tempos_bench.runs.run import Run, as_json, running

#: Python 3.10 has no TOML of its own; tomli is the same library under its older name.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_PACKAGED = Path(__file__).parents[1] / "scenarios"
_CHECKOUT = Path(__file__).parents[3] / "config" / "bench"
_KEYS = ("description", "parameters", "short", "targets")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as its file describes it; ``parameters`` is the module's own ``Parameters``.

    ``changed``: they were asked for, so there may be no figure for a target of the file.
    """

    name: str
    description: str
    parameters: Any
    targets: Mapping[str, Target]
    changed: bool = False


def names() -> tuple[str, ...]:
    """Every scenario there is, in the order of their names."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load(name: str, *, short: bool = False, changes: Sequence[str] = ()) -> Scenario:
    """Read and check a scenario; raises :class:`ConfigError` with every fault of the file.

    ``short``: with the parameters of `[short]`; ``changes``: parameters as `NAME=VALUE`, VALUE as in TOML.
    """
    path = _folder() / f"{name}.toml"
    if name not in names():
        raise ConfigError([f"there is no scenario {name!r}; there are {', '.join(names())}"])
    try:
        content = _toml.loads(path.read_text(encoding="utf-8"))
        module = _module(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    problems = [f"{key}: unknown, allowed: {', '.join(_KEYS)}" for key in content if key not in _KEYS]
    kinds = _kinds(module.Parameters)
    parameters = _table(content, "parameters", problems)
    shorter = _table(content, "short", problems)
    problems += [f"parameters.{key}: missing" for key in kinds if key not in parameters]
    problems += _faults("parameters", parameters, kinds) + _faults("short", shorter, kinds)
    targets = {}
    for figure, text in _table(content, "targets", problems).items():
        try:
            targets[figure] = Target.parse(text)
        except ValueError as error:
            problems.append(f"targets.{figure}: {error}")
    description = content.get("description")
    if not isinstance(description, str):
        problems.append(f"description: {description!r}, allowed: a text")
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    values = {**parameters, **(shorter if short else {}), **_changes(name, changes, kinds)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Scenario(name, str(description), module.Parameters(**values), targets, bool(changes))


def run(scenario: Scenario, run: Run) -> Report:
    """Measure. Raises :class:`~tempos.TemposError` where it cannot be done, with what is missing.

    After Ctrl-C the report is what was finished, and says so.
    """
    started, load = now(), machine.load()
    figures: Sequence[Figure] = ()
    with running(run), run.keeping(lambda: run.rounds):
        figures = _module(scenario.name).run(scenario.parameters, run)
    return Report(
        scenario=scenario.name,
        description=scenario.description,
        machine=machine.describe(),
        started=started,
        finished=now(),
        complete=not run.interrupted,
        parameters=as_json(scenario.parameters),
        rows=judge(
            figures,
            scenario.targets,
            complete=not (run.interrupted or run.place or scenario.changed),
        ),
        notes=tuple(run.notes),
        tables=tuple(run.tables),
        rounds=run.rounds,
        samples=tuple(run.samples),
        topologies=tuple(run.topologies),
        paths=tuple(run.paths),
        load={"begin": load, "end": machine.load()},
    )


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


def _kinds(parameters: type) -> dict[str, Any]:
    hints = get_type_hints(parameters)
    return {field.name: hints[field.name] for field in dataclasses.fields(parameters)}


def _faults(table: str, given: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, value in given.items():
        if name not in kinds:
            problems.append(f"{table}.{name}: unknown, allowed: {', '.join(kinds)}")
        elif not _fits(value, kinds[name]):
            problems.append(f"{table}.{name}: {value!r}, allowed: {_allowed(kinds[name])}")
    return problems


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return (
            isinstance(value, list) and bool(value) and all(_fits(each, get_args(kind)[0]) for each in value)
        )
    if kind in (bool, str):
        return type(value) is kind
    return type(value) in {kind, int} and isinstance(value, (int, float)) and value > 0


def _allowed(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each {_allowed(get_args(kind)[0])}"
    return {bool: "true or false", str: "a text"}.get(kind) or f"{kind.__name__} above 0"


def _changes(name: str, changes: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    problems = []
    for change in changes:
        key, _, text = change.partition("=")
        try:
            given[key.strip()] = _toml.loads(f"value = {text}")["value"]
        except ValueError:
            problems.append(f"{change!r}: allowed: NAME=VALUE, the value as TOML writes it")
    problems += _faults(name, given, kinds)
    if problems:
        raise ConfigError(problems)
    return given
