"""Holds on to something elsewhere that may go away: sessions one after the other, with growing pauses.

A session is a coroutine that connects, says that it is up, and goes on until something is wrong. Whatever it
raises is told and tried again: it comes out of other people's libraries, so it may be anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tempos._remarks import Remark
from tempos.errors import one_line

log = logging.getLogger("tempos.trigger")

#: Seconds of the first pause and of the longest; after a session that was up for so long it begins anew.
FIRST, LONGEST, STABLE = 0.2, 10.0, 1.0
#: Seconds that a session has to come to its end.
ENDS_WITHIN = 1.0


class EndedOnPurpose(Exception):
    """Raised by a session that is to be followed by the next one at once. Its text is no complaint."""


class Reconnecting:
    """Sessions with ``what``; each gets a function to call when it is up."""

    def __init__(self, what: str, session: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._what = what
        self._session = session
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._pause = FIRST
        self._remark = Remark(log, f"{what} is there", level=logging.INFO)
        self.state = "closed"
        self.why = ""
        self.sessions = 0
        self._up_since = 0.0

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"hold on to {self._what}")

    def status(self) -> dict[str, Any]:
        """For people."""
        told = {"state": self.state, "what": self._what, "sessions": self.sessions}
        return {**told, "why": self.why} if self.why else told

    def _up(self) -> None:
        self.state, self.why = "up", ""
        self.sessions += 1
        self._up_since = time.monotonic()
        self._remark.gone()

    async def _run(self) -> None:
        while not self._closing:
            self.state = "connecting"
            try:
                await self._session(self._up)
                why = "it ended the connection"
            except asyncio.CancelledError:
                # Libraries cancel their own tasks, and it may come out here.
                if self._closing:
                    raise
                why = "it was cancelled"
            except EndedOnPurpose as error:
                log.info("%s: %s", self._what, error)
                continue
            except Exception as error:  # noqa: BLE001 - see above: it is told, and tried again
                why = one_line(error)
            if self.state == "up" and time.monotonic() - self._up_since >= STABLE:
                self._pause = FIRST
            self.state, self.why = "waiting", why
            self._remark(f"{self._what} is not there: {why}")
            # Many that lost the same do not all come back in the same moment.
            await asyncio.sleep(self._pause * random.uniform(0.75, 1.25))
            self._pause = min(2 * self._pause, LONGEST)

    async def close(self) -> None:
        """End the session; safe to call twice."""
        self._closing = True
        self.state = "closed"
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        # One that does not end by then is left alone: it has nothing more to say.
        _, still = await asyncio.wait({task}, timeout=ENDS_WITHIN)
        if still:
            log.warning("%s: the connection does not come to its end; it is left", self._what)
