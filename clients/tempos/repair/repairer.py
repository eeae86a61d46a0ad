"""The repairs of one subscriber in asyncio: a timer, requests to the broker, what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from tempos.errors import LocalError
from tempos.receiving.feeds import Feed, Feeds
from tempos.receiving.inbox import Inbox
from tempos.repair.asking import Asking, Told, decode_told
from tempos.repair.gaps import Repairs, Span
from tempos.repair.order import OrderedInbox

#: Seconds for which what is missing is asked for again.
PATIENCE = 2.0
#: Seconds that are the least an event loop waits.
TICK = 0.001


def check(patience: float, *, ordered: bool) -> float:
    """What an application asked for; raises :class:`LocalError`."""
    if not 0 <= patience < float("inf"):
        raise LocalError(f"repair is {patience} s: how long to ask for what is missing, 0: not at all")
    if ordered and not patience:
        raise LocalError(
            "ordered holds back what follows a gap until that is repaired, so not without repair"
        )
    return patience


class Repairer:
    """``patience``: seconds for which what is missing is asked for, 0: none. ``wake``: there are events."""

    def __init__(self, patience: float, feeds: Feeds, wake: Callable[[], None]) -> None:
        self.gaps = Repairs(patience)
        self.inbox: OrderedInbox | None = None
        self._is_off = not patience
        self._feeds = feeds
        self._wake = wake
        self._client = 0
        self._asking: Asking | None = None
        self._send: Callable[[bytes], None] = lambda datagram: None
        self._port: Callable[[], int] = lambda: 0
        self._timer: asyncio.Handle | None = None
        self._due = 0.0

    def inbox_of(self, limit: int, *, ordered: bool) -> Inbox:
        """The inbox of the subscriber."""
        if not ordered:
            return Inbox(limit)
        self.inbox = OrderedInbox(limit, self.gaps.first_gap, self._number)
        return self.inbox

    @property
    def repaired(self) -> int:
        """Datagrams that were missed, and came when they were asked for."""
        return sum(self.gaps.count(topic).repaired for topic in self.gaps.topics)

    @property
    def given_up(self) -> int:
        """Datagrams that are missed and not asked for any more."""
        return sum(self.gaps.count(topic).given_up for topic in self.gaps.topics)

    def begin(
        self, client: int, asking: Asking, send: Callable[[bytes], None], port: Callable[[], int]
    ) -> None:
        """There is a way to the broker; ``port``: where this receives."""
        self._client, self._asking, self._send, self._port = client, asking, send, port
        self._schedule()

    def end(self) -> None:
        """Ask no more; what is missing is given up. Safe to call twice."""
        self._is_off = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.gaps.give_up_all()
        if self.inbox is not None and self.inbox.release_all():
            self._wake()

    # What the intake sees

    def follow(self, feed: Feed) -> None:
        """A topic is repaired; also told again when the broker may have forgotten who follows it."""
        if self._is_off:
            return
        self.gaps.follow(feed.id, self._now())
        feed.mended = self.gaps.count(feed.id)
        self._schedule()

    def unfollow(self, feed: Feed) -> None:
        """A topic is repaired no more."""
        feed.mended = None
        self.gaps.unfollow(feed.id)
        if self.inbox is not None:
            self._soon(feed.id)

    def lacks(self, feed: Feed, epoch: int, delivery: int, count: int) -> None:
        """So many deliveries are missing before this one; ``epoch``: its low 8 bits."""
        self._lacks(Span(feed.id, feed.tracker.number(epoch), delivery - count, delivery))

    def came(self, feed: Feed, epoch: int, delivery: int, *, again: bool) -> None:
        """What was missing has come; ``again``: sent again."""
        self.gaps.came(feed.id, feed.tracker.number(epoch), delivery, again=again)
        if self.inbox is not None:
            self._soon(feed.id)

    def told(self, datagram: bytes) -> bool:
        """Whether a datagram tells what was sent last; it is taken then."""
        told = decode_told(datagram)
        if told is None or self._asking is None or told.client != self._client:
            return False
        self._told(told)
        return True

    def received(self, data: bytes) -> bool:
        """Whether what came from the control port is an answer to a request of this; it is taken then."""
        answer = None if self._asking is None else self._asking.receive(data)
        if answer is None:
            return False
        if answer.unknown:
            self.gaps.refused()
        else:
            self.gaps.answered(self._now())
            self._release(given for span in answer.gone for given in self.gaps.gone(span))
        self._schedule()
        return True

    def _told(self, told: Told) -> None:
        feed = self._feeds.get(told.topic)
        if feed is None or feed.mended is None:
            return
        lacking = feed.tracker.sent(told.epoch, told.sent)
        if lacking is not None:
            first, count = lacking
            feed.missed += count
            feed.sources.skips += count
            self._lacks(Span(feed.id, told.epoch, first, first + count))

    def _lacks(self, span: Span) -> None:
        if span.first >= 0:
            self._release(self.gaps.lacks(span, self._now()))
            self._schedule()

    def _release(self, given: Iterable[Span]) -> None:
        for topic in {span.topic for span in given}:
            self._soon(topic)

    def _soon(self, topic: int) -> None:
        # What has just come is on its way into the inbox, before what waits for it.
        if self.inbox is not None:
            asyncio.get_running_loop().call_soon(self._release_now, topic)

    def _release_now(self, topic: int) -> None:
        if self.inbox is not None and self.inbox.release(topic):
            self._wake()

    def _number(self, topic: int, byte: int) -> int:
        feed = self._feeds.get(topic)
        return byte if feed is None else feed.tracker.number(byte)

    def _now(self) -> float:
        # Finer than the loop's own, and what it is now.
        return time.monotonic()

    def _schedule(self) -> None:
        at = None if self._is_off or self._asking is None else self.gaps.timer
        if at is None or (self._timer is not None and self._due <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        # Not the handle's own: that of uvloop has none where it is due now.
        self._due = at
        loop, ahead = asyncio.get_running_loop(), at - self._now()
        # Behind what has come by now. Loops count in milliseconds, and less may be none.
        if ahead <= 0:
            self._timer = loop.call_soon(self._on_timer)
        else:
            self._timer = loop.call_later(max(ahead, TICK), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._now()
        self._release(self.gaps.expire(now))
        missing = self.gaps.ask(now)
        if missing and self._asking is not None:
            self._send(self._asking.request(self._port(), missing))
        self._schedule()
