"""What goes wrong at every look is said once: when it begins, when it changes, and when it is over."""

from __future__ import annotations

import logging


class Remark:
    """One thing that may be wrong. ``over``: what to say when it is no more."""

    def __init__(self, log: logging.Logger, over: str) -> None:
        self._log = log
        self._over = over
        self._said = ""

    def __call__(self, text: str, *, trace: bool = False) -> None:
        """It is wrong, for this reason; ``trace``: with the exception that is being handled."""
        if text != self._said:
            self._log.warning("%s", text, exc_info=trace)
        self._said = text

    def gone(self) -> None:
        """It is not wrong, or not any more."""
        if self._said:
            self._log.info("%s", self._over)
        self._said = ""
