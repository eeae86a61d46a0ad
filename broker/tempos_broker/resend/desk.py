"""The leg before the broker, on the event loop: a timer, the way back to publishers, what routes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from tempos import Route, Topic
from tempos_broker.control.sockets import Reply
from tempos_broker.journal.journals import Journals
from tempos_broker.membership import Registry
from tempos_broker.resend.core import Resends
from tempos_broker.resend.ticks import Ticks
from tempos_broker.slowpath.sources import Sources

#: Seconds between two looks: while somebody publishes who wants to know, and else.
LOOK, RARELY = 0.001, 0.1
#: The same where so many events a second come, which is looked at every so many seconds.
OFTEN, FAST, WINDOW = 0.0004, 1_500, 0.01
#: Publishers to whom the way is remembered.
WAYS = 4096


class Desk:
    """``drawn``: tickets of an epoch of a topic in its first group.

    The others are as :class:`Resends` has them.
    """

    def __init__(
        self,
        registry: Registry,
        journals: Journals,
        drawn: Callable[[int, int, int], int],
        *,
        route: Callable[[int], Route | None],
        forward: Callable[[int, bytes], bool],
        is_waiting: Callable[[int], bool],
        book: Callable[[int, int, int, int, float], None],
        when: Callable[[int], float | None],
    ) -> None:
        self._journals = journals
        self._drawn = drawn
        self._sources = Sources(())
        self._ways: dict[int, Reply] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = Ticks(OFTEN, self._look)
        # When it was counted last what comes, and how much that was.
        self._counted_at, self._counted = 0.0, 0
        self._is_fast = False
        self._core = Resends(
            registry,
            journals.of,
            lambda topic, epoch: drawn(topic, epoch, 0),
            has_members=lambda topic: bool((found := route(topic)) and found.groups),
            forward=forward,
            is_waiting=is_waiting,
            refuses=self._refuses,
            book=book,
            clock_ns=time.monotonic_ns,
            when=when,
        )
        #: Decides about a request of a publisher.
        self.request = self._core.request

    @property
    def outcomes(self) -> Mapping[str, int]:
        """What became of events that came again."""
        return self._core.outcomes

    def opened(self, route: Route) -> None:
        """A route is about to be in force; its epoch is in the journal."""
        topic: Topic = route.topic
        self._sources.set(topic)
        self._core.opened(topic.id, route.epoch, self._journals.first(topic.id, route.epoch))

    def closed(self, route: Route) -> None:
        """Of a route no packet uses any more the tickets are final."""
        topic = route.topic.id
        if self._core.knows(topic):
            self._core.closed(topic, route.epoch, self._drawn(topic, route.epoch, 0))

    def forget(self, topic: int) -> None:
        """A topic is no more."""
        self._core.forget(topic)

    def heard(self, publisher: int, reply: Reply) -> None:
        """A publisher has asked; it is told by this way what lacks."""
        self._ways.pop(publisher, None)
        self._ways[publisher] = reply
        if len(self._ways) > WAYS:
            del self._ways[next(iter(self._ways))]
        if self._ticks.are_on:
            return
        if self._timer is None or self._timer.when() - asyncio.get_running_loop().time() > LOOK:
            self._again_in(LOOK)

    def again(self, datagram: bytes, ip: str) -> None:
        """An event that was asked for has come to the control port."""
        self._core.again(datagram, ip, time.monotonic())

    def close(self) -> None:
        """Ask nobody anything any more; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ticks.end()

    def _refuses(self, topic: int, ip: str) -> bool:
        return self._sources.refuse(topic, ip)

    def _again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for lacking in self._core.look(now):
            if (way := self._ways.get(lacking.publisher)) is not None:
                way(lacking.datagram)
        if now >= self._counted_at + WINDOW:
            read = self._core.read
            self._is_fast = read - self._counted >= FAST * (now - self._counted_at)
            self._counted_at, self._counted = now, read
        is_busy = self._core.is_active and self._core.is_busy(now)
        if is_busy and self._is_fast and self._ticks.begin():
            return
        self._ticks.end()
        if self._core.is_active:
            self._again_in(LOOK if is_busy else RARELY)
