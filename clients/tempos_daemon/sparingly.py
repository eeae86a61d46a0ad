"""Warnings about what repeats with every packet: at most one per kind and interval."""

from __future__ import annotations

import logging
from collections.abc import Callable

#: Seconds between two warnings of one kind.
INTERVAL = 10.0


class Sparingly:
    """Logs a warning, unless one of its kind was logged less than ``INTERVAL`` ago.

    What is left out is counted and told with the next one. Kinds are few: never made of foreign input.
    """

    def __init__(self, logger: logging.Logger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._after: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warn(self, kind: str, text: str) -> None:
        now = self._now()
        if now < self._after.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._after[kind] = now + INTERVAL
        left_out = self._left_out.pop(kind, 0)
        self._logger.warning("%s%s", text, f" ({left_out} more of these left out)" if left_out else "")
