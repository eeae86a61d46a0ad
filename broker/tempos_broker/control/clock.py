"""The broker's clocks. One as clients carry it: a number that tells whether one thing was before another.

The broker gives it out when a member has joined and when somebody asks for a topic; a publisher gives it back
with what it has sent, so that it is known not to have begun before. 48 bits of microseconds, and above them
16 bits of which life of the broker that was: numbers of two lives are not compared.

And the time of day that signatures go by, which is never set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LOW = (1 << 48) - 1


class Clock:
    """``now``: monotonic seconds; ``life``: tells this start of the broker from others."""

    def __init__(self, life: int, now: Callable[[], float]) -> None:
        self._life = (life & 0xFFFF) << 48
        self._now = now

    def not_after(self) -> int:
        """A number not later than now."""
        return self._life | (int(self._now() * 1e6) & _LOW)

    def not_before(self) -> int:
        """A number not earlier than now."""
        return self._life | ((int(self._now() * 1e6) + 1) & _LOW)

    def when(self, number: int) -> float | None:
        """The time of a number that was given out, in monotonic seconds; None if it was in another life."""
        if number & ~_LOW != self._life:
            return None
        seconds = (number & _LOW) / 1e6
        return seconds if seconds <= self._now() else None


class ForwardTime:
    """Unix time in seconds that goes forward with the time of day, and never back, whoever sets that.

    A signature is taken once because nothing signed before the broker started, or longer ago than it
    remembers, is. Were the clock set back, everything would be that old until it has caught up; so this goes
    on at the pace of the monotonic clock until the time of day is ahead again. A client that is beside it is
    told the time.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._steady = wall, steady
        self._at, self._read = wall(), steady()

    def __call__(self) -> float:
        read = self._steady()
        self._at, self._read = max(self._at + read - self._read, self._wall()), read
        return self._at
