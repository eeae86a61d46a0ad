"""The leg before the broker, of one publisher in asyncio: what it asks, sends again, and who waits."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable

from tempos import auth
from tempos._awaitables import in_time
from tempos.control import Confirm
from tempos.errors import LocalError, TemposError, Unconfirmed
from tempos.sending.asked import Asked, decode_lacking
from tempos.sending.outlet import Outlet
from tempos.sending.window import RAW, Window
from tempos.session.link import ControlLink
from tempos.wire import IP_UDP_OVERHEAD

#: Seconds between two requests: when no more is published, while events follow each other, of which each
#: shows what lacks before it, and while somebody waits.
EVERY, FLOWING, EAGER = 0.02, 0.1, 0.001
#: Seconds until a request is repeated, at least and at most; until the way to the broker is looked for again.
AGAIN, AGAIN_MOST, NO_WAY = 0.005, 0.25, 0.5
#: Requests that follow each other at once where somebody waits; topics in one.
AT_ONCE, ROWS = 4, 32
#: Bytes that the broker may have asked by since the last request, before the next one gives it more.
USED = 200


class Confirming:
    """``room``: bytes of the window. ``control``: the link to the control port, opened if it is not."""

    def __init__(
        self, publisher: int, room: int, outlets: Callable[[], Iterable[Outlet]],
        control: Callable[[], Awaitable[ControlLink]], signer: auth.Signer | None,
    ) -> None:  # fmt: skip
        if room <= 0:
            raise LocalError(f"window is {room} bytes: give it more than 0, or None to keep nothing")
        self._publisher = publisher
        self._outlets = outlets
        self._control = control
        self._signer = signer
        self._asked: Asked | None = None
        self._link: ControlLink | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._asked_at = self._heard_at = 0.0
        self._again = AGAIN
        self._way: float | None = None
        self._unanswered = False
        self._used = self._at_once = self._put = 0
        self._closed = False
        self.window = Window(room, time.monotonic)
        self.window.on_first = self._begin

    async def confirmed(self, timeout: float | None) -> None:
        """See :meth:`tempos.Publisher.confirmed`."""
        if self._closed:
            raise LocalError("this publisher is closed")
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        silent = False
        while self.window.is_open and not silent:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            self._at_once = 0
            if self._link is not None and not self._unanswered:
                self._ask()
            try:
                await (waiter if until is None else in_time(waiter, max(0.0, until - loop.time())))
            except asyncio.TimeoutError:
                silent = True
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        self._tell(timeout if silent else None)

    def close(self) -> None:
        """Ask no more; safe to call twice."""
        self._closed = True
        for each in (self._timer, self._opening):
            if each is not None:
                each.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(LocalError("this publisher was closed before all was confirmed"))

    def received(self, data: bytes) -> bool:
        """Whether what came from the control port is for this; it is taken then."""
        if self._asked is None or self._link is None:
            return False
        lacks = decode_lacking(data, self._asked.client)
        if lacks is not None:
            self._used += len(data) + IP_UDP_OVERHEAD
            for datagram in self.window.lacks(lacks):
                self._link.send_aside(datagram)
            if self._used > USED:
                self._ask()
            return True
        told = self._asked.receive(data)
        if told is None:
            return False
        now = time.monotonic()
        if self._unanswered:
            took = now - self._asked_at
            self._way = took if self._way is None else self._way + (took - self._way) / 8
        self._heard_at, self._unanswered, self._again = now, False, AGAIN
        for each in told:
            self.window.came(each)
        if not self.window.is_open:
            self._release()
        self._next(now)
        return True

    # Asking

    def _begin(self) -> None:
        """There is something to ask about."""
        if self._link is not None:
            self._set_timer(EAGER)
        elif self._opening is None and not self._closed:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="tempos confirming")

    async def _open(self) -> None:
        while self._link is None:
            try:
                link = await self._control()
            except TemposError:
                await asyncio.sleep(NO_WAY)
                continue
            self._asked = Asked(int.from_bytes(os.urandom(8), "big"), self._signer)
            link.aside, self._link = self.received, link
        self._opening = None
        self._ask()

    def _ask(self) -> None:
        assert self._asked is not None, "opened before anything is asked"
        assert self._link is not None, "opened before anything is asked"
        rows: list[Confirm] = []
        for outlet in self._outlets():
            if outlet.kept is not None and len(rows) < ROWS:
                left = outlet.sequence == outlet.events
                question = outlet.kept.question(all_left=left, since=outlet.began or 0)
                if question is not None:
                    rows.append(question)
        if not rows:
            self.window.is_asked_about = False
            self._release()
            return
        self.window.on_next = None
        self._used, self._asked_at, self._unanswered = 0, time.monotonic(), True
        self._link.send_aside(self._asked.request(self._publisher, rows))
        self._set_timer(max(self._again, 2 * (self._way or 0.0)))
        self._again = min(2 * self._again, AGAIN_MOST)

    def _next(self, now: float) -> None:
        """What was asked is answered: when to ask again."""
        if self._waiters and self._at_once < AT_ONCE:
            self._at_once += 1
            self._ask()
        else:
            every = EAGER if self._waiters else EVERY
            self._set_timer(max(0.0, self._asked_at + every - now))

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        flows, self._put = self.window.puts != self._put, self.window.puts
        if not flows or self._unanswered or self._waiters or self.window.is_filling:
            self._ask()
            return
        if time.monotonic() >= self._asked_at + FLOWING:
            # Behind an event, so that the next one is not late for it.
            self.window.on_next = self._ask_behind
        self._set_timer(EVERY)

    def _ask_behind(self) -> None:
        """What has just left is out of the way first."""
        asyncio.get_running_loop().call_soon(self._ask_now, self._asked_at)

    def _ask_now(self, asked_at: float) -> None:
        if not self._closed and self._asked_at == asked_at:
            self._ask()

    def _release(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, waited: float | None) -> None:
        """Raise what there is to tell."""
        whys: dict[tuple[str, str], int] = {}
        for outlet in self._outlets():
            kept, name = outlet.kept, outlet.topic.name
            if kept is None:
                continue
            if not outlet.is_event and outlet.events > kept.raw:
                whys[name, RAW] = outlet.events - kept.raw
                kept.raw = outlet.events
            for why, events in kept.given_up.items():
                whys[name, why] = whys.get((name, why), 0) + events
            kept.given_up.clear()
            if waited is not None and kept.open:
                why = f"not known to be there within {waited:g} s, and asked for still"
                if time.monotonic() - self._heard_at > 1.0:
                    why = f"the broker's control port has not answered for {waited:g} s"
                whys[name, why] = kept.open
        if whys:
            raise Unconfirmed(whys)
