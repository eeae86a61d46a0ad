"""Result files: finds and reads them."""

from __future__ import annotations

import json
from pathlib import Path

from tempos import ConfigError
from tempos_bench.report.figures import Report


def read(place: Path) -> dict[str, Report]:
    """The reports of a file or of every file of a folder, by scenario.

    Raises :class:`ConfigError` with every file that is no result, and where there is none.
    """
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    found: dict[str, Report] = {}
    problems = [] if files else [f"{place}: no result files here; 'tempos bench run all --json-dir {place}'"]
    for path in files:
        try:
            one = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
            continue
        if one.scenario in found:
            problems.append(f"{path}: a second result of scenario {one.scenario!r}")
        found[one.scenario] = one
    if problems:
        raise ConfigError(problems)
    return found
