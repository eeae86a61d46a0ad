"""What a person or a program asks of a tool, as it is said on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for. ``interval``: seconds between two looks at what is counted; None: at the end.

    ``width``: characters of a line of the terminal that people look at; None: it goes elsewhere, whole.
    """

    pids: frozenset[int] = frozenset()
    comm: str = ""
    broker: bool = False
    duration: float | None = None
    interval: float | None = None
    top: int | None = None
    json: bool = False
    width: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
