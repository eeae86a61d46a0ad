"""Long work on an event loop that has better things to do: in slices, with a pause after each.

A slice is short, so nothing waits for it. Where a pause takes much longer than it was meant to, because the
loop is busy or the machine is, the next slice is longer in proportion: so the work comes to its end then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

_T = TypeVar("_T")

#: Seconds of work between two looks at what else there is to do, and seconds left to that: on uvloop, whose
#: timers count whole milliseconds, one turn of the loop.
PIECE, PAUSE = 0.00005, 0.00025
#: Of what a pause took beyond so many times its length, this part is worked on; seconds of that at most.
LATE, SHARE, MOST = 4, 0.15, 0.001


class Slices:
    """The slices of one piece of work, which begins now."""

    def __init__(self, piece: float = PIECE, pause: float = PAUSE) -> None:
        self._piece = piece
        self._pause = pause
        self._until = time.perf_counter() + piece

    @property
    def over(self) -> bool:
        """Whether the slice has come to its end."""
        return time.perf_counter() >= self._until

    async def pause(self) -> None:
        """Others have their turn, if the slice has come to its end."""
        if self.over:
            await self.rest()

    async def of(self, values: Iterable[_T]) -> AsyncIterator[_T]:
        """These, as they are asked for; others have their turn in between."""
        for each in values:
            yield each
            await self.pause()

    async def rest(self) -> None:
        """Others have their turn."""
        began = time.perf_counter()
        await asyncio.sleep(self._pause)
        now = time.perf_counter()
        late = now - began - LATE * self._pause
        self._until = now + max(self._piece, min(MOST, late * SHARE))
