"""What goes wrong at every look is said once: when it begins, when it changes, and when it is over.

What repeats with every packet, and of which nobody can say that it is over, is said at once, and then rarer
the longer it goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    AnyLogger = logging.Logger | logging.LoggerAdapter[logging.Logger]

#: Seconds between the first two warnings of one kind; without any for as long, it is over. Each wait is twice
#: the one before, up to LONGEST.
INTERVAL, LONGEST = 10.0, 640.0
#: Kinds that are kept in mind: topics come and go, and some are of one topic each.
KINDS = 1024


class Remark:
    """One thing that may be wrong. ``over``: what to say when it is no more, at ``level``."""

    def __init__(self, log: AnyLogger, over: str, *, level: int = logging.INFO) -> None:
        self._log = log
        self._over = over
        self._level = level
        self._said = ""
        self._times = 0

    def __call__(self, text: str, *, trace: bool = False, level: int = logging.WARNING) -> None:
        """It is wrong, for this reason; ``trace``: with the exception that is being handled."""
        if text != self._said:
            self._log.log(level, "%s", text, exc_info=trace)
        self._said = text
        self._times += 1

    def gone(self) -> None:
        """It is not wrong, or not any more; how many times it was is told."""
        if self._said:
            times = f" (it went wrong {self._times} times)" if self._times > 1 else ""
            self._log.log(self._level, "%s%s", self._over, times)
        self._said = ""
        self._times = 0


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
    ``now``: a monotonic clock in seconds.
    """

    def __init__(self, logger: AnyLogger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._kinds: dict[str, _Kind] = {}

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Tell of ``kind``: ``text``, with ``values`` put in as the logging module does."""
        now = self._now()
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= KINDS:
                # The one that came first; should it go on, it is told of at once.
                del self._kinds[next(iter(self._kinds))]
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
        left = f" ({left_out} more of these left out)" if left_out else ""
        self._logger.warning("%s%s", text % values if values else text, left)
