"""What ends a process that was told to stop and does not, wherever it hangs: a disk, a lock, a loop.

A thread looks at the time; behind it, in case nothing of Python runs any more, the interpreter's own
watchdog. What is left is what a kill leaves, so daemons that survive a kill survive this, too.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import signal
import threading
import time
from collections.abc import Callable

from tempos_daemon.entry import leave

log = logging.getLogger("tempos.daemon")

#: Seconds that the interpreter's watchdog leaves the thread.
BEHIND = 0.5


class LastResort:
    """Ends the process with ``code`` once the time is over. ``step``: what is being done, for the log."""

    def __init__(
        self,
        code: int,
        *,
        end: Callable[[int], None] = leave,
        watchdog: Callable[[float], None] = lambda seconds: faulthandler.dump_traceback_later(
            seconds, exit=True
        ),
    ) -> None:
        self.step = "stopping"
        self._code = code
        self._end = end
        self._watchdog = watchdog
        self._changed = threading.Condition()
        self._until = math.inf
        self._thread: threading.Thread | None = None

    def arm(self, seconds: float) -> None:
        """The process ends in ``seconds``, or sooner if that was said before."""
        until = time.monotonic() + seconds
        with self._changed:
            if self._until <= until:
                return
            # A signal may have come in between, and said less.
            self._until = min(self._until, until)
            self._changed.notify()
        self._watchdog(seconds + BEHIND)
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="last resort", daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        # What signals mean is the main thread's to decide.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with self._changed:
            while (rest := self._until - time.monotonic()) > 0:
                self._changed.wait(rest)
        log.critical("not stopped in time: still %s; ended as by a kill", self.step)
        self._end(self._code)
