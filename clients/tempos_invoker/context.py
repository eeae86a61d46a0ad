"""What a function in Python is told beside the body of its event, and how it says no."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


class Refused(Exception):
    """A function raises it for an event that it will not take; the same event is not tried again."""


@dataclass(frozen=True)
class Context:
    """One invocation. A function that takes a second argument gets it.

    ``id`` is the same however often the event comes again (``publisher`` and ``sequence`` in hex), so what
    has been done once can be known by it. ``attempt`` counts from 1. ``deadline``: seconds of
    :func:`time.monotonic`, by which the function has to have come to its end. ``sent_ns``: the publisher's
    wall clock.
    """

    id: str
    publisher: int
    sequence: int
    topic: str
    workflow: str
    step: str
    attempt: int
    deadline: float
    sent_ns: int

    @cached_property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """Writes into the function's log, with the id of this invocation."""
        return _Log(logging.getLogger("function"), {"id": self.id})


class _Log(logging.LoggerAdapter):  # type: ignore[type-arg] # no generic yet in the oldest Python
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        assert self.extra is not None, "made so above"
        return f"[{self.extra['id']}] {msg}", kwargs
