"""What the broker tells of itself, made once for all who ask, and at most half of the time.

Rule: whoever asks is told what holds when he asks or later, never what held before: so a script that asks
after an order sees what the order did. Who asks while something is being made gets, with all others who do,
what is made next; and that is begun no sooner than after a rest as long as the making took. So however many
clients ask, and however often, the event loop works for one of them. Who is content with less says how old
it may be. What nobody has asked for lately is let go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Seconds after which it is let go when nobody asks; and that there is rest at most.
KEPT, REST = 60.0, 1.0


@dataclass(frozen=True, slots=True)
class Told(Generic[_T]):
    """``began``, ``at``: when its making began, by the monotonic clock and by the calendar's, in seconds."""

    value: _T
    began: float
    at: float

    @property
    def age(self) -> float:
        """Seconds since its making began."""
        return time.monotonic() - self.began


class Shared(Generic[_T]):
    """``make`` makes it, leaving the event loop to others in between; ``let_go`` hears that nobody asks."""

    def __init__(self, make: Callable[[], Awaitable[_T]], let_go: Callable[[], None] = lambda: None) -> None:
        self._make = make
        self._let_go = let_go
        self._last: Told[_T] | None = None
        self._making: asyncio.Task[Told[_T]] | None = None
        self._next: asyncio.Task[Told[_T]] | None = None
        self._rested = 0.0
        self._asked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        #: How many were made.
        self.made = 0

    async def ask(self, max_age: float = 0.0) -> Told[_T]:
        """What holds now; or held at most ``max_age`` seconds ago, if that is there already."""
        self._asked = time.monotonic()
        last = self._last
        if last is not None and last.age < max_age:
            return last
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._making), name="tell")
        # Whoever does not wait any more does not take it from the others.
        return await asyncio.shield(self._next)

    async def _after(self, making: asyncio.Task[Told[_T]] | None) -> Told[_T]:
        if making is not None:
            await asyncio.wait({making})
        if (rest := self._rested - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        # From here on who asks is told by the next one.
        self._making, self._next = self._next, None
        began, at = time.monotonic(), time.time()
        try:
            self._last = Told(await self._make(), began, at)
        finally:
            self._making = None
            now = time.monotonic()
            self._rested = now + min(REST, now - began)
        self.made += 1
        self._watch()
        return self._last

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._last is not None and time.monotonic() - self._asked < KEPT:
            self._watch()
            return
        self._last = None
        self._let_go()
