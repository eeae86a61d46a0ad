"""The slow path's I/O on Linux: whole batches per system call, driven by the readiness of the sockets.

A callback does a bounded number of rounds (receive, decide, send) and then gives the event loop back,
so that control traffic is served however much data there is. What is left over is not forgotten: data
in a socket keeps it ready, what waits in a queue has a callback of its own.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Sequence

from tempos import Route, Topic
from tempos_broker.config.model import Limits
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.native import Batch, SlotChain
from tempos_broker.slowpath.rounds import drain, serve
from tempos_broker.slowpath.sockets import DataSocket

#: Rounds in one callback. Eight full ones take some 3 ms, the longest that control has to wait.
ROUNDS = 8


class BatchedIo:
    """recvmmsg and sendmmsg around a core."""

    name = "recvmmsg"

    def __init__(
        self, core: SlowPath[SlotChain], topics: Iterable[Topic], limits: Limits, losses: Losses
    ) -> None:
        self._core = core
        self._batch = Batch(topics, limits, losses.foreign)
        self._limit = limits.batch
        self._losses = losses
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: Sequence[DataSocket] = ()
        self._blocked_by: int | None = None
        self._unblocked = asyncio.Event()
        self._continuing = False

    @property
    def reason(self) -> str:
        segmenting = "sends with" if self._batch.segmenting() else "the kernel offers no"
        return f"up to {self._limit} datagrams per system call; {segmenting} UDP segmentation"

    def configure(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._batch.frame(topic)

    def swap(self, route: Route) -> None:
        self._batch.swap(route)

    async def open(self, sockets: Sequence[DataSocket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        for each in sockets:
            self._loop.add_reader(each.sock.fileno(), self._readable, each, each.sock.fileno())

    async def close(self) -> None:
        """Send what was taken, then leave the event loop; what the links do not take in time is lost."""
        if self._loop is None:
            return
        for each in self._sockets:
            self._loop.remove_reader(each.sock.fileno())
        await drain(self._core, self, self._limit)
        if self._blocked_by is not None:
            self._loop.remove_writer(self._blocked_by)
            self._blocked_by = None
            for failure in self._batch.abandon(errno.ETIMEDOUT):
                self._losses.send_failed(*failure)
        self._loop = None

    # The Outlet that `serve` fills.

    def stage(self, delivery: Delivery[SlotChain]) -> bool:
        return not self._batch.stage(delivery) or self.flush()

    def flush(self) -> bool:
        flushed = self._batch.flush()
        if flushed is None:
            return True
        for failure in flushed.failures:
            self._losses.send_failed(*failure)
        if flushed.blocked_by is None:
            return True
        assert self._loop is not None, "only what was received is sent"
        self._blocked_by = flushed.blocked_by
        self._loop.add_writer(flushed.blocked_by, self._writable, flushed.blocked_by)
        return False

    async def ready(self) -> None:
        while self._blocked_by is not None:
            self._unblocked.clear()
            await self._unblocked.wait()

    # Callbacks of the event loop.

    def _readable(self, source: DataSocket, fd: int) -> None:
        core, limit, filled = self._core, self._limit, False
        try:
            for _ in range(ROUNDS):
                for ahead in range(core.read_ahead, 0, -1):
                    full = self._batch.receive(fd, core) == limit
                    read_on = full and ahead > 1
                    if self._blocked_by is None:
                        serve(core, self, limit, best_effort=not read_on)
                    if not read_on:
                        break
                # Less than a batch: the socket is empty, so the next event finds the loop waiting for it.
                if not full:
                    break
                filled = True
        except OSError as error:
            self._losses.socket_error(source, error)
        if filled:
            # Only a full buffer overruns, and a full buffer gives full batches.
            self._losses.overruns((source,))
        if core.queued:
            self._continue_soon()

    def _writable(self, fd: int) -> None:
        assert self._loop is not None
        self._loop.remove_writer(fd)
        self._blocked_by = None
        if self.flush():
            self._unblocked.set()
            if self._core.queued:
                self._continue_soon()

    def _continue_soon(self) -> None:
        if self._blocked_by is None and not self._continuing and self._loop is not None:
            self._continuing = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continuing = False
        if self._blocked_by is None and self._loop is not None:
            serve(self._core, self, self._limit)
            if self._core.queued:
                self._continue_soon()
