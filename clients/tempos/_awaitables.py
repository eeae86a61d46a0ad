"""What ``publish`` gives back where the event is on its way already; and whatever can be awaited, for a time.

The former can be awaited as often as one likes, and costs next to nothing.
"""

from __future__ import annotations

import asyncio
import random
import types
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

#: Where the periods of this process begin: not where those of others on its machine do.
_PHASE = random.random()


async def in_time(awaited: Awaitable[_T], seconds: float | None) -> _T:
    """What is awaited, or :class:`asyncio.TimeoutError` after so many seconds; it is cancelled then.

    In place of :func:`asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes as what
    is awaited ends: whoever waits in a loop then goes on for ever, and whoever ends it, waits for ever.
    """
    future = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait({future}, timeout=seconds)
    except BaseException:
        await _end(future)
        if not future.cancelled():
            # Nobody else asks for it.
            future.exception()
        raise
    if not future.done():
        await _end(future)
        if future.cancelled():
            raise asyncio.TimeoutError
    return future.result()


def until_next(period: float) -> float:
    """Seconds until a period ends, at least half of one: all of a process end at the same moments.

    Whoever looks at something every now and then waits so long. To wake up costs more than most looks do, so
    those of one event loop are better had together.
    """
    left = period - (asyncio.get_running_loop().time() + _PHASE) % period
    return left if left > period / 2 else left + period


class Bell:
    """An event of asyncio that is waited for with a limit, again and again: no task is made for that."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: set[asyncio.Future[bool]] = set()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for each in self._waiting:
            _settle(each, True)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, seconds: float) -> bool:
        """Until it is set, or for so many seconds; whether it was."""
        if self._is_set:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.add(future)
        limit = loop.call_later(seconds, _settle, future, False)
        try:
            return await future
        finally:
            limit.cancel()
            self._waiting.discard(future)

    async def settle(self, quiet: float, most: float) -> None:
        """Until it was not set for so many seconds, or for ``most`` in all."""
        end = asyncio.get_running_loop().time() + most
        self.clear()
        while await self.wait(quiet) and asyncio.get_running_loop().time() < end:
            self.clear()


def _settle(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


async def _end(future: asyncio.Future[Any]) -> None:
    future.cancel()
    await asyncio.wait({future})


@types.coroutine
def _nothing() -> Generator[Any, None, None]:
    return
    yield


def _done() -> Awaitable[None]:
    done = _nothing()
    for _ in done:
        pass
    return cast("Awaitable[None]", done)


class _Turn:
    """Awaiting it lets the rest of the event loop run once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield


#: What ``publish`` gives when the event is on its way already. Of all that can be awaited, and as often
#: as one likes, a generator that has come to its end costs least: the interpreter calls nothing.
DONE = _done()
TURN = _Turn()
