"""An event loop on a thread of its own, and work on it that plain threads wait for.

Whoever waits here may be interrupted anywhere: what a signal's handler raises is raised as a function is
entered, and after each call. `threading.Condition`, and with it the futures of `concurrent.futures`, take and
give back their lock in functions written in Python: an interrupt between the two leaves it taken, and the
loop's thread then waits for it, for ever. So nothing is shared here but plain locks, each of which one side
only takes and the other only gives back, and what the interpreter does in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NoReturn, TypeVar

from tempos.errors import LocalError
from tempos.session import forks

#: Seconds that work which was interrupted may take to clean up before the loop ends.
CLEAN_UP = 1.0

_T = TypeVar("_T")


class Ended(LocalError):
    """Another thread has ended the loop meanwhile."""


class LoopThread:
    """A thread with an event loop."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._process = os.getpid()
        #: What is waited for, what was interrupted; whether nothing is begun any more, and nothing runs.
        self._works: set[_Work[Any]] = set()
        self._cleaning: set[asyncio.Task[Any]] = set()
        self._is_ending = self._is_over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.soon(self._end)
            raise

    def call(self, work: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        """Run a coroutine function on the loop and wait; an interrupt of the waiting thread cancels it.

        Raises :class:`LocalError` in a process that was forked off, where there is no such thread, and
        :class:`Ended`.
        """
        if self._process != os.getpid():
            raise LocalError(f"this client {forks.WORDS}")
        asked = _Work(functools.partial(work, *args))
        self._works.add(asked)
        try:
            self.soon(lambda: self._begin(asked))
            if self._is_over:
                asked.end()
            return asked.result()
        except BaseException:
            # The loop hears of this one even if the first was interrupted on its way there.
            self.soon(lambda: self._cancel(asked))
            raise
        finally:
            self._works.discard(asked)

    def soon(self, call: Callable[[], object]) -> None:
        """Have it called on the loop, if there is still one."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def stop(self) -> None:
        """End what is still under way, and the thread."""
        if self._process == os.getpid():
            self.soon(self._end)
            self._thread.join()

    def _end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            self.loop.stop()

    def _begin(self, work: _Work[Any]) -> None:
        if self._is_ending:
            work.end()
        else:
            work.begin()

    def _cancel(self, work: _Work[Any]) -> None:
        if (task := work.task) is None:
            work.end()
        else:
            task.cancel()
            self._cleaning.add(task)
            task.add_done_callback(self._cleaning.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(self._finish())
        finally:
            self.loop.close()
            self._is_over = True
            for work in list(self._works):
                work.end()

    async def _finish(self) -> None:
        """What an interrupt has left behind ends here, with its clean-up."""
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=CLEAN_UP)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_default_executor()


class _Work(Generic[_T]):
    """What one coroutine function does, and the thread that waits for its end."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        # What is never begun is no coroutine yet.
        self._work = work
        self._done = threading.Lock()
        self._done.acquire()
        self._has_ended = False
        self._result: Callable[[], _T] = _closed
        #: Nobody but the loop has a task: what is called when one goes would swallow an interrupt.
        self.task: asyncio.Task[_T] | None = None

    def begin(self) -> None:
        """On the loop, once, unless it has ended."""
        if not self._has_ended:
            self.task = asyncio.ensure_future(self._work())
            self.task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[_T]) -> None:
        self.task = None
        if not task.cancelled():
            error = task.exception()
            self._result = (
                functools.partial(_raise, error) if error else functools.partial(_give, task.result())
            )
        self.end()

    def end(self) -> None:
        """Let the thread go on."""
        if not self._has_ended:
            self._has_ended = True
            self._done.release()

    def result(self) -> _T:
        """What became of it, when it has ended; raises what it raised."""
        self._done.acquire()
        return self._result()


def _closed() -> NoReturn:
    raise Ended("this client was closed meanwhile")


def _raise(error: BaseException) -> NoReturn:
    raise error


def _give(result: _T) -> _T:
    return result
