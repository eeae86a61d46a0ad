"""Routes on their way into the kernel: those that wait at the same time go in together.

A map of maps is changed by a system call that returns when no program uses what stood there before, some
10 ms later. From Linux 6.8 on one call for many entries waits but once; before, it waits for each of them,
and they are better left to wait beside each other, each in its thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from tempos import Unavailable
from tempos_fastpath.kernel_routes import Claim
from tempos_fastpath.plan import Plan

#: From this version of Linux on a call for many entries waits once, not for each of them.
_WAITS_ONCE = (6, 8)

Entry: TypeAlias = tuple[Plan, Claim]
#: Has all these in force, in a thread, when it returns; of each why not, where that is so.
Write: TypeAlias = Callable[[Sequence[Entry]], Awaitable[Sequence[Unavailable | None]]]


class Swaps:
    """``together``: what comes while a call is on its way goes by the next, all at once."""

    def __init__(self, write: Write, *, together: bool) -> None:
        self._write = write
        self.together = together
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._going: asyncio.Task[None] | None = None

    async def put(self, plan: Plan, claim: Claim) -> None:
        """Have the route in force. Of one topic there is one call at a time.

        Raises :class:`~tempos.Unavailable`.
        """
        if not self.together:
            (error,) = await self._write([(plan, claim)])
            if error is not None:
                raise error
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(((plan, claim), done))
        if self._going is None:
            self._going = asyncio.create_task(self._go(), name="tempos-fastpath-swaps")
        await done

    async def _go(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                errors = await self._write([entry for entry, _ in taken])
            except Exception as error:  # noqa: BLE001 - whoever waits for it is told, and the next go on
                for _, done in taken:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), why in zip(taken, errors, strict=True):
                if done.done():
                    continue  # whoever waited was cancelled
                if why is None:
                    done.set_result(None)
                else:
                    done.set_exception(why)
        self._going = None


def waits_once(release: str) -> bool:
    """Whether the kernel of this release waits once for all entries that a call changes."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _WAITS_ONCE
