"""The way from a client to its broker: the broker's address, and ours towards it. Both may change.

Rules: a way that works stays, whatever else there may be by now; it is asked for anew where our address is
no more, or the broker is silent or refuses: then its name is looked up again, too, and one that has several
addresses is asked at the next that there is a way to. A name that cannot be looked up, or not soon, leads
where it led before: what answers for names may be away just as we are. Nothing here waits longer than the
client says; what goes wrong at every look is said once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tempos import _sockets
from tempos._awaitables import in_time
from tempos._remarks import Remark
from tempos.errors import LocalError, NoAnswer, NoWay

#: Seconds between two tries of who waits for its broker: at first, and at most.
TRY_SOON, TRY_AGAIN = 0.1, 1.0
#: Seconds between two looks at least, however much goes wrong.
APART = 0.05

_log = logging.getLogger("tempos.way")


class Way(NamedTuple):
    """The broker's address, and ours."""

    broker: str
    ours: str


async def find(host: str, port: int) -> Way:
    """The way to a broker's port as it is now; raises :class:`NoWay` where there is none.

    Of several addresses to the first that there is one to.
    """
    return first_of(await _sockets.addresses_of(host), port)


def first_of(addresses: Sequence[str], port: int) -> Way:
    """The way to the first of these to which there is one; raises :class:`NoWay` as for the first of all."""
    trouble: NoWay | None = None
    for address in addresses:
        try:
            return Way(address, _sockets.source_address(address, port))
        except NoWay as error:
            trouble = trouble or error
    assert trouble is not None, "there is one at least"
    raise trouble


class Patience:
    """How long a client waits for a broker that is not there yet: ``wait`` in seconds; True: for ever."""

    def __init__(self, wait: float) -> None:
        if isinstance(wait, bool):
            wait = math.inf if wait else 0.0
        if not wait >= 0:
            raise LocalError(f"wait is {wait} s, it cannot be negative")
        self._wait = wait
        self._until = math.inf
        self._next = TRY_SOON

    @property
    def waits(self) -> bool:
        """Whether it waits at all."""
        return self._wait > 0

    def begin(self) -> None:
        """Begin to wait."""
        self._until = asyncio.get_running_loop().time() + self._wait

    async def again(self, error: NoWay | NoAnswer) -> None:
        """Return when it is time to try again, or raise what went wrong."""
        left = self._until - asyncio.get_running_loop().time()
        if not self.waits or left <= 0:
            raise error
        _log.debug("waiting for the broker: %s", error)
        pause, self._next = self._next, min(2 * self._next, TRY_AGAIN)
        await asyncio.sleep(min(pause, left))


class Roaming:
    """Sees to it that one client keeps its way to ``host``, where ``port`` is the broker's.

    ``move`` takes another way and raises :class:`LocalError` if that cannot be had; ``is_silent`` tells
    whether the broker does not answer, or refuses; ``every`` in how many seconds it ought to be heard.
    ``level``: at which it is logged that there is no way, where nobody else is told.
    """

    def __init__(
        self,
        host: str,
        port: int,
        way: Way,
        *,
        move: Callable[[Way], Awaitable[None]],
        is_silent: Callable[[], bool],
        every: Callable[[], float],
        level: int = logging.INFO,
    ) -> None:
        self._host = host
        self._port = port
        #: The way in use.
        self.way = way
        self._move = move
        self._is_silent = is_silent
        self._every = every
        #: The broker's address that is to be asked from now on, whatever holds of the one in use.
        self._preferred: str | None = None
        self._woken = asyncio.Event()
        self._level = level
        self._trouble = Remark(_log, f"there is a way to the broker at {host} again", level=level)
        self._nameless = Remark(_log, f"the broker's name {host} is known again")
        #: Where the name led when it was looked up last, and the task that looks it up.
        self._known: tuple[str, ...] = ()
        self._asking: asyncio.Task[tuple[str, ...]] | None = None
        self._ended = False
        self._task = asyncio.create_task(self._run(), name="tempos way")

    def look(self) -> None:
        """Something went wrong: look at once."""
        self._woken.set()

    def prefer(self, broker: str) -> None:
        """Go on at this address of the broker's."""
        self._preferred = broker
        self._woken.set()

    async def end(self) -> None:
        """Look no more; a move under way is given up. Safe to call twice."""
        # A cancellation that comes when it is woken is lost before Python 3.12.
        self._ended = True
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _run(self) -> None:
        while not self._ended:
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._woken.wait(), self._every() / 2)
            self._woken.clear()
            try:
                await self._look()
                self._trouble.gone()
            except LocalError as error:
                self._trouble(f"will go on trying: {error}", level=self._level)
            await asyncio.sleep(APART)

    async def _look(self) -> None:
        silent = self._is_silent()
        preferred, self._preferred = self._preferred, None
        if not silent and preferred is None and _sockets.is_ours(self.way.ours):
            return
        if silent and preferred is None:
            way = first_of(_after(self.way.broker, await self._addresses()), self._port)
        else:
            broker = preferred or self.way.broker
            way = Way(broker, _sockets.source_address(broker, self._port))
        if way != self.way:
            await self._move(way)
            _log.info("%s", words(self.way, way, self._host))
            self.way = way

    async def _addresses(self) -> tuple[str, ...]:
        """Where the name leads: as it is told now, and if that cannot be had soon, as it was told last."""
        if self._asking is None:
            self._asking = asyncio.create_task(_sockets.addresses_of(self._host), name="tempos name")
        await asyncio.wait([self._asking], timeout=self._every() / 2)
        why = "there is no answer yet"
        if self._asking.done():
            asked, self._asking = self._asking, None
            try:
                self._known = asked.result()
            except NoWay as error:
                why = str(error)
            else:
                self._nameless.gone()
                return self._known
        known = self._known or (self.way.broker,)
        self._nameless(
            f"the broker's name {self._host} cannot be looked up, so it is asked where it was: {why}",
            level=self._level,
        )
        return known


def words(before: Way, now: Way, host: str) -> str:
    """What has changed, for people."""
    told = []
    if before.ours != now.ours:
        told.append(
            f"this machine's address towards the broker at {host} is {now.ours}, no more {before.ours}"
        )
    if before.broker != now.broker:
        told.append(f"the broker {host} is asked at {now.broker}, no more at {before.broker}")
    return "; ".join(told)


def _after(address: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """All of the addresses, beginning with the one that comes after this one."""
    at = known.index(address) + 1 if address in known else 0
    return known[at:] + known[:at]
