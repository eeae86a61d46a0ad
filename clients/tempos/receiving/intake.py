"""What a subscriber does with each datagram: it becomes an event that waits, or is counted under a name.

Rules: nothing that arrives can raise; what is not handed out is counted, and shows as missed on the next
event; a datagram that came twice is counted, and handed out again or not, as one likes; losses are told in
the log, sparingly.
"""

from __future__ import annotations

import logging
import socket
import time
from asyncio import Future, get_running_loop
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tempos import _abi, wire
from tempos._remarks import Sparingly
from tempos._sockets import Joined, Reader, read
from tempos.auth import Signer
from tempos.delivery import AGAIN
from tempos.encryption import TopicKeys, Undecryptable
from tempos.errors import LocalError, WireError
from tempos.model import Framing
from tempos.receiving import joined
from tempos.receiving.feeds import Feed, Feeds
from tempos.receiving.inbox import Event, Inbox, new_event
from tempos.receiving.sources import PublisherAccount
from tempos.receiving.stats import SubscriberStats
from tempos.redelivery.redeliverer import Redeliverer
from tempos.repair import repairer
from tempos.repair.asking import Asking
from tempos.repair.repairer import Repairer
from tempos.requests import envelope, probe
from tempos.requests.answer import Replies
from tempos.session import proof, replayed
from tempos.session.doorman import Doorman

if TYPE_CHECKING:
    from tempos.session.link import ControlLink

#: Datagrams kept while the answer to `subscribe`, which tells their framing, is on its way.
EARLY = 1024
#: Datagrams kept of topics that were joined just now by a filter, until the broker has told of them.
HELD = 4096

_RAW_REPLAYED = bytes((_abi.SERVICE, _abi.SERVICE_REPLAYED))
_VERSION = _abi.WIRE_VERSION << 4
#: Whatever else is set in the version byte of a datagram, it is malformed.
_ODD_BITS = 0xFF & ~(_abi.FLAG_BATCH | _abi.FLAG_DUP | _abi.FLAG_TRACE)
#: But for this, which is rare.
_ENVELOPED = _VERSION | _abi.FLAG_ENVELOPE
_unpack_header = _abi.EVENT_HEADER.unpack_from

#: What becomes of datagrams that came before: handed out again, or not. They are counted either way.
Duplicates = Literal["deliver", "drop"]

_log = logging.getLogger("tempos.subscriber")


class Waiter(Protocol):
    """Who waits for an event: a future, or what has a call made."""

    def done(self) -> bool:
        """Whether it has been told already."""
        ...

    def set_result(self, result: None, /) -> None:
        """Tell that there is something."""
        ...


class Bell:
    """In the place of a future: ``call`` is called soon, once for all that comes until then."""

    __slots__ = ("_call", "_call_soon", "_rung")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._call_soon = get_running_loop().call_soon
        self._rung = False

    def done(self) -> bool:
        return self._rung

    def set_result(self, result: None) -> None:
        self._rung = True
        self._call_soon(self._ring)

    def _ring(self) -> None:
        self._rung = False
        self._call()


class Intake:
    """Datagrams in, events into :attr:`inbox`. ``queue``: how many may wait there.

    ``inbox``: another intake's, for the same consumer.
    """

    def __init__(
        self,
        queue: int,
        duplicates: Duplicates,
        receive_buffer: int,
        keys: TopicKeys | None = None,
        *,
        repair: float = 0,
        ordered: bool = False,
        inbox: Inbox | None = None,
    ) -> None:
        if queue < 1:
            raise LocalError(f"a queue of {queue} events holds nothing, at least 1 is needed")
        if duplicates not in ("deliver", "drop"):
            raise LocalError(f"duplicates is {duplicates!r}, allowed: 'deliver', 'drop'")
        self._keys = keys
        self.feeds = Feeds(keys)
        #: Has what is missing sent again, for so many seconds.
        self.repairs = Repairer(repairer.check(repair, ordered=ordered), self.feeds, self.wake)
        self.inbox = self.repairs.inbox_of(queue, ordered=ordered) if inbox is None else inbox
        #: The answers to requests.
        self.replies = Replies(keys)
        #: Tells what was processed, and takes what others left behind.
        self.redelivery = Redeliverer(self.feeds, self.inbox, self.wake, self.replies)
        #: Who comes in at the data socket, and to whom a proof is given that came by it: client, proof.
        self.doorman = Doorman()
        self.prove: Callable[[int, bytes, Callable[[], None]], bool] | None = None
        #: Called before the broker is told what came, by who has more of it.
        self.before_report: Callable[[], None] | None = None
        #: Who waits for an event.
        self.waiter: Waiter | None = None
        #: Bytes of socket buffer asked for, and given.
        self.receive_buffer, self.granted = receive_buffer, 0
        #: Whether the broker has said that all that was sent to this member has come.
        self.drained = False
        self._drops_again = duplicates == "drop"
        #: Takes datagrams that the kernel joined; None: it is to join none.
        self.takes_joined: Joined | None = self._receive_joined
        # Deliveries of which no later one tells that they are missing: known when the broker has said it.
        self._at_end = 0
        self._early: list[tuple[bytes, int]] | None = []
        #: Takes what is out of a journal; None: it is not asked for. Datagrams that it gave, and could not.
        self.replay: Callable[[bytes], bool] | None = None
        self.replayed = self.replay_gone = 0
        #: Finds out of what this is a member; None: that is known.
        self.look: Callable[[], None] | None = None
        #: Seconds for which a broker may send what it does not tell of yet.
        self.grace = 0.0
        # What came of topics that are not known yet, by id: datagrams, when each came, and since when.
        self._held: dict[int, tuple[list[tuple[bytes, int]], float]] = {}
        self._holds = 0
        self._known: Future[None] | None = None
        self._datagrams = self._events = self._bytes = self._queue_full = self._overruns = 0
        self._traced = 0
        self._discarding = False
        self._discarded = self._discarded_events = 0
        self._malformed: Counter[str] = Counter()
        self._warnings = Sparingly(_log, time.monotonic)
        #: Counts what the socket in use had no room for by now.
        self.look_for_lost: Callable[[], None] = lambda: None

    @property
    def stats(self) -> SubscriberStats:
        self.look_for_lost()
        trackers = [feed.tracker for feed in self.feeds]
        return SubscriberStats(
            datagrams=self._datagrams,
            events=self._events,
            bytes=self._bytes,
            missed=sum(tracker.missed for tracker in trackers) + self._at_end,
            late=sum(tracker.late for tracker in trackers),
            duplicates=sum(feed.tracker.duplicates + feed.sources.repeated for feed in self.feeds),
            unstamped=sum(tracker.unstamped for tracker in trackers),
            malformed=dict(self._malformed),
            queue_full=self._queue_full,
            discarded=self._discarded,
            discarded_events=self._discarded_events,
            overruns=self._overruns,
            receive_buffer=self.granted,
            requests=self.replies.requests,
            replies=self.replies.sent,
            replies_failed=self.replies.failed,
            traced=self._traced,
            replayed=self.replayed,
            replay_gone=self.replay_gone,
            repaired=self.repairs.repaired,
            given_up=self.repairs.given_up,
            redelivered=self.redelivery.came,
        )

    def begin(self) -> None:
        """The topics are known: take what came before; :class:`LocalError` for one that cannot be served."""
        for feed in self.feeds:
            self.check(feed)
        early, self._early = self._early or [], None
        for datagram, at in early:
            self.receive(datagram, at)

    def connect(self, client: int, signer: Signer | None, link: ControlLink, port: Callable[[], int]) -> None:
        """There is a way to the broker; ``port``: where this receives."""
        self.look, self.prove, link.aside = link.look, link.prove, self.repairs.received
        self.repairs.begin(client, Asking(client, signer), link.send_aside, port)
        self.redelivery.begin(client, signer, link, port)

    async def end(self) -> None:
        """Nothing comes any more; the broker is told what was processed, or will be."""
        self.repairs.end()
        await self.redelivery.end(trusted=not self._discarding)

    @property
    def is_opening(self) -> bool:
        """Whether the topics are not known yet."""
        return self._early is not None

    @property
    def is_quiet(self) -> bool:
        """Whether all that came is known and taken, and comes from where it is to come from."""
        idle = self._early is None and not self._held and not self._discarding and not self.inbox
        return idle and not self.doorman.expects_proof

    def check(self, feed: Feed) -> None:
        """Raise :class:`LocalError` for a ``raw`` topic of which more is wanted than bodies as they are."""
        if self._keys is not None:
            self._keys.of(feed.topic)
        if self._drops_again and not feed.is_event:
            raise LocalError(
                f"topic {feed.name!r} is raw: its datagrams carry no number, so nobody can tell which of "
                "them came before; duplicates='deliver' is all there is, unless its framing becomes event"
            )

    def receive(self, datagram: bytes, at: int = 0) -> None:
        """Take one datagram from the socket, which came just now or ``at``; never raises."""
        if self._early is not None:
            if not self._is_no_topics(datagram) and not (self.replay and self.replay(datagram)):
                self._keep_early(datagram)
            return
        now = at or time.time_ns()
        size, whole = len(datagram), datagram
        self._datagrams += 1
        self._bytes += size
        feed = self.feeds.narrow[datagram[0]] if size else None
        if feed is None:
            # All that is not a narrow topic's, in clear, comes here, and costs those nothing.
            number = wire.topic_in(datagram)
            feed = self.feeds.others.get(number)
            if feed is None:
                if self._is_no_topics(datagram):
                    self._datagrams -= 1
                    self._bytes -= size
                    return
                if size and self._hold(number, datagram, now):
                    self._datagrams -= 1
                    self._bytes -= size
                    return
                self._malformed[(_abi.Reason.UNKNOWN_TOPIC if size else _abi.Reason.EMPTY).label] += 1
                return
            if feed.is_event:
                if size < feed.body_at:
                    self._malformed[_abi.Reason.SHORT_HEADER.label] += 1
                    return
                if datagram[0] == _abi.WIDE:
                    datagram = wire.as_narrow(datagram)
            if feed.decryptor is not None:
                try:
                    datagram = feed.decryptor.decrypt(probe.parted(datagram), now)
                except Undecryptable as error:
                    self._undecryptable(feed, error)
                    return
        if feed.is_event:
            if size < wire.HEADER_LEN:
                self._malformed[_abi.Reason.SHORT_HEADER.label] += 1
                return
            _, version, reserved, epoch, publisher, sequence, delivery, sent_ns = _unpack_header(datagram)
            if (version & _ODD_BITS != _VERSION or reserved) and (
                version & _ODD_BITS != _ENVELOPED or reserved
            ):
                if self.redelivery.take(whole) or (self.replayed and replayed.decode(whole) is not None):
                    # The latter was asked for again, and had come.
                    self._datagrams -= 1
                    self._bytes -= size
                    return
                self._malformed[wire.check_payload(datagram, Framing.EVENT).label] += 1
                return
            again = False
            gap = feed.see(epoch, delivery)
            if gap:
                again = gap == AGAIN
                if not again:
                    feed.missed += gap
                    if gap > 0:
                        feed.sources.skips += gap
                    if feed.mended is not None:
                        self._repair(feed, gap, version, epoch, delivery)
                elif self._drops_again or feed.mended is not None:
                    return
            source = feed.source_of(publisher)
            body = datagram[wire.HEADER_LEN :]
            if version & _abi.FLAG_ENVELOPE:
                if not self._is_request(datagram):
                    if not again:
                        feed.missed += 1
                        feed.dropped.datagrams += 1
                    return
                events = 1
                if source is not None and sequence == source.expected:
                    source.expected = sequence + 1
                elif not again and self._came_before(feed, publisher, sequence, 1):
                    return
                if version & _abi.FLAG_TRACE:
                    # Of no use to the consumer; it has come, and is in every account.
                    self._traced += 1
                    self.redelivery.passed(feed, epoch, delivery)
                    self.replies.report(feed.id, feed.name, feed.group, whole, feed.body_at, now)
                    return
                self.replies.requests += 1
                taken = self.inbox.put(self.replies.request((
                    feed.name, feed.id, body[envelope.LENGTH :], publisher, sequence, delivery, epoch,
                    sent_ns, now, feed.missed,
                ), whole, feed.body_at))  # fmt: skip
            elif version & _abi.FLAG_BATCH:
                try:
                    bodies = wire.split_batch(body)
                except WireError:
                    self._malformed["bad_batch"] += 1
                    if not again:
                        feed.missed += 1
                        feed.dropped.datagrams += 1
                    return
                events = len(bodies)
                if source is not None and sequence == source.expected:
                    source.expected = sequence + events
                    source.batched += events - 1
                elif not again and self._came_before(feed, publisher, sequence, events):
                    return
                taken = self.inbox.put_batch(
                    (feed.name, feed.id, bodies, publisher, sequence, delivery, epoch, sent_ns, now,
                     feed.missed), bodies
                )  # fmt: skip
            else:
                events = 1
                if source is not None and sequence == source.expected:
                    source.expected = sequence + 1
                elif not again and self._came_before(feed, publisher, sequence, 1):
                    return
                taken = self.inbox.put(new_event(Event, (
                    feed.name, feed.id, body, publisher, sequence, delivery, epoch, sent_ns, now,
                    feed.missed,
                )))  # fmt: skip
        else:
            again, events = False, 1
            feed.tally.datagrams += 1
            taken = self.inbox.put(new_event(Event, (
                feed.name, feed.id, datagram[feed.body_at :], None, None, None, None, None, now, feed.missed
            )))  # fmt: skip
        if not taken:
            if not again:
                feed.missed += 1
                if self._discarding:
                    self._discard(feed, events)
                    return
                feed.dropped.datagrams += 1
            self._drop_newest()
            return
        feed.missed = 0
        self._events += events
        if self.waiter is not None:
            self.wake()

    async def read(self, sock: socket.socket, doorman: Doorman | None) -> Reader:
        """Begin to take what comes by this socket."""
        reader = await read(sock, self.receive, self.overrun, doorman, self.takes_joined)
        self.look_for_lost = reader.look_for_lost
        return reader

    def _receive_joined(self, buffer: bytes, size: int) -> None:
        """Take datagrams of ``size`` bytes that came as one buffer; the last may be shorter; never raises."""
        joined.receive(self, buffer, size)

    def took(
        self, feed: Feed, count: int, size: int, fields: tuple[Any, ...], bodies: tuple[bytes, ...]
    ) -> None:
        """Hand out events of a datagram each that are accounted, and for which there is room."""
        self._datagrams += count
        self._bytes += size
        self._events += count
        self.inbox.put_batch(fields, bodies)
        feed.missed = 0
        if self.waiter is not None:
            self.wake()

    def passed(self, feed: Feed, count: int, size: int) -> None:
        """Events of a datagram each that are accounted were taken elsewhere."""
        self._datagrams += count
        self._bytes += size
        self._events += count
        feed.missed = 0

    def _repair(self, feed: Feed, gap: int, version: int, epoch: int, delivery: int) -> None:
        """See to what is missing before a delivery, or to one that was missing."""
        if gap > 0:
            self.repairs.lacks(feed, epoch, delivery, gap)
            return
        again = bool(version & _abi.FLAG_DUP)
        # It was asked for: that it comes after others says nothing of the network.
        feed.tracker.late -= again
        self.repairs.came(feed, epoch, delivery, again=again)

    def _is_no_topics(self, datagram: bytes) -> bool:
        """Whether a datagram is no topic's: what the broker tells this member, or a stranger's."""
        # What was sent last is told behind it: of what still waits here nothing is missing.
        if self.redelivery.told(datagram) or (self._early is None and self.repairs.told(datagram)):
            return True
        told = proof.decode(datagram)
        if told is not None and self.prove is not None:
            if not self.prove(*told, self.doorman.admit):
                self._turned_away(datagram)
            return True
        if datagram[:2] == _RAW_REPLAYED and (self.replay is not None or self.replayed):
            return self.replay is None or self.replay(datagram)
        if datagram or not self.doorman.stands:
            return False
        self._turned_away(datagram)
        return True

    def _turned_away(self, datagram: bytes) -> None:
        name = _abi.Reason.FOREIGN_SOURCE.label
        self._datagrams += 1
        self._bytes += len(datagram)
        self._malformed[name] += 1
        broker = self.doorman.broker
        self._warnings.warn(
            name,
            "%d datagrams so far came from somebody else than the broker's data port%s, and are dropped",
            self._malformed[name],
            "" if broker is None else " ({}:{})".format(*broker),
        )

    def _undecryptable(self, feed: Feed, error: Undecryptable) -> None:
        # Whoever made it up made up its numbers, too: so it moves no account but this.
        self._malformed[error.reason] += 1
        self._warnings.warn(
            error.reason,
            "%d datagrams so far cannot be decrypted and are dropped; the last, of topic %s: %s",
            self._malformed[error.reason],
            feed.name,
            error,
        )

    def _is_request(self, datagram: bytes) -> bool:
        """Whether an envelope is one of a request, else it is counted: who sent it knows more than this."""
        batch = datagram[_abi.OFFSET_VERSION_FLAGS] & _abi.FLAG_BATCH
        if not batch and envelope.is_request(datagram, wire.HEADER_LEN):
            return True
        told = "an envelope around a batch" if batch else "a reply, which is for who asked"
        try:
            envelope.read(datagram, wire.HEADER_LEN)
        except WireError as error:
            told = str(error)
        name = _abi.Reason.BAD_ENVELOPE.label
        self._malformed[name] += 1
        self._warnings.warn(name, "%d events so far cannot be read and are dropped; the last: %s",
                            self._malformed[name], told)  # fmt: skip
        return False

    def _came_before(self, feed: Feed, publisher: int, sequence: int, events: int) -> bool:
        """Account events that are not the next of their publisher; whether they came before and are to go."""
        again = feed.sources.follow(publisher, sequence, events, alone=feed.alone())
        if not again or not self._drops_again:
            return False
        feed.dropped.datagrams += 1
        return True

    def discard(self) -> None:
        """Throw away what waits and all that comes from now on."""
        self._discarding = True
        for topic, events in self.inbox.shut():
            feed = self.feeds.get(topic)
            if feed is not None:
                self._discard(feed, events)

    def _discard(self, feed: Feed, events: int) -> None:
        feed.dropped.datagrams += 1
        self._discarded += 1
        self._discarded_events += events

    def publishers(self) -> tuple[PublisherAccount, ...]:
        """What can be told of the publishers of each topic that numbers its events."""
        feeds = [feed for feed in self.feeds if feed.is_event]
        return tuple(account for feed in feeds for account in feed.publishers(drained=self.drained))

    # What the session asks, see :class:`tempos.session.parts.Counts`.

    def report(self) -> list[dict[str, Any]]:
        """What to tell the broker now."""
        if self.before_report is not None:
            self.before_report()
        self.look_for_lost()
        waiting, limit = self.inbox.waiting, self.inbox.limit
        return self.feeds.report(waiting=waiting, queue=limit, overruns=self._overruns)

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """The broker has answered."""
        self.feeds.acknowledge(told, answer)

    def tell_again(self) -> None:
        """Take nothing as acknowledged."""
        self.feeds.tell_again()

    def lost_at_end(self, lost: int) -> None:
        """The broker says how many deliveries of this membership have not come, in all."""
        known = sum(feed.tracker.missed for feed in self.feeds)
        self._at_end = max(0, lost - known)

    def wake(self) -> None:
        """Let whoever waits look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def overrun(self, lost: int) -> None:
        """The kernel has told that it lost datagrams for want of room."""
        self._overruns += lost
        self._warnings.warn(
            "overrun",
            "%d datagrams lost so far: the socket buffer of %d bytes was full. Raise net.core.rmem_max "
            "(sysctl -w net.core.rmem_max=%d), or read faster",
            self._overruns,
            self.granted,
            max(self.receive_buffer, 2 * self.granted),
        )

    def _hold(self, topic: int, datagram: bytes, now: int) -> bool:
        """Keep a datagram of a topic that this is no member of, as far as it knows; whether it is kept."""
        if self.look is None:
            return False
        if self._holds >= HELD:
            self._drop_newest()
            return True
        self._holds += 1
        self._held.setdefault(topic, ([], time.monotonic()))[0].append((datagram, now))
        self.look()
        return True

    @property
    def holds(self) -> bool:
        """Whether something came of which it is not known whose it is."""
        return bool(self._held)

    def told(self) -> Future[None] | None:
        """Ends when of all that came it is known whose it is; None: it is known."""
        if not self._held:
            return None
        self._known = get_running_loop().create_future()
        return self._known

    def _look_on(self) -> None:
        if self._held and self.look is not None:
            self.look()
        elif not self._held and self._known is not None and not self._known.done():
            self._known.set_result(None)

    def release(self, topic: int) -> None:
        """A topic is known now: take what came of it before."""
        if topic in self._held and self._early is None:
            held, _ = self._held.pop(topic)
            self._holds -= len(held)
            for datagram, at in held:
                self.receive(datagram, at)
            self._look_on()

    def settle(self, asked: float) -> None:
        """Of what this is a member was told as of then: what came before of others is nobody's."""
        for topic, (held, since) in list(self._held.items()):
            if since < asked - self.grace:
                del self._held[topic]
                self._holds -= len(held)
                self._datagrams += len(held)
                self._bytes += sum(len(datagram) for datagram, _ in held)
                self._malformed[_abi.Reason.UNKNOWN_TOPIC.label] += len(held)
        self._look_on()

    def _keep_early(self, datagram: bytes) -> None:
        assert self._early is not None
        # While there is more to have first, as many as may wait for the consumer.
        if len(self._early) < (EARLY if self.replay is None else max(EARLY, self.inbox.limit)):
            self._early.append((datagram, time.time_ns()))
        else:
            self._datagrams += 1
            self._drop_newest()

    def _drop_newest(self) -> None:
        self._queue_full += 1
        self._warnings.warn(
            "queue",
            "%d datagrams dropped so far: %d events wait already. The consumer is too slow: add members "
            "to the group, or do less per event",
            self._queue_full,
            self.inbox.waiting,
        )
