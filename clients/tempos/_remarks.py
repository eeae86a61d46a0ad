"""What goes wrong at every look is said once: when it begins, when it changes, and when it is over."""

from __future__ import annotations

import logging


class Remark:
    """One thing that may be wrong. ``over``: what to say when it is no more, at ``level``."""

    def __init__(self, log: logging.Logger, over: str, *, level: int = logging.INFO) -> None:
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
