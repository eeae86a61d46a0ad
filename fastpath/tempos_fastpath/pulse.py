"""User space's sign of life to the program: a time stamp in memory that both share.

It is written by the event loop itself, so that a loop that hangs counts as gone, as it should. Beside it
goes what programs need to know of the wall clock, which may change at any time.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tempos._awaitables import until_next
from tempos_bpf.maps import SharedArray
from tempos_fastpath.layout import TAI_OFFSET_AT as _TAI_OFFSET_AT


class Pulse:
    """Stamps at once and then every ``period`` seconds until closed."""

    def __init__(self, array: SharedArray, period: float) -> None:
        self._array = array
        self._period = period
        self._offset_ns = time_namespace_offset()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._beat()

    def close(self) -> None:
        """Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._array.close()

    def _beat(self) -> None:
        stamp(self._array, self._offset_ns)
        self._timer = self._loop.call_later(until_next(self._period), self._beat)


def stamp(array: SharedArray, offset_ns: int | None = None) -> None:
    """Say once that user space lives."""
    offset_ns = time_namespace_offset() if offset_ns is None else offset_ns
    array.store(_TAI_OFFSET_AT, tai_offset())
    array.store(0, time.monotonic_ns() - offset_ns)


def tai_offset() -> int:
    """How far CLOCK_TAI is ahead of CLOCK_REALTIME, ns: 0 until somebody (ntpd, phc2sys) told the kernel.

    The difference is in whole seconds, and only a pause of half a second between the two looks would hide it.
    """
    ahead = time.clock_gettime_ns(time.CLOCK_TAI) - time.clock_gettime_ns(time.CLOCK_REALTIME)
    return max(0, round(ahead / 1e9)) * 1_000_000_000


def time_namespace_offset() -> int:
    """How far our CLOCK_MONOTONIC is ahead of the kernel's own: BPF programs know no time namespace."""
    try:
        text = Path("/proc/self/timens_offsets").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        clock, seconds, nanoseconds = line.split()
        if clock in ("monotonic", "1"):
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0
