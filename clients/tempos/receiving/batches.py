"""The events of a subscriber as lists of what has arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from tempos.receiving.inbox import Event


class Batches:
    """The iterator of :meth:`Subscriber.batches`. ``turn``: when the event loop is to have its turn."""

    def __init__(
        self, ready: deque[Event], turn: Callable[[], float], until_ready: Callable[[], Awaitable[None]]
    ) -> None:
        self._ready = ready
        self._turn = turn
        self._until_ready = until_ready

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[Event]:
        ready = self._ready
        if not ready or time.monotonic() >= self._turn():
            await self._until_ready()
        events = list(ready)
        ready.clear()
        return events
