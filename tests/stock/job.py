"""What a boot is to do: steps one after the other, each a command in the tree with a limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

#: In a step's words: the folder for its results.
RESULTS = "{results}"
#: Seconds for one test with its set-up, on a machine that may be emulated: more than what it waits for has.
TEST_LIMIT = 900


@dataclass(frozen=True)
class Step:
    """One command, run in the tree's folder. ``limit``: seconds; ``codes``: the exit codes that are right.

    ``beside``: it is begun with the one before, and both have come to their end before the next begins.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    codes: tuple[int, ...] = (0,)
    beside: bool = False


@dataclass(frozen=True)
class Done:
    """What came of a step; a negative ``code`` is the signal that ended it."""

    name: str
    code: int
    seconds: float
    right: bool


def to_text(steps: Sequence[Step]) -> str:
    return json.dumps([asdict(step) for step in steps])


def from_text(text: str) -> list[Step]:
    return [
        Step(each["name"], tuple(each["command"]), each["limit"], tuple(each["codes"]), each["beside"])
        for each in json.loads(text)
    ]
