"""What ``publish`` gives back where the event is on its way already.

It can be awaited, as often as one likes, and costs next to nothing.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Generator
from typing import Any, cast


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
