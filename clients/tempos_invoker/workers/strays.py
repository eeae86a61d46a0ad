"""What functions start and leave behind: processes that have gone away from their worker, and outlive it.

A worker's end takes its process group along; who has left that group (`setsid`, a daemon) stays. On Linux the
invoker adopts them (PR_SET_CHILD_SUBREAPER) in place of init: so they are counted, reaped when they end, and
ended with the invoker. Those of an invoker that is killed are init's, and stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds between two looks for those that have ended, and that they have to end when they are killed.
LOOK_EVERY, END_WITHIN = 2.0, 0.5


class Strays:
    """Those of this process; ``known``: its own children, as they are at the time."""

    def __init__(self, known: Collection[int]) -> None:
        self._known = known
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Adopt from now on what is left behind, where the kernel can do that."""
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None and not prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="look for strays")

    def alive(self) -> list[int]:
        """Their process ids, those that have ended reaped."""
        if self._task is None:
            return []
        return self._left()

    def _left(self) -> list[int]:
        return [pid for pid in _children() if pid not in self._known and not _reaped(pid)]

    async def end(self) -> None:
        """End them all; what they leave behind, too."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        end = asyncio.get_running_loop().time() + END_WITHIN
        while left := self._left():
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if asyncio.get_running_loop().time() >= end:
                return
            await asyncio.sleep(0.005)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.alive()


def _children() -> list[int]:
    """The children of this process, of each of its threads (proc(5), CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def _reaped(pid: int) -> bool:
    """Whether it has ended, and is no more now."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
