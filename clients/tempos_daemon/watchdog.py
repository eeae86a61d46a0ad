"""The watchdog of the service manager (systemd, WatchdogSec=): the event loop itself tells it that it turns.

A loop that hangs tells nothing; the manager then ends the process by SIGABRT and starts it again. Where every
thread was at that moment is written to standard error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os

from tempos_daemon.notify import notify

#: Of the time that the manager waits, how much passes from one word to the next.
SHARE = 1 / 3


def interval() -> float | None:
    """Seconds from one word to the next; None where nobody waits for any, or not for this process's."""
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", ""))
        meant = int(os.environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return limit / 1e6 * SHARE if limit > 0 and meant == os.getpid() else None


def begin(loop: asyncio.AbstractEventLoop) -> None:
    """Tell it for as long as ``loop`` turns, if it is asked for."""
    seconds = interval()
    if seconds is None:
        return
    faulthandler.enable()

    def turn() -> None:
        notify("WATCHDOG=1")
        loop.call_later(seconds, turn)

    loop.call_soon(turn)
