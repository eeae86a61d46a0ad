"""A line on standard error about work that takes longer than two seconds.

On a terminal it is one line that changes; elsewhere a line every ten seconds, so that logs stay short.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

AFTER = 2.0
TERMINAL_EVERY = 0.5
ELSEWHERE_EVERY = 10.0


class Progress:
    """Shows how far something has come. ``total`` may be unknown."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._started = self._last = time.monotonic()
        self._last_done = 0
        self._next = self._started + (AFTER if self._terminal else ELSEWHERE_EVERY)
        self._shown = False

    def update(self, done: int) -> None:
        """Tell the count so far; cheap enough to call often."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (TERMINAL_EVERY if self._terminal else ELSEWHERE_EVERY)
        rate = (done - self._last_done) / max(now - self._last, 1e-9)
        self._last, self._last_done = now, done
        of = f" of {self._total:,}" if self._total is not None else ""
        self._write(f"{done:,}{of} {self._what}, {rate:,.0f}/s")
        self._shown = True

    def finish(self, done: int) -> None:
        """The last word, if there was a first."""
        if not self._shown:
            return
        took = time.monotonic() - self._started
        self._write(f"{done:,} {self._what} in {took:.1f} s, {done / max(took, 1e-9):,.0f}/s")
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._stream.flush()
