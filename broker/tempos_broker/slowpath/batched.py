"""The slow path's I/O on Linux: whole batches per system call, driven by the readiness of the sockets.

A callback does a bounded number of rounds (receive, decide, send) and then gives the event loop back,
so that control traffic is served however much data there is. What is left over is not forgotten: data
in a socket keeps it ready, what waits in a queue has a callback of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from tempos import Route, Topic
from tempos_broker.config.model import Limits
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.native import Batch, SlotChain
from tempos_broker.slowpath.rounds import serve
from tempos_broker.slowpath.sockets import DataSocket

#: Rounds in one callback. Eight full ones take some 3 ms, the longest that control has to wait.
ROUNDS = 8


class BatchedIo:
    """recvmmsg and sendmmsg around a core."""

    def __init__(
        self, core: SlowPath[SlotChain], topics: Iterable[Topic], limits: Limits, losses: Losses
    ) -> None:
        self._core = core
        self._batch = Batch(topics, limits)
        self._limit = limits.batch
        self._losses = losses
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: Sequence[DataSocket] = ()
        self._blocked_by: int | None = None
        self._continuing = False

    def swap(self, route: Route) -> None:
        self._batch.swap(route)

    async def open(self, sockets: Sequence[DataSocket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        for each in sockets:
            self._loop.add_reader(each.sock.fileno(), self._readable, each)

    async def close(self) -> None:
        """Send what was taken, as far as the kernel accepts it at once; then leave the event loop."""
        if self._loop is None:
            return
        for each in self._sockets:
            self._loop.remove_reader(each.sock.fileno())
        while self._blocked_by is None and self._core.queued:
            serve(self._core, self, self._limit)
        if self._blocked_by is not None:
            self._loop.remove_writer(self._blocked_by)
        self._loop = None

    # The Outlet that `serve` fills.

    def stage(self, delivery: Delivery[SlotChain]) -> bool:
        return not self._batch.stage(delivery) or self.flush()

    def flush(self) -> bool:
        fd, failures = self._batch.flush()
        for failure in failures:
            self._losses.send_failed(*failure)
        if fd is None:
            return True
        assert self._loop is not None, "only what was received is sent"
        self._blocked_by = fd
        self._loop.add_writer(fd, self._writable, fd)
        return False

    # Callbacks of the event loop.

    def _readable(self, source: DataSocket) -> None:
        limit, filled = self._limit, False
        for _ in range(ROUNDS):
            for ahead in reversed(range(self._core.read_ahead)):
                full = self._receive(source) == limit
                last = not (full and ahead)
                if self._blocked_by is None:
                    serve(self._core, self, limit, best_effort=last)
                if last:
                    break
            # Less than a batch: the socket is empty, so the next event finds the loop waiting for it.
            if not full:
                break
            filled = True
        if filled:
            # Only a full buffer overruns, and a full buffer gives full batches.
            self._losses.overruns((source,))
        self._continue_if_needed()

    def _receive(self, source: DataSocket) -> int:
        try:
            return self._batch.receive(source.sock.fileno(), self._core)
        except OSError as error:
            self._losses.socket_error(source, error)
            return 0

    def _writable(self, fd: int) -> None:
        assert self._loop is not None
        self._loop.remove_writer(fd)
        self._blocked_by = None
        if self.flush():
            self._continue_if_needed()

    def _continue_if_needed(self) -> None:
        if self._core.queued and self._blocked_by is None and not self._continuing and self._loop:
            self._continuing = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continuing = False
        if self._blocked_by is None and self._loop is not None:
            serve(self._core, self, self._limit)
            self._continue_if_needed()
