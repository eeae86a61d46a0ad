"""A registry in this process's memory: for brokers of one process, simulations, and beside others in tests.

Time is the event loop's. ``delay`` is what a call takes each way; a store that is ``down`` answers nobody.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from tempos_broker.fleet.registry import (
    AT_ONCE,
    Away,
    Change,
    Compacted,
    Entry,
    LeaseGone,
    Listed,
    Write,
    Written,
)

_T = TypeVar("_T")


class Memory:
    """What there is, for any number of :class:`LocalRegistry`."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[str, Entry] = {}
        self.history: list[Change] = []
        self.compacted = 0
        self.down = False
        self.changed = asyncio.Event()
        self._leases: dict[int, tuple[float, float]] = {}
        self._hangs: dict[str, int] = {}
        self._next = 0

    def compact(self) -> None:
        """Forget all changes so far."""
        self.compacted = self.revision
        self.history.clear()

    def lose(self) -> None:
        """Have lost everything, as one that was made anew."""
        for each in (self.entries, self.history, self._leases, self._hangs):
            each.clear()
        self.revision, self.compacted = 1, 0
        self.wake()

    def wake(self) -> None:
        """Let whoever watches look."""
        self.changed.set()
        self.changed = asyncio.Event()

    def expire(self, now: float) -> None:
        """End leases whose time is over."""
        for lease in [lease for lease, (_, ends) in self._leases.items() if ends <= now]:
            self.end(lease)

    def grant(self, seconds: float, now: float) -> int:
        self._next += 1
        self._leases[self._next] = seconds, now + seconds
        return self._next

    def renew(self, lease: int, now: float) -> float:
        if lease not in self._leases:
            raise LeaseGone(f"lease {lease} has ended")
        seconds, _ = self._leases[lease]
        self._leases[lease] = seconds, now + seconds
        return seconds

    def end(self, lease: int) -> None:
        if self._leases.pop(lease, None) is not None:
            self._write([Write(key, None) for key, on in list(self._hangs.items()) if on == lease], 0)

    def write(self, writes: Sequence[Write], lease: int, *, together: bool = False) -> Written:
        if lease and lease not in self._leases:
            raise LeaseGone(f"lease {lease} has ended")
        refused: list[Write] = []
        at: dict[str, int] = {}
        for begin in range(0, len(writes), AT_ONCE):
            some = writes[begin : begin + AT_ONCE]
            bad = [each for each in some if each.expect not in (None, self._written(each.key))]
            if together and bad:
                bad = list(some)
            good = [each for each in some if each not in bad]
            refused += bad
            self._write(good, lease)
            at |= dict.fromkeys((each.key for each in good), self.revision)
        return Written(self.revision, refused, at)

    def _written(self, key: str) -> int:
        entry = self.entries.get(key)
        return 0 if entry is None else entry.revision

    def _write(self, writes: Sequence[Write], lease: int) -> None:
        real = [each for each in writes if each.value is not None or each.key in self.entries]
        if not real:
            return
        self.revision += 1
        for each in real:
            self._hangs.pop(each.key, None)
            if each.value is None:
                del self.entries[each.key]
            else:
                self.entries[each.key] = Entry(each.value, self.revision)
                if lease:
                    self._hangs[each.key] = lease
            self.history.append(Change(each.key, each.value, self.revision))
        self.wake()


class LocalRegistry:
    """One broker's end of a :class:`Memory`. While it is ``cut`` it hears nothing, and nobody hears it."""

    def __init__(self, memory: Memory, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.memory = memory
        self.cut = False
        self._delay = delay

    async def grant(self, seconds: float) -> int:
        return await self._call(lambda memory, now: memory.grant(seconds, now))

    async def keep_alive(self, lease: int) -> float:
        return await self._call(lambda memory, now: memory.renew(lease, now))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda memory, now: memory.end(lease))

    async def write(self, writes: Sequence[Write], lease: int = 0, *, together: bool = False) -> Written:
        return await self._call(lambda memory, now: memory.write(writes, lease, together=together))

    async def list(self) -> Listed:
        return await self._call(lambda memory, now: Listed(memory.revision, dict(memory.entries)))

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        memory, last = self.memory, after
        while True:
            changed = memory.changed
            self._reach()
            if last < memory.compacted:
                raise Compacted(f"revision {last + 1} is compacted, {memory.compacted} is not")
            new = memory.history[bisect_right(memory.history, last, key=lambda change: change.revision) :]
            if new:
                last = new[-1].revision
                await self._wait()
                yield new
                continue
            waiter = asyncio.ensure_future(changed.wait())
            try:
                await asyncio.wait({waiter}, timeout=0.05)
            finally:
                waiter.cancel()
            if not changed.is_set():
                yield ()

    async def close(self) -> None:
        return

    async def _call(self, call: Callable[[Memory, float], _T]) -> _T:
        await self._wait()
        self._reach()
        answer = call(self.memory, asyncio.get_running_loop().time())
        await self._wait()
        self._reach()
        return answer

    def _wait(self) -> Awaitable[None]:
        return asyncio.sleep(self._delay() / 2)

    def _reach(self) -> None:
        self.memory.expire(asyncio.get_running_loop().time())
        if self.cut or self.memory.down:
            raise Away("the store does not answer")
