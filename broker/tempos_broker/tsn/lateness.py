"""How late the timers of this machine are, measured: a real-time thread sleeps and sees when it is woken.

It waits as the kernel's own timers do, for the clock event and for the processor to leave what it is in;
being woken comes to that, some microseconds. A short look at a quiet machine proves nothing good, so it never
allows what is not allowed without it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

#: Sleeps of a millisecond, and how long all of them together may take, s.
_SLEEPS, _LIMIT = 500, 2.0
_SLEEP = 0.001
_SLEEP_NS = 1_000_000
#: So many are needed to say what one in a hundred is.
_ENOUGH = 100
#: Above all that ask for no priority, below the kernel's own threads (50).
_PRIORITY = 40


@dataclass(frozen=True, slots=True)
class Lateness:
    """One in a hundred of ``timers`` was later than ``ns``."""

    timers: int
    ns: int


def measure(limit: float = _LIMIT) -> Lateness | None:
    """What comes of half a second of sleeping, of ``limit`` s at most; None where that could not be told."""
    found: list[int] = []
    # A thread of its own: a priority is a thread's, and ends with it.
    thread = threading.Thread(target=_sleep, args=(found, limit), name="timers", daemon=True)
    thread.start()
    thread.join()
    return lateness(found)


def lateness(found: list[int]) -> Lateness | None:
    """The account of what was found, ns each."""
    if len(found) < _ENOUGH:
        return None
    return Lateness(len(found), sorted(found)[-(len(found) // 100) - 1])


def _sleep(found: list[int], limit: float) -> None:
    try:
        # Also without the slack that the kernel allows itself for others.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError:
        # What else runs here would be measured, and not the timers.
        return
    end = time.monotonic() + limit
    while len(found) < _SLEEPS and time.monotonic() < end:
        began = time.monotonic_ns()
        time.sleep(_SLEEP)
        found.append(max(0, time.monotonic_ns() - began - _SLEEP_NS))
