"""Starts members in a node and asks them for their account; see :mod:`tempos_bench.programs.members`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempos_bench.nodes.node import PYTHON, Node, Program

#: Seconds in which the last members of a crowd must have drained.
_END_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """Members of one group: at most ``members`` at a time, ``changes`` per second (0: they stay).

    ``expect``: datagrams of ``payload`` bytes that may come in all.
    """

    topic: str
    group: str
    members: int
    changes: float
    expect: int
    payload: int


def start(node: Node, broker: str, plan: CrowdPlan, cpu: int | None = None) -> Program:
    """Start the members; returns when all are in the route. ``broker`` is its address as seen from here."""
    command = (
        PYTHON, "-m", "tempos_bench.programs.members", "--broker", broker, "--address", node.address,
        "--topic", plan.topic, "--group", plan.group, "--members", str(plan.members),
        "--changes", str(plan.changes), "--expect", str(plan.expect), "--size", str(plan.payload),
    )  # fmt: skip
    return node.start(command, ready="ready", cpu=cpu, talk=True)


def account(crowd: Program, sent: int) -> dict[str, Any]:
    """Let the members drain once ``sent`` datagrams came, or no more come; what they saw."""
    return accounts((crowd,), sent)[0]


def accounts(crowds: Sequence[Program], sent: int) -> list[dict[str, Any]]:
    """The same of several crowds at once: a group that nobody is in has no account of its own for long."""
    for crowd in crowds:
        crowd.tell({"sent": sent})
    seen = [crowd.answer(_END_LIMIT) for crowd in crowds]
    for crowd in crowds:
        crowd.wait(10)
    return seen
