"""What each scenario measures: one module each, with its ``Parameters`` and ``run``."""

from __future__ import annotations

from types import ModuleType

from tempos_bench.suite import blast, churn, member_kill, program_time, redirect, round_trip, slow_path

#: Scenario by the name of its file.
MODULES: dict[str, ModuleType] = {
    "blast": blast,
    "churn": churn,
    "member-kill": member_kill,
    "program-time": program_time,
    "redirect": redirect,
    "round-trip": round_trip,
    "slow-path": slow_path,
}

__all__ = ["MODULES"]
