"""What programs would answer if all went well: for plans, in which scenarios run and programs do not.

The module of a program that answers, or gives a result, has a function ``planned`` that takes an
:class:`Asked`. A plan of a scenario that asks a program without one fails, and so does its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """What a program is asked for in a plan.

    ``command``: its command line; ``told``: every message so far, the last one is to be answered, or
    none where it is the result that is asked for; ``sent``: datagrams that the last sender would have sent.
    """

    command: Sequence[str]
    told: tuple[Any, ...]
    sent: int

    @property
    def options(self) -> Mapping[str, str]:
        """The options of the command line, `--name VALUE` or `--name=VALUE`; the last of each name."""
        return dict(self._pairs())

    def values(self, name: str) -> list[str]:
        """Every value of one option."""
        return [value for each, value in self._pairs() if each == name]

    @property
    def message(self) -> Any:
        return self.told[-1] if self.told else None

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for part, following in zip(self.command, (*self.command[1:], ""), strict=True):
            name, joined, value = part.partition("=")
            if name.startswith("--"):
                yield name, value if joined else following

    def latest(self, do: str) -> Any:
        """The last command of that name among what was told."""
        return next(each for each in reversed(self.told) if isinstance(each, dict) and each.get("do") == do)
