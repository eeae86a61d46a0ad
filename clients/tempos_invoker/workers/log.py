"""The log of a function: what its workers write to standard output and error, bounded and rate-limited.

The latest lines are kept for whoever asks; each goes to the invoker's log, too. A function that writes more
than its rate has the rest left out and counted, so that it costs nobody else anything.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

#: Lines kept, bytes of a line that are, and lines a second that a function may write, with some at once.
KEPT, LONGEST = 500, 2000
RATE, BURST = 50.0, 200.0

_log = logging.getLogger("tempos.invoker.function")


class FunctionLog:
    """The lines of one function. ``wall`` is Unix time in seconds, ``now`` a clock that never steps."""

    def __init__(self, name: str, wall: Callable[[], float], now: Callable[[], float]) -> None:
        self.name = name
        #: Lines that were left out for there were too many.
        self.left_out = 0
        self._lines: deque[tuple[float, int, str]] = deque(maxlen=KEPT)
        self._wall, self._now = wall, now
        self._tokens, self._filled = BURST, now()
        self._untold = 0

    def lines(self) -> list[dict[str, object]]:
        """What is kept, the oldest first: time (Unix, seconds), pid and text."""
        return [{"time": time, "pid": pid, "text": text} for time, pid, text in self._lines]

    def add(self, pid: int, line: bytes) -> None:
        """A worker wrote a line."""
        now = self._now()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            self.left_out += 1
            self._untold += 1
            return
        self._tokens -= 1
        text = line[:LONGEST].decode(errors="replace")
        if len(line) > LONGEST:
            text += f" ... ({len(line)} bytes)"
        self._lines.append((self._wall(), pid, text))
        left, self._untold = self._untold, 0
        _log.info("%s[%d]: %s%s", self.name, pid, text, f" ({left} lines before it left out)" if left else "")

    def leave_out(self, count: int) -> None:
        """So many lines more came than anybody looked at."""
        self.left_out += count
        self._untold += count

    @property
    def is_full(self) -> bool:
        """Whether the next line would be left out."""
        return self._tokens + (self._now() - self._filled) * RATE < 1


class Lines:
    """Bytes of one worker's pipe to lines of its function's log."""

    def __init__(self, log: FunctionLog, pid: int) -> None:
        self._log, self._pid = log, pid
        self._rest = b""
        self._is_inside = False

    def feed(self, data: bytes) -> None:
        """Some bytes have come."""
        if self._log.is_full:
            # Not looked at, so that a flood is cheap.
            self._log.leave_out(data.count(b"\n"))
            self._rest, self._is_inside = b"", not data.endswith(b"\n")
            return
        if self._is_inside:
            # The end of a line that was left out is none.
            _, found, data = data.partition(b"\n")
            self._is_inside = not found
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log.add(self._pid, line)
        if len(rest) > 2 * LONGEST:
            self._log.add(self._pid, rest)
            rest = b""
        self._rest = rest

    def end(self) -> None:
        """Nothing more will come."""
        if self._rest:
            self._log.add(self._pid, self._rest)
            self._rest = b""
