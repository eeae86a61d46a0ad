"""A registry whose work is done on another thread: what a store answers may be megabytes of JSON.

The event loop that moves events only hands calls over, and takes what came of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tempos_broker.fleet.registry import Change, Listed, Registry, Write, Written

_T = TypeVar("_T")
#: Batches of a watch that wait to be taken.
WAITING = 64


class Aside:
    """``make`` makes the registry, on the thread's own event loop."""

    def __init__(self, make: Callable[[], Registry]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tempos fleet", daemon=True)
        self._make = make
        self._registry: Registry | None = None
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def grant(self, seconds: float) -> int:
        return await self._call(lambda registry: registry.grant(seconds))

    async def keep_alive(self, lease: int) -> float:
        return await self._call(lambda registry: registry.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda registry: registry.revoke(lease))

    async def write(self, writes: Sequence[Write], lease: int = 0, *, together: bool = False) -> Written:
        return await self._call(lambda registry: registry.write(writes, lease, together=together))

    async def list(self) -> Listed:
        return await self._call(lambda registry: registry.list())

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[Sequence[Change] | BaseException] = asyncio.Queue()
        room = asyncio.Semaphore(WAITING)

        async def follow(registry: Registry) -> None:
            try:
                async for changes in registry.watch(after):
                    # Whoever does not take them is waited for; the store keeps what comes meanwhile.
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_acquire(room), loop))
                    loop.call_soon_threadsafe(came.put_nowait, changes)
            except Exception as error:  # noqa: BLE001 - it is raised where the watch is read
                loop.call_soon_threadsafe(came.put_nowait, error)

        following = asyncio.ensure_future(self._call(follow))
        try:
            while True:
                changes = await came.get()
                room.release()
                if isinstance(changes, BaseException):
                    raise changes
                yield changes
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def close(self) -> None:
        """End the thread; safe to call twice."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        if self._registry is not None:
            await self._call(lambda registry: registry.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    async def _call(self, call: Callable[[Registry], Coroutine[Any, Any, _T]]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._carry_out(call), self._loop))

    async def _carry_out(self, call: Callable[[Registry], Coroutine[Any, Any, _T]]) -> _T:
        if self._registry is None:
            self._registry = self._make()
        return await call(self._registry)


async def _acquire(room: asyncio.Semaphore) -> None:
    await room.acquire()
