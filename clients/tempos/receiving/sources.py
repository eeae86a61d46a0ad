"""Whose events a member gets: what it can tell of each publisher's losses before the broker.

A publisher numbers its events on each topic from 0, the broker numbers what it hands to each member. A
number of the publisher's that is lacking is therefore an event that never reached the broker, if no
delivery to this member is lacking there that may have been it. Rules:

* that is told only where the member is alone in its group: others get the rest of what the group gets;
* of the numbers that are lacking, no more than there are deliveries missing were lost behind the broker; that
  makes an *at least* and an *at most*. Which of the two a single one was is not guessed: a network may have
  changed the order before the broker;
* late events, before the broker or behind it, take back what was counted;
* what is still on its way to the broker or from it counts as lost until it comes;
* what was lost before the first event and after the last one is known once the broker has said what the
  publisher says it has sent, and that it began after this member had joined;
* memory is bounded: :data:`FOLLOWED` publishers, :data:`KEPT_HOLES` holes of each. Datagrams of publishers
  beyond those are counted as not followed.

An event in order costs one look-up and one store (see ``Intake.receive``); everything else is here. Nothing
does I/O or reads a clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tempos.control import Heard
from tempos.delivery import Tally

#: Publishers that a member follows on a topic, and how many it looks at to find one it may forget.
FOLLOWED, LOOKED_AT = 1024, 8
#: Holes in its numbers that are remembered of a publisher.
KEPT_HOLES = 256

_U32 = 0xFFFFFFFF
_HALF = 0x80000000


@dataclass(frozen=True, slots=True)
class PublisherAccount:
    """What a subscriber can tell of one publisher on one topic.

    ``datagrams`` and ``events`` came here, each event counted once; ``first`` is the number of the first
    one that did, ``next`` the number after the last one, or after the last that the publisher says it has
    sent (both None where nothing came).

    ``at_least`` and ``at_most``: events that never reached a ticket of this subscriber's group: they were
    lost before the broker, or it refused them (see its ledger). ``at_most`` is None where it cannot be told:
    this subscriber shares its group, and others get the rest; the broker's ledger adds up.
    """

    topic: str
    publisher: int
    datagrams: int
    events: int
    first: int | None
    next: int | None
    at_least: int
    at_most: int | None

    @property
    def lost_before(self) -> int | None:
        """Events lost before the broker, where that is known exactly."""
        return self.at_least if self.at_least == self.at_most else None


class Said(NamedTuple):
    """What a publisher has told the broker: events numbered, of these never sent, datagrams, since when."""

    numbered: int
    unsent: int
    datagrams: int
    since: int

    @property
    def plain(self) -> bool:
        """Whether each of its datagrams held one event."""
        return self.datagrams == self.numbered - self.unsent


class Source:
    """One publisher on one topic.

    Positions count its numbers without wrapping, from the first event that came. ``expected`` is the next
    number as on the wire; ``base`` is how many deliveries had been found missing a while before its first
    event came, so that none of those was one of its own.
    """

    __slots__ = (
        "_laps",
        "_origin",
        "_start",
        "acknowledged",
        "base",
        "batched",
        "blurred",
        "expected",
        "floor",
        "holes",
        "lacking",
        "missing",
        "publisher",
        "turn",
    )

    def __init__(self, publisher: int, sequence: int, base: int) -> None:
        self.publisher = publisher
        self.expected = sequence
        self.base = base
        self._origin, self._start, self._laps = sequence, 0, 0
        # Numbers passed over: all of them, and those that nobody else can have got.
        self.lacking = self.missing = 0
        # Events more than datagrams.
        self.batched = 0
        # [start, end) of what is missing, ascending.
        self.holes: list[tuple[int, int]] = []
        #: The number expected when this member came to be alone; a hole there may be what others got.
        self.floor: int | None = None
        #: Up to which position numbers may be lacking without a hole, since others may have got them.
        self.blurred = 0
        self.acknowledged: Heard | None = None
        self.turn = 0

    @property
    def end(self) -> int:
        """The position of the next event."""
        return (self._laps << 32) + self.expected - self._origin

    @property
    def passed(self) -> int:
        """Numbers from the first event that came to the last."""
        return self.end - self._start

    @property
    def first(self) -> int:
        """The number of the first event that came."""
        return (self._origin + self._start) & _U32

    @property
    def events(self) -> int:
        return self.passed - self.lacking

    def advance(self, sequence: int, events: int) -> None:
        """Events with the expected number, or beyond it, have come."""
        if sequence < self.expected and self.expected - sequence > _HALF:
            self._laps += 1
        self.expected = sequence + events
        self.batched += events - 1

    def skip(self, count: int, *, apart: bool) -> None:
        """``count`` numbers are lacking; ``apart``: nobody else can have got them."""
        self.lacking += count
        if apart:
            self.missing += count
            self.holes.append((self.end, self.end + count))
            if len(self.holes) > KEPT_HOLES:
                del self.holes[0]
        else:
            self.blurred = self.end + count

    def late_in_group(self, back: int, events: int) -> None:
        """Take in events, the first ``back`` before the expected one, that may have been others'."""
        position = self.end - back
        if position < self._start:
            self.lacking += self._start - position
            self._start = position
        self.lacking -= events
        self.batched += events - 1

    def fill(self, back: int, events: int) -> bool:
        """Take events, the first ``back`` before the expected one, out of their holes; False: out of none."""
        position = self.end - back
        filled = sum(self._fill(each) for each in range(position, position + events))
        self.batched += max(0, filled - 1)
        return filled > 0

    def _fill(self, position: int) -> bool:
        if position < self._start:
            # It was overtaken by the first one that came.
            self.holes.insert(0, (position, self._start))
            self.lacking += self._start - position
            self.missing += self._start - position
            self._start = position
        index = bisect_right(self.holes, position, key=lambda hole: hole[0]) - 1
        if index < 0 or position >= self.holes[index][1]:
            # Passed over when it might have been others': it was on its way to this member after all.
            late = position < self.blurred and self.lacking > self.missing
            self.lacking -= late
            return late
        start, end = self.holes[index]
        rest = [(start, position), (position + 1, end)]
        self.holes[index : index + 1] = [hole for hole in rest if hole[0] < hole[1]]
        self.lacking -= 1
        self.missing -= 1
        return True


class Sources:
    """The publishers of one topic as one member hears them. ``own``: it is a group of its own."""

    __slots__ = (
        "_base",
        "_next_base",
        "_turn",
        "alone_in",
        "by_id",
        "heard",
        "joined",
        "own",
        "repeated",
        "said",
        "skips",
        "unfollowed",
    )

    def __init__(self, own: bool) -> None:
        self.own = own
        self.by_id: dict[int, Source] = {}
        #: Deliveries that were found missing so far; what came late is not taken off.
        self.skips = 0
        # The same at the last but one report and at the last: from the former on, deliveries of a publisher
        # that is heard for the first time may be missing.
        self._base = self._next_base = 0
        #: The epoch in which the broker says that this member is alone in its group.
        self.alone_in: int | None = None
        #: The broker's clock when it said that this is a member.
        self.joined: int | None = None
        #: What publishers have told the broker, and up to which version of it this member knows.
        self.said: dict[int, Said] = {}
        self.heard = 0
        #: Datagrams that came again by another ticket, and of publishers that are not followed.
        self.repeated = 0
        self.unfollowed = Tally()
        self._turn = 0

    def alone(self, epoch: int | None) -> bool:
        """Whether nobody else got events of the group in the epoch of the latest datagram."""
        return self.own or (epoch is not None and epoch == self.alone_in)

    def members(self, epoch: int, members: int) -> None:
        """The broker says how many members the group has in an epoch."""
        if members != 1:
            if epoch == self.alone_in:
                self.alone_in = None
        elif epoch != self.alone_in and not self.own:
            self.alone_in = epoch
            for source in self.by_id.values():
                source.floor = source.expected

    def follow(self, publisher: int, sequence: int, events: int, *, alone: bool) -> bool:
        """Account events whose number is not the one expected; whether all of them have come before."""
        source = self.by_id.get(publisher)
        if source is None:
            source = self._begin(publisher, sequence)
            if source is not None:
                source.advance(sequence, events)
            return False
        ahead = (sequence - source.expected) & _U32
        if ahead < _HALF:
            if ahead:
                source.skip(ahead, apart=alone and source.expected != source.floor)
            source.advance(sequence, events)
            return False
        back = _U32 + 1 - ahead
        if not alone:
            # Passed over when a later one came. Who counts deliveries has said that it is none of those here.
            source.late_in_group(back, events)
            return False
        if source.fill(back, events):
            return False
        self.repeated += 1
        return True

    def _begin(self, publisher: int, sequence: int) -> Source | None:
        by_id = self.by_id
        if len(by_id) >= FOLLOWED and not self._forget_one():
            self.unfollowed.datagrams += 1
            return None
        source = by_id[publisher] = Source(publisher, sequence, self._base)
        return source

    def _forget_one(self) -> bool:
        """Forget a publisher that has been quiet and all of which is told; False if none is found soon."""
        for _ in range(LOOKED_AT):
            publisher, source = next(iter(self.by_id.items()))
            del self.by_id[publisher]
            if source.acknowledged is not None and source.acknowledged == self._row(
                source, "", 0, source.acknowledged.lost
            ):
                self.said.pop(publisher, None)
                return True
            self.by_id[publisher] = source
        return False

    def new_broker(self) -> None:
        """The broker is another instance now, and knows nothing of what was."""
        self.by_id.clear()
        self.said.clear()
        self.heard = 0
        self.alone_in = None
        self.unfollowed.new_broker()

    def tell_again(self) -> None:
        """The broker began another life: it may have lost what it was told, and counts versions anew."""
        for source in self.by_id.values():
            source.acknowledged = None
        self.unfollowed.tell_again()
        self.heard = 0

    # What is told to the broker, and by it

    def news(self, group: str, topic: int, missed: int) -> Iterator[tuple[int, Heard]]:
        """Rows that the broker does not have, and when each was told last. ``missed``: as in accounts."""
        for source in self.by_id.values():
            row = self._row(source, group, topic, self._lost(source, missed))
            if source.acknowledged is None or row[2:] != source.acknowledged[2:]:
                yield source.turn, row

    def reported(self) -> None:
        """A report has been made."""
        self._base, self._next_base = self._next_base, self.skips

    def _lost(self, source: Source, missed: int) -> int:
        """Of the events lacking between the first and the last that came: lost before the broker at least."""
        said = self.said.get(source.publisher)
        behind = min(missed, self.skips - source.base)
        if behind and not (said is not None and said.plain and not source.batched):
            # A delivery may have held any number of them.
            return 0
        return max(0, source.missing - behind)

    def telling(self, publisher: int) -> None:
        """A publisher's row is on its way."""
        self._turn += 1
        source = self.by_id.get(publisher)
        if source is not None:
            source.turn = self._turn

    def acknowledge(self, row: Heard) -> None:
        """The broker has this row."""
        source = self.by_id.get(row.publisher)
        if source is not None:
            source.acknowledged = row._replace(topic=0, group="")

    def _row(self, source: Source, group: str, topic: int, lost: int) -> Heard:
        return Heard(
            topic, group, source.publisher, source.events - source.batched, source.events, source.first,
            source.passed, lost,
        )  # fmt: skip

    def tell(self, publisher: int, version: int, said: Said) -> None:
        """The broker says what a publisher says that it has sent."""
        self.heard = max(self.heard, version)
        if publisher in self.said or publisher in self.by_id or len(self.said) < FOLLOWED:
            self.said[publisher] = said

    def accounts(self, topic: str, missed: int, *, alone: bool, drained: bool) -> Iterator[PublisherAccount]:
        """What is known of each publisher. ``missed``: deliveries that have not come; ``alone``: now.

        ``drained``: the broker has said that every delivery of this membership has come.
        """
        for publisher in dict.fromkeys((*self.by_id, *self.said)):
            source, said = self.by_id.get(publisher), self.said.get(publisher)
            whole = self.own and said is not None and _not_before(said.since, self.joined)
            if source is not None:
                yield self._account(topic, source, said, whole, 0 if drained else missed, alone, drained)
            elif said is not None and whole and said.numbered > said.unsent:
                # None of its events has come.
                lost = said.numbered - said.unsent
                least = lost if drained else 0
                yield PublisherAccount(topic, publisher, 0, 0, None, None, least, lost)

    def _account(
        self,
        topic: str,
        source: Source,
        said: Said | None,
        whole: bool,
        missed: int,
        alone: bool,
        drained: bool,
    ) -> PublisherAccount:
        head = tail = unsent = 0
        if said is not None:
            unsent = said.unsent
            tail = (said.numbered - source.expected) & _U32
            tail = tail if alone and tail < _HALF and source.expected != source.floor else 0
            if whole and said.numbered <= _U32:
                head = source.first
        inside = source.missing + head
        least = self._lost(source, missed)
        if not missed or (said is not None and said.plain and not source.batched):
            # Those before the first may be missing since this is a member.
            least = max(least, inside - missed)
        # What was lost after the last one, nobody knows before a later delivery, or the end.
        least += tail if drained else 0
        most = max(0, inside + tail - (unsent if whole else 0))
        apart = alone and source.lacking == source.missing
        return PublisherAccount(
            topic, source.publisher, source.events - source.batched, source.events, source.first,
            source.first + source.passed + tail, max(0, min(least - unsent, most)), most if apart else None,
        )  # fmt: skip


def _not_before(since: int, joined: int | None) -> bool:
    """Whether a time of the broker's clock is not before another: both of the same life of it."""
    return joined is not None and since >> 48 == joined >> 48 and since >= joined
