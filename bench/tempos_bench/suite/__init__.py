"""What each scenario measures: one module each, with its ``Parameters`` and ``run``."""

from __future__ import annotations

from types import ModuleType

from tempos_bench.suite import (
    blast,
    broker_kill,
    churn,
    loss,
    member_kill,
    path_moves,
    program_time,
    qos_slow,
    redirect,
    round_trip,
    scale,
    slow_path,
    slowdown,
)

#: Scenario by the name of its file.
MODULES: dict[str, ModuleType] = {
    "blast": blast,
    "broker-kill": broker_kill,
    "churn": churn,
    "loss": loss,
    "member-kill": member_kill,
    "path-moves": path_moves,
    "program-time": program_time,
    "qos-slow": qos_slow,
    "redirect": redirect,
    "round-trip": round_trip,
    "scale": scale,
    "slow-path": slow_path,
    "slowdown": slowdown,
}

__all__ = ["MODULES"]
