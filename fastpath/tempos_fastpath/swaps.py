"""Routes on their way into the kernel: those that wait at the same time go in together.

A map of maps is changed by a system call that returns when no program uses what stood there before, some
10 ms later. From Linux 6.8 on one call for many entries waits but once; before, it waits for each of them,
and they are better left to wait beside each other, each in its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TypeAlias
from weakref import WeakValueDictionary

from tempos import Unavailable
from tempos_fastpath.kernel_routes import Claim
from tempos_fastpath.plan import Plan

#: From this version of Linux on a call for many entries waits once, not for each of them.
_WAITS_ONCE = (6, 8)

Entry: TypeAlias = tuple[Plan, Claim]
#: Of each route why it is not in force, where that is so.
Errors: TypeAlias = Sequence[Unavailable | None]
#: Has all these in force, in a thread, when it returns.
Write: TypeAlias = Callable[[Sequence[Entry]], Awaitable[Errors]]


class Swaps:
    """``together``: what comes while a call is on its way goes by the next, all at once."""

    def __init__(self, write: Write, *, together: bool) -> None:
        self._write = write
        self.together = together
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[Errors]]] = []
        self._going: asyncio.Task[None] | None = None

    async def put(self, entries: Sequence[Entry]) -> Errors:
        """Have these routes in force, each of another topic; of each why it is not, where that is so.

        Of one topic there is one call at a time.
        """
        if not entries:
            return []
        if not self.together:
            found = await asyncio.gather(*(self._write([entry]) for entry in entries))
            return [error for (error,) in found]
        done: asyncio.Future[Errors] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, done))
        if self._going is None:
            self._going = asyncio.create_task(self._go(), name="tempos-fastpath-swaps")
        return await done

    async def _go(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                errors = iter(await self._write([entry for entries, _ in taken for entry in entries]))
            except Exception as error:  # noqa: BLE001 - whoever waits for it is told, and the next go on
                for _, done in taken:
                    if not done.done():
                        done.set_exception(error)
                continue
            for entries, done in taken:
                found = list(islice(errors, len(entries)))
                if not done.done():  # else whoever waited was cancelled
                    done.set_result(found)
        self._going = None


class Turns:
    """Of a topic one change follows the other."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, topics: Iterable[int]) -> AsyncIterator[None]:
        """Nobody else changes these inside."""
        # In one order, for others may wait for several of them, too.
        locks = [
            self._locks.get(each) or self._locks.setdefault(each, asyncio.Lock()) for each in sorted(topics)
        ]
        held = 0
        try:
            for lock in locks:
                await lock.acquire()
                held += 1
            yield
        finally:
            for lock in locks[:held]:
                lock.release()

    async def over(self) -> None:
        """What was under way, or waited for its turn, has ended."""
        for lock in list(self._locks.values()):
            async with lock:
                pass


def waits_once(release: str) -> bool:
    """Whether the kernel of this release waits once for all entries that a call changes."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _WAITS_ONCE
