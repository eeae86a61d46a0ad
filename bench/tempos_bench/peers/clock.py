"""Waiting for a point in time to the microsecond, in plain Python and on an event loop.

An event loop's own timers count milliseconds; a publisher that keeps a schedule of 10,000 events/s by
them would measure itself. On Linux a timer can be a file, which wakes a loop like a socket does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_TIMERSLACK = 29
_TFD_NONBLOCK, _TFD_TIMER_ABSTIME = 0o4000, 1
#: struct itimerspec: interval and value, seconds and nanoseconds each; no interval.
_ITIMERSPEC = struct.Struct("@llll")
_NS = 1_000_000_000


def sharp_timers() -> None:
    """Let the kernel wake this process when it is time, not up to 50 us later (its default)."""
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def sleep_until(when_ns: int) -> None:
    """Return at ``when_ns`` (CLOCK_MONOTONIC), or at once if it has passed."""
    left = when_ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / _NS)


class LoopTimer:
    """A timer for the running event loop, for one task at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer file")
        self._woken: asyncio.Future[None] | None = None
        self._loop.add_reader(self._fd, self._on_time)

    async def until(self, when_ns: int) -> None:
        """Return at ``when_ns`` (CLOCK_MONOTONIC), or at once if it has passed."""
        if when_ns <= time.monotonic_ns():
            return
        self._woken = self._loop.create_future()
        value = _ITIMERSPEC.pack(0, 0, when_ns // _NS, when_ns % _NS)
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, value, None):
            raise OSError(ctypes.get_errno(), "the timer cannot be set")
        await self._woken

    def close(self) -> None:
        """Release the file."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_time(self) -> None:
        os.read(self._fd, 8)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
