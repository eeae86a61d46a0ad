"""What a folder of results says of a run of many scenarios: what is left to do, and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from tempos import ConfigError
from tempos_bench.nodes import machine
from tempos_bench.report.figures import Report, table
from tempos_bench.runs.run import as_json
from tempos_bench.runs.scenario import Scenario

_THERE, _NOT_KNOWN = "there", "-"
#: What of the machine must be the same, or a result is another machine's.
_SAME = ("cpu", "cores", "kernel", "commit")


def reports(folder: Path, names: Sequence[str]) -> dict[str, Report]:
    """The results of these scenarios that lie in a folder. What is no result is a :class:`ConfigError`."""
    found = {}
    for name in names:
        path = folder / f"{name}.json"
        try:
            found[name] = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ConfigError([f"{path}: {error}"]) from error
    return found


def why_again(scenario: Scenario, report: Report | None) -> str:
    """Why a scenario is to be run, though there may be a result of it; empty where that result stands."""
    if report is None:
        return "not there"
    if not report.complete:
        return "was interrupted"
    if report.parameters != as_json(scenario.parameters):
        return "other parameters"
    here = machine.describe()
    other = [key for key in _SAME if report.machine.get(key) != here.get(key)]
    return f"another {other[0]}" if other else ""


def plan(scenarios: Sequence[Scenario], found: Mapping[str, Report]) -> str:
    """A table: each scenario, what is there of it, how long it took when it was last measured whole."""
    rows, left, unknown = [], timedelta(), 0
    for each in scenarios:
        report = found.get(each.name)
        took = _took(report) if report and report.complete else None
        why = why_again(each, report)
        if why and took:
            left += took
        unknown += bool(why and not took)
        rows.append((each.name, why or _THERE, _spelled(took) if took else _NOT_KNOWN))
    total = f"left to run: {_spelled(left)}" + (
        f", and {unknown} that were never timed here" if unknown else ""
    )
    return f"{table(('scenario', 'result', 'takes'), rows, left=2)}\n{total}"


def _took(report: Report) -> timedelta | None:
    try:
        return datetime.fromisoformat(report.finished) - datetime.fromisoformat(report.started)
    except ValueError:
        return None


def _spelled(took: timedelta) -> str:
    minutes, seconds = divmod(round(took.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
