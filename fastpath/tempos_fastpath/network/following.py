"""Has programs go by the network as it is, beside the looks at it.

To load programs takes its time, and a network that changes once often changes again at once. So looks, and
the routes that go by them, do not wait for it: what leaves by what is gone is lost. One attempt at a time,
each by the facts of when it begins; what becomes due meanwhile is seen to after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tempos import Unavailable
from tempos._awaitables import Bell
from tempos._remarks import Remark
from tempos.errors import one_line

#: Seconds of a wait that has no end of its own.
_LONG = 3600.0
_log = logging.getLogger(__name__)


class Follower:
    """``follow``: sees to the programs, and gives whether anything changed; ``then``: is told that."""

    def __init__(self, follow: Callable[[], Awaitable[bool]], then: Callable[[bool], None]) -> None:
        self._follow = follow
        self._then = then
        self._due = Bell()
        self._at_work = self._failed = False
        self._task: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[bool] | None = None
        self._trouble = Remark(_log, "the fast path's programs go by the network again")

    @property
    def is_behind(self) -> bool:
        """Whether programs may not go by the facts of now."""
        return self._due.is_set() or self._at_work or self._failed

    def begin(self) -> None:
        """See to what is due from now on; on the event loop."""
        self._task = asyncio.create_task(self._run(), name="tempos-fastpath-follow")

    def due(self) -> None:
        """There may be something to see to."""
        self._due.set()

    async def close(self) -> None:
        """End; what an attempt that is under way attaches is known when this returns. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    async def _run(self) -> None:
        while True:
            if not await self._due.wait(_LONG):
                continue
            self._at_work = True
            self._due.clear()
            try:
                self._attempt = asyncio.ensure_future(self._follow())
                self._then(await asyncio.shield(self._attempt))
                self._failed = False
                self._trouble.gone()
            except Unavailable as error:
                self._failed = True
                self._trouble(
                    f"the fast path's programs stay as they are until the next look: {one_line(error)}"
                )
            except Exception as error:  # noqa: BLE001 - logged in full; it must not be the last attempt
                self._failed = True
                self._trouble(f"the fast path's programs could not be seen to: {one_line(error)}", trace=True)
            finally:
                self._at_work = False
