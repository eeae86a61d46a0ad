"""Real time for a daemon's event loop, with a budget: what is strict comes before all that is ordinary.

Rules: a refusal never keeps a daemon from running, and what is told is read back from the kernel. Of each
window the loop has its share at most; then it goes on under ordinary scheduling until the window ends, so
that a flood leaves the machine to others, and the kernel, which would stop it altogether, has no reason to.
What the daemon starts has ordinary scheduling, whatever it has itself: other threads and processes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

#: Seconds of a window, the loop's share of it, and looks at it in each.
WINDOW, SHARE, LOOKS = 0.1, 0.8, 4

_NAMES = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr", os.SCHED_BATCH: "batch"}


class RealTime:
    """For the loop that runs, in its thread; ``priority`` of SCHED_FIFO, 0: none of it."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        #: Why it is not had, "" if it is or is not wished.
        self.reason = ""
        #: How many windows ended under ordinary scheduling.
        self.held = 0
        self._handle: asyncio.TimerHandle | None = None
        self._thread = 0
        self._has = False
        self._ends = 0.0
        self._used_ns = 0

    def begin(self) -> None:
        """Have it from now on, as far as the kernel gives it."""
        if not self.priority:
            return
        self._thread = threading.get_native_id()
        self._begin_window(time.monotonic())
        if self._has:
            self._look_later()

    def end(self) -> None:
        """Give it back; safe to call twice."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._has:
            self._ordinary()

    def told(self) -> dict[str, Any]:
        """As the status tells it, from any thread."""
        policy = os.sched_getscheduler(self._thread) & ~os.SCHED_RESET_ON_FORK
        return {
            "policy": _NAMES.get(policy, str(policy)),
            "priority": os.sched_getparam(self._thread).sched_priority,
            "budget": SHARE if self._handle is not None else 0.0,
            "held": self.held,
            "reason": self.reason,
        }

    def _look_later(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(WINDOW / LOOKS, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._ends:
            self._begin_window(now)
        elif self._has and time.thread_time_ns() - self._used_ns > SHARE * WINDOW * 1e9:
            self._ordinary()
            self.held += 1
        self._look_later()

    def _begin_window(self, now: float) -> None:
        self._ends = now + WINDOW
        self._used_ns = time.thread_time_ns()
        if self._has:
            return
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(self.priority))
        except OSError as error:
            self.reason = (
                f"SCHED_FIFO {self.priority} was refused ({error.strerror}); "
                "needs CAP_SYS_NICE or RLIMIT_RTPRIO"
            )
        else:
            self._has, self.reason = True, ""

    def _ordinary(self) -> None:
        self._has = False
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
