"""Being called more often than event loops count: theirs count in milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

try:
    from tempos_broker._batch import lib
except ImportError:
    lib = None  # type: ignore[assignment]

_COUNTER = 8


class Ticks:
    """Calls ``call`` every ``period`` seconds, less than one, while :attr:`are_on`."""

    def __init__(self, period: float, call: Callable[[], None]) -> None:
        self._period_ns = round(period * 1e9)
        self._call = call
        self._descriptor = -1

    @property
    def are_on(self) -> bool:
        return self._descriptor >= 0

    def begin(self) -> bool:
        """Call from now on; whether that can be had."""
        if self._descriptor < 0 and lib is not None:
            self._descriptor = lib.tempos_ticks(self._period_ns)
            if self._descriptor >= 0:
                asyncio.get_running_loop().add_reader(self._descriptor, self._tick)
        return self.are_on

    def end(self) -> None:
        """Call no more; safe to call twice."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _tick(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _COUNTER)
        self._call()
