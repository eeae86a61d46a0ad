"""What ``publish`` gives back where the event is on its way already; and whatever can be awaited, for a time.

The former can be awaited as often as one likes, and costs next to nothing.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar, cast

_T = TypeVar("_T")


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
