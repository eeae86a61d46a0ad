"""Rates of workflows out of two looks at what their parts have counted; no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_Counts = dict[str, float]


class Rates:
    """Remembers the look before."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._before: dict[tuple[str, str], _Counts] = {}

    def rows(self, workflows: Iterable[Any], now: float) -> list[tuple[str, ...]] | None:
        """A row for each trigger and step; None at the first look. ``now``: monotonic seconds."""
        found: dict[tuple[str, str], _Counts] = {}
        for workflow in workflows:
            for endpoint in workflow["endpoints"]:
                found[workflow["name"], f"trigger {endpoint['name']}"] = _endpoint(endpoint)
            for step in workflow["steps"]:
                each = [_step(account) for account in step["accounts"]]
                found[workflow["name"], f"step {step['name']}"] = {
                    key: sum(counts[key] for counts in each) for key in _KEYS
                }
        at, before = self._at, self._before
        self._at, self._before = now, found
        if at is None:
            return None
        took = max(now - at, 1e-9)
        return [
            (*key, *(_rate(counts, before.get(key), what, took) for what in _KEYS[:3]),
             *(f"{counts[what]:,.0f}" for what in _KEYS[3:]))
            for key, counts in found.items()
        ]  # fmt: skip


_KEYS = ("in", "done", "failed", "waiting", "running")


def _rate(counts: _Counts, before: _Counts | None, what: str, took: float) -> str:
    # Whoever counts less than before has begun anew.
    grown = counts[what] - (before[what] if before is not None and before[what] <= counts[what] else 0)
    return "-" if before is None else f"{grown / took:,.0f}"


def _endpoint(told: Any) -> _Counts:
    account = told.get("account", told)
    return {
        "in": _sum(account.get("received")),
        "done": _sum(account.get("published")),
        "failed": _sum(account.get("dropped")),
        "waiting": _sum(account.get("waiting")),
        "running": 0,
    }


def _step(told: Any) -> _Counts:
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
