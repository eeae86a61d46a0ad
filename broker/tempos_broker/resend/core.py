"""What publishers are asked for again, and what of that is taken: decided here, without I/O.

A publisher that keeps what it has sent asks, now and then, what of it has come (``confirm``). From then on
what its journals have is read as it is written, and what its numbers lack is asked for, until it comes.
Rules:

* an event that is sent again is forwarded if it was asked for and is still lacking when all that was drawn
  has been read. Before that is looked at, a guard in the journal has both data paths drop the first one,
  should it come late;
* where it cannot be told whether an event came, it is not asked for: nothing comes twice. The publisher is
  told how far back it is certain;
* nobody is sent more than it has sent: what a publisher is asked for again is paid with the bytes of its
  requests. So nobody who asks in another's name has more sent there than it sends itself; so many numbers a
  second are asked for of one publisher, and of all together.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tempos.control import Confirm, Request, encode_ok
from tempos.model import Framing
from tempos.sending.asked import LACKING, Unkept
from tempos.wire import IP_UDP_OVERHEAD, check_payload, from_again, named, topic_in
from tempos_broker.control.decisions import Decision, Done, Way
from tempos_broker.control.rate import Allowance
from tempos_broker.membership import Registry
from tempos_broker.resend.scan import Scan
from tempos_broker.resend.seen import Seen

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Memory

#: Publishers that are followed of a topic; seconds after its last request for which one is, and may be sent
#: anything.
PUBLISHERS, KEPT, ACTIVE = 256, 30.0, 0.25
#: Bytes that a publisher may be sent, at most, however much it has asked; ranges in one datagram; publishers
#: of which it is remembered.
CREDIT, RANGES, CREDITED = 16_384, 16, 4096
#: Numbers a second, and at once, that are asked for: of one publisher, and of all together.
RATE, BURST = 25_000, 2_048
RATE_ALL, BURST_ALL = 60_000, 8_192
#: Events that wait until all that was drawn before them has been read, and looks after which they wait no
#: more.
WAITING, LOOKS = 1024, 100
#: ns by which the times in a journal may be too early.
COARSE = 10_000_000
#: Seconds for which guards stand after the last one was set.
GUARDED = 30.0

_HEAD = struct.Struct("!2sQHI")
_RANGE = struct.Struct("!IH")
_U32 = 0xFFFFFFFF


class Lacking(NamedTuple):
    """A datagram that asks a publisher, by its number, for what lacks."""

    publisher: int
    datagram: bytes


@dataclass(slots=True)
class _Followed:
    """One publisher on one topic. ``client``: of its latest request; ``began``: before it sent any, ns."""

    seen: Seen
    client: int = 0
    at: float = 0.0
    since: int = 0
    began: int = 0
    given_up: int = 0


@dataclass(slots=True)
class _Topic:
    scan: Scan
    publishers: dict[int, _Followed] = field(default_factory=dict)
    guarded: float | None = None


@dataclass(slots=True)
class _Again:
    """An event that waits to be taken."""

    topic: int
    payload: bytes
    looks: int = 0


class Resends:
    """``drawn``: tickets of an epoch of a topic in its first group. ``has_members``: whether a topic has any.

    ``forward``: has an event go its way now; whether it went anywhere. ``is_waiting``: whether anything of a
    topic has come that has not gone on. ``refuses``: whether events of a topic from an address are not taken.
    ``book`` is told of a publisher and topic how many more datagrams were taken, and how many events given up
    in all.
    """

    def __init__(
        self,
        registry: Registry,
        journals: Mapping[int, Memory],
        drawn: Callable[[int, int], int],
        *,
        has_members: Callable[[int], bool],
        forward: Callable[[int, bytes], bool],
        is_waiting: Callable[[int], bool],
        refuses: Callable[[int, str], bool],
        book: Callable[
            [int, int, int, int, float], None
        ] = lambda publisher, topic, repaired, given_up, now: None,
        clock_ns: Callable[[], int],
        when: Callable[[int], float | None] = lambda since: None,
    ) -> None:
        self._registry = registry
        self._journals = journals
        self._drawn = drawn
        self._has_members = has_members
        self._forward = forward
        self._is_waiting = is_waiting
        self._refuses = refuses
        self._book = book
        self._clock_ns = clock_ns
        self._when = when
        self._allowance = Allowance(RATE, BURST, RATE_ALL, BURST_ALL)
        self._topics: dict[int, _Topic] = {}
        #: Bytes that a publisher may be sent.
        self._credit: dict[int, int] = {}
        self._waiting: list[_Again] = []
        self._active = 0.0
        #: Positions that were read.
        self.read = 0
        #: What became of events that were sent again; by topic, those that were taken.
        self.outcomes: Counter[str] = Counter()

    # Routes

    def opened(self, topic: int, epoch: int, first: int) -> None:
        """An epoch is about to begin, at this position of the topic's journal; 0: it has none."""
        memory = self._journals.get(topic)
        known = self._topics.get(topic)
        if memory is None or not first:
            self._topics.pop(topic, None)
            return
        if known is not None and known.scan.memory.identity == memory.identity:
            # In another size by now, maybe: it has what the one before had, where that was.
            known.scan.memory = memory
        else:
            fresh = known is None and memory.is_new
            known = self._topics[topic] = _Topic(Scan(memory, fresh=fresh))
        known.scan.opened(epoch, first, self._drawn(topic, epoch), self._clock_ns())

    def knows(self, topic: int) -> bool:
        """Whether a topic has a journal that is read here."""
        return topic in self._topics

    def closed(self, topic: int, epoch: int, drawn: int) -> None:
        """Of an epoch no tickets are drawn any more."""
        if (known := self._topics.get(topic)) is not None:
            known.scan.closed(epoch, drawn, self._clock_ns())

    def forget(self, topic: int) -> None:
        """A topic is no more."""
        self._topics.pop(topic, None)

    # Requests

    def request(self, request: Request, way: Way, now: float) -> Decision:
        """What of a publisher's events has come; it is asked for what has not. Raises :class:`Refused`."""
        way.caller.require_any("publish")
        publisher: int = request.fields["publisher"]
        confirmed: list[list[Any]] = []
        # The other half is for what it is asked with for what lacks.
        room = way.room // 2 - len(encode_ok(way.request_id, confirmed=[])) - 4
        for row in request.fields["confirm"]:
            told = self._row(publisher, request.client, row, way, now, room)
            room -= 5 + sum(_size(each) for each in told) + 3
            if room < 0:
                break
            confirmed.append(told)
        self._active = now
        answer = len(encode_ok(way.request_id, confirmed=confirmed))
        # Those that asked longest ago come first.
        credit = self._credit.pop(publisher, 0)
        self._credit[publisher] = min(CREDIT, credit + max(0, way.room - answer))
        if len(self._credit) > CREDITED:
            del self._credit[next(iter(self._credit))]
        return Decision(way, Done({"confirmed": confirmed}), publisher=publisher)

    def _row(self, publisher: int, client: int, row: Confirm, way: Way, now: float, room: int) -> list[Any]:
        """The answer about one topic: its id, how far back it is certain, up to where, what lacks below."""
        topic = self._registry.numbered(row.topic)
        if topic is None:
            return [row.topic, Unkept.GONE]
        way.caller.require(topic.name, "publish")
        known = self._topics.get(row.topic)
        if known is None or topic.framing is not Framing.EVENT or self._journals.get(row.topic) is None:
            return [row.topic, Unkept.NO_JOURNAL]
        if not self._has_members(row.topic):
            return [row.topic, Unkept.NO_MEMBER]
        is_read = self._is_read(row.topic, known)
        if not is_read and publisher not in known.publishers:
            return [row.topic, 0, row.lowest, []]
        followed = self._follow(row.topic, known, publisher, row.lowest, now)
        if followed is None:
            return [row.topic, Unkept.NO_ROOM]
        if row.given_up > followed.given_up:
            self._book(publisher, row.topic, 0, row.given_up, now)
        followed.client, followed.at, followed.given_up = client, now, row.given_up
        followed.began = round((self._when(row.since) or 0.0) * 1e9) if row.since else 0
        seen = followed.seen
        seen.raise_to(row.lowest)
        if is_read:
            self._advance(row.topic, known, now)
            seen.told(row.numbered, now)
        upto, lacking = seen.next, []
        room -= 40
        for gap in seen.gaps:
            room -= _size(gap.first) + _size(gap.end - gap.first)
            if room < 0:
                upto = gap.first
                break
            lacking += [gap.first, gap.end - gap.first]
        return [row.topic, self._certain(known, followed), upto, lacking]

    def _is_read(self, topic: int, known: _Topic) -> bool:
        """Whether what comes is written where it is read: another size is read from the next epoch on."""
        return self._journals.get(topic) is known.scan.memory

    def _certain(self, known: _Topic, followed: _Followed) -> int:
        """For how many ms it is known what came of a publisher; all: if that is since before it began."""
        since = max(known.scan.since, followed.since)
        if followed.began and since + COARSE <= followed.began:
            return _U32
        return min(max(0, self._clock_ns() - since) // 1_000_000, _U32 - 1)

    def _follow(self, topic: int, known: _Topic, publisher: int, lowest: int, now: float) -> _Followed | None:
        followed = known.publishers.get(publisher)
        if followed is not None:
            return followed
        if len(known.publishers) >= PUBLISHERS:
            self._let_go(known, now)
            if len(known.publishers) >= PUBLISHERS:
                return None
        if not known.scan.is_reading:
            known.scan.begin(lambda epoch: self._drawn(topic, epoch), self._clock_ns())
        followed = known.publishers[publisher] = _Followed(Seen(lowest), at=now)
        seen = followed.seen
        for run in sorted(known.scan.all_of(publisher), key=lambda run: seen.near(run.first)):
            seen.came(run.first, run.numbers, now)
        return followed

    def _let_go(self, known: _Topic, now: float) -> None:
        """Follow those no more that asked nothing for long."""
        for publisher, followed in list(known.publishers.items()):
            if now - followed.at > KEPT:
                del known.publishers[publisher]
                self._credit.pop(publisher, None)
        if not known.publishers:
            known.scan.end()

    def _advance(self, topic: int, known: _Topic, now: float) -> None:
        """Take in what has come since."""
        scan, publishers = known.scan, known.publishers
        before = scan.read
        runs = scan.advance(lambda epoch: self._drawn(topic, epoch), self._clock_ns())
        self.read += scan.read - before
        for run in runs:
            followed = publishers.get(run.publisher)
            if followed is not None:
                followed.seen.came(run.first, run.numbers, now)
                if followed.seen.forgot is not None:
                    followed.seen.forgot, followed.since = None, self._clock_ns()

    # What is asked for

    @property
    def is_active(self) -> bool:
        """Whether there is anything to look at."""
        return any(known.scan.is_reading for known in self._topics.values())

    def is_busy(self, now: float) -> bool:
        """Whether somebody is publishing who wants to know what came."""
        return now - self._active < ACTIVE or bool(self._waiting)

    def look(self, now: float) -> list[Lacking]:
        """Read on, take what waits, and ask for what lacks."""
        lacking: list[Lacking] = []
        for topic, known in self._topics.items():
            if not known.scan.is_reading or not self._is_read(topic, known):
                continue
            self._let_go(known, now)
            self._advance(topic, known, now)
            for publisher, followed in known.publishers.items():
                if now - followed.at < KEPT:
                    lacking += self._ask(topic, known, publisher, followed, now)
            if known.guarded is not None and now - known.guarded > GUARDED:
                known.guarded = None
                known.scan.memory.unguard()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._take(each, now)
        return lacking

    def _ask(
        self, topic: int, known: _Topic, publisher: int, followed: _Followed, now: float
    ) -> list[Lacking]:
        due = followed.seen.due(now)
        if not due:
            return []
        head = _HEAD.pack(LACKING, followed.client, topic, self._certain(known, followed))
        made: list[Lacking] = []
        allowed = self._allowance.left(publisher, now)
        credit = self._credit.get(publisher, 0)
        for at in range(0, len(due), RANGES):
            ranges = b""
            cost = IP_UDP_OVERHEAD + len(head) + _RANGE.size * len(due[at : at + RANGES])
            if credit < cost:
                break
            for gap in due[at : at + RANGES]:
                count = min(gap.end - gap.first, allowed, 0xFFFF)
                if count <= 0:
                    break
                allowed -= count
                self._allowance.take(publisher, count)
                ranges += _RANGE.pack(gap.first & _U32, count)
                followed.seen.asked(gap, count, now)
            if not ranges:
                break
            credit -= cost
            made.append(Lacking(publisher, head + ranges))
        if publisher in self._credit:
            self._credit[publisher] = credit
        return made

    # What comes again

    def again(self, datagram: bytes, ip: str, now: float) -> None:
        """An event that a publisher sends again, from this address."""
        payload = from_again(datagram)
        topic = self._registry.numbered(topic_in(payload)) if payload else None
        known = self._topics.get(topic.id) if topic is not None else None
        if topic is None or known is None or topic.framing is not Framing.EVENT:
            self.outcomes["of no such topic"] += 1
        elif check_payload(payload, topic.framing):
            self.outcomes["no event"] += 1
        elif self._refuses(topic.id, ip):
            self.outcomes["of a foreign source"] += 1
        else:
            self._take(_Again(topic.id, payload), now)

    def _take(self, again: _Again, now: float) -> None:
        """Forward an event if it is lacking still, once that is certain."""
        known = self._topics.get(again.topic)
        publisher, sequence = named(again.payload)
        followed = known.publishers.get(publisher) if known is not None else None
        if known is None or followed is None or not self._is_read(again.topic, known):
            self.outcomes["not asked for"] += 1
            return
        seen, memory = followed.seen, known.scan.memory
        number = seen.near(sequence)
        gap = seen.gap(number)
        if gap is None or not gap.tries:
            self.outcomes["came before" if seen.has(number) else "not asked for"] += 1
            return
        # In this order: whoever has not seen the guard has written before this reads on.
        memory.guard(publisher, sequence)
        known.guarded = now
        self._advance(again.topic, known, now)
        gap = seen.gap(number)
        if gap is None:
            self.outcomes["came before"] += 1
            return
        if not known.scan.is_settled or self._is_waiting(again.topic):
            again.looks += 1
            if again.looks <= LOOKS and len(self._waiting) < WAITING:
                self._waiting.append(again)
            else:
                self.outcomes["nobody could tell whether it came"] += 1
            return
        if max(known.scan.since, followed.since) > self._clock_ns() - int((now - gap.asked) * 1e9):
            self.outcomes["nobody could tell whether it came"] += 1
            return
        if self._forward(again.topic, again.payload):
            seen.came(sequence, 1, now)
            self._advance(again.topic, known, now)
            self._book(publisher, again.topic, 1, 0, now)
            self.outcomes["taken"] += 1
        else:
            self.outcomes["went nowhere"] += 1


def _size(number: object) -> int:
    """Bytes of a number in msgpack, at most; of a list, of what is in it."""
    if isinstance(number, list):
        return 3 + sum(map(_size, number))
    assert isinstance(number, int), "numbers only"
    return 1 if number < 128 else 3 if number < 1 << 16 else 5 if number < 1 << 32 else 9
