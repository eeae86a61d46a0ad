"""Warnings about what repeats with every packet: at once when it begins, then rarer the longer it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between the first two warnings of one kind; without any for as long, it is over. Each wait is twice
#: the one before, up to LONGEST.
INTERVAL, LONGEST = 10.0, 640.0


@dataclass(slots=True)
class _Kind:
    """What goes on: when it last was, when the next warning may be, the wait for it, and those left out."""

    last: float
    after: float
    wait: float
    left_out: int = 0


class Sparingly:
    """Logs a warning, unless one of its kind was logged not long ago.

    What is left out is counted and told with the next one. Kinds are few: never made of foreign input.
    """

    def __init__(self, logger: logging.Logger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._kinds: dict[str, _Kind] = {}

    def warn(self, kind: str, text: str) -> None:
        now = self._now()
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(now, now + INTERVAL, INTERVAL)
        elif now < known.after and now - known.last < INTERVAL:
            known.last = now
            known.left_out += 1
            return
        else:
            over = now - known.last >= INTERVAL
            known.wait = INTERVAL if over else min(2 * known.wait, LONGEST)
            known.last, known.after = now, now + known.wait
        left_out, known.left_out = known.left_out, 0
        self._logger.warning("%s%s", text, f" ({left_out} more of these left out)" if left_out else "")
