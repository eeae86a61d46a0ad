"""What a boot is to do: steps one after the other, each a command in the tree with a limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Step:
    """One command, run in the tree's folder; ``limit`` in seconds.

    In its words ``{results}`` stands for the folder that goes back to the host.
    """

    name: str
    command: tuple[str, ...]
    limit: float


def to_text(steps: Sequence[Step]) -> str:
    return json.dumps([asdict(step) for step in steps])


def from_text(text: str) -> list[Step]:
    return [Step(each["name"], tuple(each["command"]), each["limit"]) for each in json.loads(text)]
