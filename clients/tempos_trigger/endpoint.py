"""One endpoint at work: its source, its account, and the task that publishes what waits.

Rule: a signal that comes while others wait goes behind them, whichever way it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tempos import EventTooBig, NoReply, Reply, ReplyError, TemposError, names
from tempos._places import quote
from tempos.errors import NoMember
from tempos_trigger.account import (
    NO_BROKER,
    NO_TOPIC,
    PUBLISHED,
    QUEUE_FULL,
    STOPPED,
    TOO_LARGE,
    Account,
    Signal,
)
from tempos_trigger.kind import Source
from tempos_trigger.link import LOOK_AGAIN, Link
from tempos_trigger.model import EndpointSpec
from tempos_trigger.store import Store

log = logging.getLogger("tempos.trigger")

_AGAIN = (NO_BROKER, NO_TOPIC)
#: Signals published without a turn of the event loop.
TURN_EVERY = 64


class Endpoint:
    """The sink of a source (:class:`tempos_trigger.kind.Sink`), and all that is known of it."""

    def __init__(
        self,
        spec: EndpointSpec,
        link: Link,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._wait_for_room: list[Callable[[], None]] = []
        self.spec = spec
        self.link = link
        self.account = Account(spec.buffer, spec.max_age)
        #: Of requests whose answer was wanted: answered, error, timeout, no_member, failed.
        self.answers: Counter[str] = Counter()
        self.asking = 0
        self.source: Source | None = None
        self._clock = clock
        self._some = asyncio.Event()
        self._moved = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def change(self, spec: EndpointSpec, link: Link) -> None:
        """Go on with another description of the same endpoint."""
        self.spec, self.link = spec, link
        self.account.most, self.account.max_age = spec.buffer, spec.max_age
        # What waits for the link that was, looks at this one.
        self._moved.set()

    # What a source calls

    @property
    def why_not(self) -> tuple[str, str] | None:
        """See :class:`tempos_trigger.kind.Sink`."""
        return self._why_not("" if names.is_filter(self.spec.topic) else self.spec.topic)

    def _why_not(self, topic: str) -> tuple[str, str] | None:
        """Of this topic; "": of any."""
        found = self.link.why_not(topic, answers=bool(self.spec.options.get("answer")))
        if found is None and self.account.is_full:
            return QUEUE_FULL, f"{self.account.waiting} signals wait already"
        return found

    @property
    def room(self) -> int:
        return max(0, self.account.most - self.account.waiting)

    def put(self, body: bytes, settled: Callable[[str], None] | None = None) -> str:
        now = self._clock()
        reason = self.account.offer(Signal(body, now, settled), now)
        if not reason:
            self._some.set()
            if self._pump is None:
                name = f"endpoint {self.spec.name}"
                self._pump = asyncio.get_running_loop().create_task(self._run(), name=name)
        return reason

    def refuse(self, reason: str, count: int = 1) -> str:
        return self.account.refuse(reason, count)

    def when_room(self, call: Callable[[], None]) -> None:
        self._wait_for_room.append(call)

    def recall(self) -> Any:
        return None if self._store is None else self._store.read(self._memory)

    def remember(self, document: Any) -> None:
        if self._store is not None:
            self._store.write(self._memory, document)

    def forget(self) -> None:
        """What its source remembered is of no use any more."""
        if self._store is not None:
            self._store.remove(self._memory)

    @property
    def _memory(self) -> str:
        return f"source-{quote(self.spec.name)}.json"

    def _tell_room(self) -> None:
        """Once for each that waits: one of them may fill it again."""
        waiting, self._wait_for_room = self._wait_for_room, []
        for call in waiting:
            call()

    async def ready(self, within: float, topic: str = "") -> tuple[str, str] | None:
        end = self._clock() + within
        if topic and not self.link.need(topic):
            return QUEUE_FULL, "too many topics at a time"
        topic = topic or self.spec.topic
        while (why := self._why_not(topic)) is not None and self.link.is_settling(topic):
            if (left := end - self._clock()) <= 0:
                break
            await self.link.change(min(left, LOOK_AGAIN))
        return why

    async def deliver(self, body: bytes, topic: str = "") -> str:
        topic = topic or self.spec.topic
        if (why := self.link.why_not(topic)) is not None:
            return self.account.refuse(why[0])
        if self.account.queued:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

            def settled(verdict: str) -> None:
                if not future.done():
                    future.set_result(verdict)

            return self.put(body, settled) or await future
        if reason := self.account.begin():
            return reason
        verdict = STOPPED
        try:
            verdict = await self.link.publish(topic, body) or PUBLISHED
        finally:
            self.account.settle(None, verdict)
        return verdict

    async def ask(self, body: bytes, deadline: float, topic: str = "") -> Reply:
        if reason := self.account.begin():
            raise Refused(reason)
        verdict, became = STOPPED, "failed"
        self.asking += 1
        try:
            reply = await self.link.request(topic or self.spec.topic, body, deadline)
            verdict, became = PUBLISHED, "answered"
        except NoMember:
            verdict, became = PUBLISHED, "no_member"
            raise
        except ReplyError:
            verdict, became = PUBLISHED, "error"
            raise
        except NoReply:
            verdict, became = PUBLISHED, "timeout"
            raise
        except EventTooBig:
            verdict = TOO_LARGE
            raise
        except TemposError:
            verdict = NO_BROKER
            raise
        except asyncio.CancelledError:
            # It is out, and nobody waits for its answer any more.
            verdict, became = PUBLISHED, "cancelled"
            raise
        finally:
            self.asking -= 1
            self.account.settle(None, verdict)
            self.answers[became] += 1
        return reply

    # What waits

    async def _run(self) -> None:
        for number in itertools.count():
            if not number % TURN_EVERY:
                # Publishing alone never waits while the socket takes it.
                await asyncio.sleep(0)
            if not self.account.queued:
                self._some.clear()
                await self._some.wait()
            if self.link.why_not(self.spec.topic) is None:
                await self._publish_next()
            else:
                await self._wait_for_broker()
            if self._wait_for_room and not self.account.is_full:
                self._tell_room()

    async def _publish_next(self) -> None:
        signal = self.account.take(self._clock())
        if signal is None:
            return
        try:
            verdict = await self.link.publish(self.spec.topic, signal.body) or PUBLISHED
        except BaseException:
            # Cancelled while the socket was full: not sent, or not all of it is known.
            self.account.give_back(signal)
            raise
        if verdict in _AGAIN:
            self.account.give_back(signal)
        else:
            self.account.settle(signal, verdict)

    async def _wait_for_broker(self) -> None:
        now = self._clock()
        self.account.expire(now)
        if (due := self.account.expires_at()) is not None:
            # Just behind the moment: at it, nothing is too old yet.
            changes = [
                asyncio.ensure_future(self.link.change(max(0.0, due - now) + 0.001)),
                asyncio.ensure_future(self._moved.wait()),
            ]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in changes:
                    each.cancel()
            self._moved.clear()

    async def close(self, patience: float) -> None:
        """Take nothing more in; what waits is published within so many seconds, or dropped and counted."""
        if self.source is not None:
            await self.source.close()
        end = time.monotonic() + patience
        while (self.account.waiting or self.asking) and (left := end - time.monotonic()) > 0:
            if self.link.why_not(self.spec.topic) is not None:
                await self.link.change(left)
            else:
                await asyncio.sleep(min(left, 0.005))
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
            self._pump = None
        self.account.give_up(STOPPED)

    def status(self) -> dict[str, Any]:
        """For people."""
        account, spec, why = self.account, self.spec, self.why_not
        # Asked first: it may count what it finds lost.
        source = {"state": "closed"} if self.source is None else self.source.status()
        told: dict[str, Any] = {
            "name": spec.name,
            "kind": spec.kind,
            "topic": spec.topic,
            "publishes": why is None,
            "why_not": "" if why is None else why[1],
            "shut": _shut(source),
            "received": account.received,
            "published": account.published,
            "waiting": account.waiting,
            "dropped": dict(sorted(account.dropped.items())),
            "balanced": account.balanced,
            "buffer": spec.buffer,
            "max_age": spec.max_age,
            "source": source,
        }
        if self.asking or self.answers or spec.options.get("answer"):
            became = dict(self.answers)
            told["answers"] = {
                "requests": sum(became.values()) + self.asking,
                "answered": became.pop("answered", 0),
                "timeouts": became.pop("timeout", 0),
                "failed": became,
                "waiting": self.asking,
            }
        return told


class Refused(TemposError):
    """A signal was dropped for this ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"dropped: {reason}")
        self.reason = reason


def _shut(source: Mapping[str, Any]) -> str:
    """Why no signal can come, or ""."""
    if source["state"] == "up" or not source.get("why"):
        return ""
    return f"{source['what']} is not there: {source['why']}"
