"""Locks that exist only while somebody has or wants them, and a gate between many and one.

Thousands of topics need no lock each for their rare changes: a key that nobody asks for costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Iterable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class KeyedLocks(Generic[KeyT]):
    """A lock for each key, first come first served."""

    def __init__(self) -> None:
        #: The lock of a key, and how many have or want it.
        self._locks: dict[KeyT, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        """Keys that somebody has or wants."""
        return len(self._locks)

    @contextlib.asynccontextmanager
    async def held(self, keys: Iterable[KeyT]) -> AsyncIterator[None]:
        """Nobody else has any of these inside; of keys with an order, for all must take them in one."""
        async with contextlib.AsyncExitStack() as stack:
            for key in sorted(set(keys)):  # type: ignore[type-var]
                await stack.enter_async_context(self.one(key))
            yield

    def one(self, key: KeyT) -> _One[KeyT]:
        """The same of a single key."""
        return _One(self._locks, key)


class _One(Generic[KeyT]):
    """A single key; no generator, which would take longer than the lock, thousands of times."""

    __slots__ = ("_key", "_locks")

    def __init__(self, locks: dict[KeyT, tuple[asyncio.Lock, int]], key: KeyT) -> None:
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._key) or (asyncio.Lock(), 0)
        self._locks[self._key] = lock, users + 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._locks[self._key][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._key]
        if users == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = lock, users - 1


class Gate:
    """Many may be inside together, or one alone; who wants to be alone is not kept waiting by newcomers."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """With others, but with nobody who is alone."""
        async with self._alone:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """With nobody."""
        async with self._alone:
            await self._empty.wait()
            yield
