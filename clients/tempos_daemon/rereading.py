"""Reading a configuration again while a daemon runs, when SIGHUP says so.

One at a time. Signals that come meanwhile are one more reading, whatever their number, for it reads what is
in the file then. What came of it is printed, or logged; nothing that goes wrong keeps the next one from being
tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from tempos import ConfigError, TemposError
from tempos.errors import one_line
from tempos_daemon.notify import READY, notify, reloading, say

log = logging.getLogger("tempos.daemon")

#: Seconds that one which is under way may still take when the daemon stops.
PATIENCE = 0.5


class Rereading:
    """Calls ``reload``, which gives what changed, a line each, or raises :class:`tempos.TemposError`."""

    def __init__(self, reload: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._reload = reload
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def on_signal(self) -> None:
        """Begin, unless one is under way."""
        if self._task is not None:
            self._again = True
        else:
            self._task = asyncio.get_running_loop().create_task(self._all(), name="reload on SIGHUP")

    async def close(self) -> None:
        """Begin no more, and end one that takes long."""
        self._again = False
        # One that comes to its end meanwhile is forgotten as it does.
        if (task := self._task) is not None:
            await asyncio.wait({task}, timeout=PATIENCE)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _all(self) -> None:
        try:
            await self._once()
            while self._again:
                await self._once()
        finally:
            self._task = None

    async def _once(self) -> None:
        self._again = False
        notify(reloading())
        try:
            changes = await self._reload()
        except ConfigError as error:
            for problem in error.problems:
                log.error("not reloaded: %s", problem)  # noqa: TRY400 - its words say it all
        except TemposError as error:
            log.error("not reloaded: %s", one_line(error))  # noqa: TRY400 - its words say it all
        except Exception:
            log.exception("not reloaded")
        else:
            say("\n".join(f"reload: {line}" for line in changes or ["nothing changed"]))
        finally:
            notify(READY)
