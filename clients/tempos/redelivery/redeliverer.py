"""The redelivery of one subscriber in asyncio: a timer, requests to the broker, what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tempos import _abi, auth, wire
from tempos._awaitables import in_time
from tempos.control import Consumed, Taking
from tempos.errors import LocalError, RemoteError, WireError
from tempos.receiving.feeds import OWN_GROUP, Feed, Feeds
from tempos.receiving.inbox import Again, Event, Inbox, new_event
from tempos.redelivery.asking import decode_again, decode_several, decode_waiting, handed_in
from tempos.redelivery.processed import Processed
from tempos.redelivery.taking import Copy, Lot
from tempos.requests import envelope
from tempos.requests.answer import Replies, RequestAgain
from tempos.session.aside import Aside

if TYPE_CHECKING:
    from tempos.session.link import ControlLink

#: Seconds between two looks at what was processed: while there is a lot, and else; until it is told, and told
#: again in any case, and until a request counts as unanswered.
BUSY, LOOK, TELL, KEEP, UNANSWERED = 0.005, 0.1, 0.2, 2.5, 0.3
#: Rows of one request of what was processed, and of lots.
ROWS, LOTS = 32, 12
#: Seconds that the end waits for the broker's answer.
LAST = 1.0
#: Where in an event's fields these stand.
_TOPIC, _DELIVERY, _EPOCH = 1, 5, 6

_U32 = 0xFFFFFFFF
_SEVERAL = bytes((_abi.SERVICE, _abi.SERVICE_HANDED))
_PLAIN = _abi.WIRE_VERSION << 4
_unpack_header = _abi.EVENT_HEADER.unpack_from


class Redeliverer:
    """``inbox``: what the consumer takes from; ``wake``: there are events; ``replies``: answers requests."""

    def __init__(self, feeds: Feeds, inbox: Inbox, wake: Callable[[], None], replies: Replies) -> None:
        self._feeds = feeds
        self._inbox = inbox
        self._wake = wake
        self._replies = replies
        self._noted: deque[Event | tuple[Any, ...]] = deque()
        # What waits from an account that is no more.
        self._stale = 0
        self._processed: dict[int, Processed] = {}
        self._lots: dict[int, Lot] = {}
        #: Datagrams that were handed out again.
        self.came = 0
        self._client = 0
        self._aside: Aside | None = None
        self._link: ControlLink | None = None
        self._port: Callable[[], int] = lambda: 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._life: object = None
        # The request that is on its way, what it tells, and since when.
        self._asked: int | None = None
        self._telling: list[Consumed] = []
        self._asked_at = self._told_at = float("-inf")
        self._is_off = False

    def begin(
        self, client: int, signer: auth.Signer | None, link: ControlLink, port: Callable[[], int]
    ) -> None:
        """There is a way to the broker; ``port``: where this receives."""
        self._client, self._link, self._port = client, link, port
        self._aside = Aside(client, signer, 0x40000000)
        before = link.aside
        link.aside = lambda data: before(data) or self._received(data)
        self._schedule(0.0)

    def follow(self, feed: Feed, *, redelivered: bool) -> None:
        """Whether what members of the feed's group leave behind goes to others."""
        wanted = redelivered and feed.is_event and feed.decryptor is None
        feed.redelivers = wanted and not feed.group.startswith(OWN_GROUP) and not self._is_off
        if feed.redelivers and feed.id not in self._processed:
            if self._inbox.processed is None:
                self._inbox.processed = self._noted
            self._processed[feed.id] = Processed(feed.id)
            self._lots[feed.id] = Lot(feed.id, self._hand_out)
            self._told_at = float("-inf")
            self._schedule(0.0)
        elif not feed.redelivers and feed.id in self._processed:
            del self._processed[feed.id], self._lots[feed.id]

    def new_broker(self) -> None:
        """The broker is another instance now: what came before is in no account of it."""
        if self._processed:
            self._stale = len(self._noted) + len(self._inbox.unfinished())
        for topic in self._processed:
            self._processed[topic] = Processed(topic)
            self._lots[topic] = Lot(topic, self._hand_out)
        self._asked, self._telling = None, []

    async def end(self, *, trusted: bool) -> None:
        """Tell for the last time what was processed; ``trusted``: what the consumer has not taken will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_off:
            return
        self._is_off = True
        self._take_notes()
        if trusted:
            for entry in self._inbox.unfinished():
                self._note(entry)
        link = self._link
        if link is None or not self._processed:
            return
        self._unheard()
        try:
            await in_time(self._say_last(link), LAST)
        except (RemoteError, LocalError, asyncio.TimeoutError):
            # What the broker has not heard of it goes to others, too.
            return

    async def _say_last(self, link: ControlLink) -> None:
        while True:
            rows = self._rows()
            final = not any(each.has_news for each in self._processed.values())
            for takings in _some([lot.taking() for lot in self._lots.values()], LOTS):
                await link.ask(
                    "redeliver", port=self._port(), instance=link.instance, consumed=rows, taking=takings,
                    final=final,
                )  # fmt: skip
                rows = []
            if final:
                return

    # What the intake sees

    def told(self, datagram: bytes) -> bool:
        """Whether a datagram tells of what is to be handed out, or brings some of it; it is taken then."""
        if datagram[:2] == _SEVERAL:
            several = decode_several(datagram)
            if several is not None:
                copies = [Copy(several.epoch, each) for each in several.datagrams]
                self._came(several.topic, several.number, copies)
            return several is not None
        told = decode_waiting(datagram)
        if told is None:
            return False
        client, topic = told
        if client == self._client and topic in self._lots:
            self._lots[topic].is_announced = True
            self._schedule(0.0)
        return True

    def take(self, datagram: bytes) -> bool:
        """Whether a datagram is an event that is handed out again; it is taken then."""
        again = decode_again(datagram)
        if again is None:
            return False
        copy = Copy(again.datagram[_abi.OFFSET_EPOCH], again.datagram)
        self._came(again.topic, again.number, [copy])
        return True

    def _came(self, topic: int, number: int, copies: Sequence[Copy]) -> None:
        lot = self._lots.get(topic)
        if lot is not None and not self._is_off and lot.take(number, copies, time.monotonic()):
            self._schedule(0.0)

    # What the consumer has done

    def _take_notes(self) -> None:
        while self._noted:
            self._note(self._noted.popleft())

    def _note(self, entry: Event | tuple[Any, ...]) -> None:
        if self._stale:
            self._stale -= 1
            return
        fields: tuple[Any, ...] = entry
        topic = fields[_TOPIC]
        known = self._processed.get(topic)
        if known is None:
            return
        if isinstance(entry, (Again, RequestAgain)):
            if entry.number is not None:
                self._lots[topic].processed(entry.number)
            return
        feed = self._feeds.get(topic)
        latest = feed.tracker.epoch if feed is not None else None
        byte, delivery = fields[_EPOCH], fields[_DELIVERY]
        if latest is not None and byte is not None and delivery is not None:
            known.add(latest - ((latest - byte) & 0xFF), delivery)

    def passed(self, feed: Feed, epoch: int, delivery: int) -> None:
        """A delivery that is of no use to the consumer has come."""
        known = self._processed.get(feed.id)
        if known is not None:
            known.add(feed.tracker.number(epoch), delivery)

    # What is asked for and told

    def _schedule(self, seconds: float) -> None:
        if self._is_off or self._aside is None or not self._processed:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._due <= at:
                return
            self._timer.cancel()
        # Not the handle's own: that of uvloop has none where it is due now.
        self._due = at
        self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._take_notes()
        if self._asked is not None and now >= self._asked_at + UNANSWERED:
            self._unheard()
        if self._asked is None and self._is_due(now):
            self._ask(now)
        active = any(lot.is_active for lot in self._lots.values())
        self._schedule(BUSY if active else LOOK)

    def _is_due(self, now: float) -> bool:
        if any(lot.is_due(now) for lot in self._lots.values()) or now >= self._told_at + KEEP:
            return True
        return now >= self._told_at + TELL and any(each.has_news for each in self._processed.values())

    def _ask(self, now: float) -> None:
        aside, link = self._aside, self._link
        if aside is None or link is None or not link.instance:
            return
        lots = sorted(self._lots.values(), key=lambda lot: not lot.is_active)
        for lot in lots[:LOTS]:
            # All have their turn.
            self._lots[lot.topic] = self._lots.pop(lot.topic)
        self._telling = self._rows()
        self._asked, datagram = aside.request(
            "redeliver", roomy=True, port=self._port(), instance=link.instance, consumed=self._telling,
            taking=[lot.taking() for lot in lots[:LOTS]], together=True,
        )  # fmt: skip
        self._asked_at = self._told_at = now
        link.send_aside(datagram)

    def _rows(self) -> list[Consumed]:
        rows: list[Consumed] = []
        for known in self._processed.values():
            rows += known.take(ROWS - len(rows))
        return rows

    def _unheard(self) -> None:
        for row in self._telling:
            if (known := self._processed.get(row.topic)) is not None:
                known.unheard(row)
        self._asked, self._telling = None, []

    def _received(self, data: bytes) -> bool:
        reply = None if self._aside is None else self._aside.receive(data)
        if reply is None:
            return False
        if reply.id != self._asked:
            return True
        if reply.ok is None:
            # It does not know this member, or no such thing: asked again when that is another broker's.
            self._unheard()
            return True
        self._asked, self._telling = None, []
        now = time.monotonic()
        for row in handed_in(reply.ok):
            if (lot := self._lots.get(row.topic)) is not None:
                lot.handed(row, now)
                self._processed[row.topic].forget(row.oldest)
        life = reply.ok.get("life")
        if life != self._life:
            if self._life is not None:
                for known in self._processed.values():
                    known.tell_again()
            self._life = life
        self._schedule(0.0 if any(lot.is_due(now) for lot in self._lots.values()) else BUSY)
        return True

    def _hand_out(self, topic: int, copies: Sequence[Copy], first: int) -> Sequence[bool]:
        """Put events into the inbox, as :data:`HandOut` says."""
        feed, now = self._feeds.get(topic), time.time_ns()
        room = self._inbox.limit - self._inbox.waiting
        useful: list[bool] = []
        events: list[Again | RequestAgain] = []
        for number, copy in enumerate(copies, first):
            if len(events) >= room:
                break
            made = [] if feed is None else self._events_in(feed, copy, now)
            if made:
                made[-1].number = number & _U32
                events += made
            useful.append(bool(made))
        if events:
            if not self._inbox.put_all(events):
                return ()
            self.came += sum(useful)
            self._wake()
        return useful

    def _events_in(self, feed: Feed, copy: Copy, now: int) -> Sequence[Again | RequestAgain]:
        """What there is to process in a datagram."""
        epoch, datagram = copy
        if len(datagram) >= wire.HEADER_LEN and datagram[0] != _abi.WIDE and datagram[1] == _PLAIN:
            _, _, _, _, publisher, sequence, _, sent_ns = _unpack_header(datagram)
            fields = (
                feed.name, feed.id, datagram[wire.HEADER_LEN :], publisher, sequence, None, epoch, sent_ns,
                now, 0,
            )  # fmt: skip
            return [new_event(Again, fields)]
        try:
            event = wire.decode_event(datagram)
        except WireError:
            return []
        if event.flags & _abi.FLAG_TRACE:
            return []
        if event.envelope is not None:
            at = feed.body_at
            if event.is_batch or not envelope.is_request(datagram, at):
                return []
            fields = (
                feed.name, feed.id, bytes(event.bodies[0]), event.publisher, event.sequence, None, epoch,
                event.sent_ns, now, 0,
            )  # fmt: skip
            return [self._replies.request_again(fields, datagram, at)]
        return [
            new_event(Again, (
                feed.name, feed.id, bytes(body), event.publisher, (event.sequence + index) & _U32, None,
                epoch, event.sent_ns, now, 0,
            ))
            for index, body in enumerate(event.bodies)
        ]  # fmt: skip


def _some(rows: list[Taking], most: int) -> Iterable[list[Taking]]:
    for begin in range(0, len(rows), most):
        yield rows[begin : begin + most]
