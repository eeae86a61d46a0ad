"""Rates of workflows out of two looks at what their parts have counted; no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Counts = dict[str, float]
#: What is counted of each trigger and step; of the first ones there is a rate.
COUNTED = ("in", "done", "failed", "waiting", "running")
RATED = COUNTED[:3]


class Rates:
    """Remembers the look before."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._before: dict[tuple[str, str], Counts] = {}

    def look(
        self, found: dict[tuple[str, str], Counts], now: float
    ) -> dict[tuple[str, str], dict[str, float | None]]:
        """Of each, how much a second came since the look before; None where it was not there then."""
        at, before = self._at, self._before
        self._at, self._before = now, found
        took = max(now - at, 1e-9) if at is not None else 1.0
        return {
            key: {what: _rate(counts, before.get(key), what, took) for what in RATED}
            for key, counts in found.items()
        }

    def rows(self, workflows: Iterable[Any], now: float) -> list[tuple[str, ...]] | None:
        """A row for each trigger and step; None at the first look. ``now``: monotonic seconds."""
        found: dict[tuple[str, str], Counts] = {}
        for workflow in workflows:
            for endpoint in workflow["endpoints"]:
                found[workflow["name"], f"trigger {endpoint['name']}"] = counts_of_endpoint(endpoint)
            for step in workflow["steps"]:
                found[workflow["name"], f"step {step['name']}"] = counts_of_step(step["accounts"])
        first = self._at is None
        rates = self.look(found, now)
        if first:
            return None
        return [
            (*key, *("-" if (rate := rates[key][what]) is None else f"{rate:,.0f}" for what in RATED),
             *(f"{counts[what]:,.0f}" for what in COUNTED[3:]))
            for key, counts in found.items()
        ]  # fmt: skip


def _rate(counts: Counts, before: Counts | None, what: str, took: float) -> float | None:
    # Whoever counts less than before has begun anew.
    grown = counts[what] - (before[what] if before is not None and before[what] <= counts[what] else 0)
    return None if before is None else grown / took


def counts_of_endpoint(told: Any) -> Counts:
    """By the status of a trigger."""
    account = told.get("account", told)
    return {
        "in": _sum(account.get("received")),
        "done": _sum(account.get("published")),
        "failed": _sum(account.get("dropped")),
        "waiting": _sum(account.get("waiting")),
        "running": 0,
    }


def counts_of_step(told: Iterable[Any]) -> Counts:
    """By what every invoker says of the same step."""
    each = [_step(account) for account in told]
    return {key: sum(counts[key] for counts in each) for key in COUNTED}


def _step(told: Any) -> Counts:
    account = told.get("account", told)
    return {
        "in": _sum(account.get("accepted")),
        "done": _sum(account.get("succeeded")),
        "failed": _sum(account.get("failed")),
        "waiting": _sum(account.get("waiting")),
        "running": _sum(account.get("running")),
    }


def _sum(value: Any) -> float:
    """A number, or numbers by reason."""
    if isinstance(value, dict):
        return sum(_sum(each) for each in value.values())
    return value if isinstance(value, (int, float)) else 0
