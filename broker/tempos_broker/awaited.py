"""What the configuration names and this machine does not have yet, or no more: listen addresses, interfaces.

A broker serves without it, and with it as soon as it comes: sockets are bound to addresses that may come
later (IP_FREEBIND, ip(7)), and the fast path goes by the interfaces of now. Here is only kept what is
awaited, and since when, for the log and the status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from tempos._awaitables import until_next
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.addresses import ANY, is_local_address

#: Seconds between two looks.
EVERY = 1.0

log = logging.getLogger("tempos.broker.awaited")

#: What is awaited -> what to know about it.
Found = dict[str, str]


def missing(
    listen: Iterable[str],
    interfaces: Iterable[str],
    here: Iterable[str],
    hint: Callable[[str], str] = lambda _: "",
    is_local: Callable[[str], bool] = is_local_address,
) -> Found:
    """What of these is not here; ``here``: interfaces there are; ``hint``: what to do about an address."""
    there = set(here)
    found = {f"address {ip}": hint(ip) for ip in listen if ip != ANY and not is_local(ip)}
    found.update({f"interface {name}": "" for name in interfaces if name not in there})
    return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """``since``: by the wall clock, for people; ``began``: by the monotonic one."""

    since: str
    began: float


class Awaited:
    """Looks every second; ``look`` gives what is missing now."""

    def __init__(self, look: Callable[[], Found], changes: Changes | None = None) -> None:
        self._look = look
        self._log = (Changes() if changes is None else changes).of(Kind.AWAITED, log)
        self._trouble = Remark(log, "what is awaited is looked for again")
        self._waiting: dict[str, Waiting] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look from now on; on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="look for what is awaited")

    async def close(self) -> None:
        """Look no more; safe to call twice, and before :meth:`begin`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Take note of what has come, and of what is missing."""
        found, now = self._look(), time.monotonic()
        for what in [each for each in self._waiting if each not in found]:
            began = self._waiting.pop(what).began
            self._log.warning("%s is here now, after %.1f s", what, now - began)
        for what, hint in found.items():
            if what not in self._waiting:
                since = datetime.now(timezone.utc).isoformat(timespec="seconds")
                self._waiting[what] = Waiting(since, now)
                self._log.warning(
                    "%s is not here; it is served as soon as it comes%s", what, hint and f" ({hint})"
                )

    def document(self) -> list[dict[str, object]]:
        """What is awaited, and since when."""
        now = time.monotonic()
        return [
            {"what": what, "since": each.since, "seconds": round(now - each.began, 1)}
            for what, each in self._waiting.items()
        ]

    def words(self) -> str:
        """The same in a line; empty: nothing is awaited."""
        return f"; waits for {', '.join(self._waiting)}" if self._waiting else ""

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(until_next(EVERY))
            try:
                self.look()
            except OSError as error:
                # Out of descriptors, for a moment: what is awaited stays so until it can be asked.
                log.debug("what is awaited cannot be looked for: %s", error)
            except Exception as error:  # noqa: BLE001 - logged in full; it must not end the looks
                self._trouble(f"what is awaited could not be looked for: {one_line(error)}", trace=True)
            else:
                self._trouble.gone()
