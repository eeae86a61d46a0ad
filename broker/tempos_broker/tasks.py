"""Work that nobody waits for: named, kept until it is done, ended together, its failures told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("tempos.broker")


async def whole(work: Coroutine[Any, Any, None]) -> None:
    """Carry ``work`` out to its end, also where whoever waits for it is cancelled meanwhile, which is then.

    For what must not stop halfway, as the swap of a route does not: both paths would be at another one.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise


async def first_to_fail(*work: Coroutine[Any, Any, None]) -> None:
    """Carry all of it out until one raises, which is raised; the others are over then."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ended(task: asyncio.Future[None]) -> None:
    """Wait until it is, whoever is tired of that; nobody else hears of its failure."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("what was to be carried out to its end could not", exc_info=error)


class Tasks:
    """The tasks of one owner on the running event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Begin ``work``; ``name`` completes "could not ..."."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def close(self, patience: float = 0) -> None:
        """Cancel what is under way and has not ended in ``patience`` seconds; wait until it has."""
        tasks = list(self._tasks)
        if tasks and patience:
            await asyncio.wait(tasks, timeout=patience)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("could not %s", task.get_name(), exc_info=error)
