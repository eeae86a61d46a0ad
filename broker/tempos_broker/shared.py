"""Numbers in memory that several processes use at once: ticket counters, and what a worker leaves behind.

A *descriptor* is what makes memory one: a file, a BPF map or anonymous memory, inherited by the process
that is to see the same. Additions are atomic, against the kernel's program, too. Needs the compiled helper;
importing this without it raises :class:`ImportError`.

Rule: who shares numbers says how far apart they lie (``stride``), so that nobody else need know their origin.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tempos import LocalError, Overflow, Quality, Reason, Topic
from tempos._rows import Rows
from tempos._slots import NUMBERS, TICKETS, group_slot, slots
from tempos_broker._batch import ffi, lib
from tempos_broker.config.layout import MAX_BATCH
from tempos_broker.slowpath.book import ARRIVED, BESIDE, SharedBook
from tempos_broker.slowpath.measures import Measures, width

if TYPE_CHECKING:
    from tempos_broker._batch import CNote, CNumbers, CReceipts, CTopic
    from tempos_broker.paths import Tickets

_WORD = 8
_FORWARDED = int(Reason.FORWARDED)


@runtime_checkable
class Shareable(Protocol):
    """Counters that another process can have, too: bytes between two of them, and whose memory it is."""

    @property
    def descriptor(self) -> int: ...

    @property
    def stride(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Share:
    """What a process hands to another, so that it draws and takes from the same. Of descriptors, -1: none.

    ``counts``: what the slow path's draws are counted in. ``rates``: the topics with their token buckets;
    ``clock_offset``: ns that CLOCK_MONOTONIC, as these processes see it, is ahead of the kernel's own.
    """

    tickets: int
    tickets_stride: int
    counts: int = -1
    counts_stride: int = _WORD
    rates: int = -1
    rates_stride: int = 0
    clock_offset: int = 0


class SharedNumbers:
    """``count`` numbers of 64 bits in the memory behind a descriptor, ``stride`` bytes apart."""

    def __init__(self, descriptor: int, count: int, stride: int = _WORD) -> None:
        """Raises :class:`OSError` if the memory cannot be had."""
        size = -(-count * stride // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._base: CNumbers | None = ffi.from_buffer("uint64_t[]", self._memory, require_writable=True)
        self._step = stride // _WORD
        self._count = count

    def add(self, index: int, count: int) -> int:
        """Add ``count``; gives the number before."""
        return lib.tempos_shared_add(self.at(index), count)

    def load(self, index: int) -> int:
        return lib.tempos_shared_load(self.at(index))

    def store(self, index: int, value: int) -> None:
        lib.tempos_shared_store(self.at(index), value)

    def view(self) -> memoryview:
        """All of it as numbers, for as long as anybody holds it."""
        return memoryview(self._memory).cast("Q")

    def at(self, index: int) -> CNumbers:
        """Where a number is, for other functions of the helper."""
        if self._base is None or not 0 <= index < self._count:
            raise LocalError(f"number {index} of {self._count} that are shared, or they are closed")
        return self._base + index * self._step

    def close(self) -> None:
        """Let go of the memory; safe to call twice."""
        if self._base is not None:
            ffi.release(self._base)
            self._base = None
            self._memory.close()


def anonymous(name: str, size: int) -> int:
    """The descriptor of new memory that only those have to whom it is handed; the caller closes it."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return descriptor


class Estate:
    """What a worker writes as it goes and leaves when it dies: a note of its run, receipts, accounts."""

    _RECEIPTS = 8
    _BOOK = _RECEIPTS + -(-lib.tempos_receipts_size(MAX_BATCH) // _WORD)

    @classmethod
    def size(cls, rows: Rows, *, timed: bool) -> int:
        """Bytes of all of it."""
        return (cls._measures(rows) + rows.count * width(timed=timed)) * _WORD

    @classmethod
    def _measures(cls, rows: Rows) -> int:
        return cls._BOOK + SharedBook.size(rows.count)

    def __init__(self, descriptor: int, rows: Rows, *, timed: bool) -> None:
        """``rows``: where the topics stand in it. ``timed``: times are measured, too."""
        count, measures = self.size(rows, timed=timed) // _WORD, self._measures(rows)
        self._numbers = SharedNumbers(descriptor, count)
        self.book = SharedBook(self._numbers.view()[self._BOOK : measures], rows)
        self.measures = Measures(
            rows,
            timed=timed,
            numbers=self._numbers.view()[measures:count],
            pointer=self._numbers.at(measures),
        )
        self.note: CNote = ffi.cast("struct tempos_note *", self._numbers.at(0))
        self.receipts: CReceipts = ffi.cast("struct tempos_receipts *", self._numbers.at(self._RECEIPTS))

    def forwarded_at(self, topic: int) -> CNumbers:
        """Where the topic's count of forwarded datagrams is."""
        return self._numbers.at(self._BOOK + self.book.number(topic, _FORWARDED))

    def held(self) -> dict[int, int]:
        """By topic, the datagrams that have arrived and of which nothing has become yet."""
        # What became of them first: whoever writes meanwhile counts the arrival first.
        booked = {
            topic: sum(count for reason, count in enumerate(row[:ARRIVED]) if reason not in BESIDE)
            for topic, row in self.book.rows().items()
        }
        return {topic: self.book.counts[topic][ARRIVED] - done for topic, done in booked.items()}

    def begin(self) -> None:
        """Make ready for a new writer: everything taken so far is in the book."""
        self.note.drawn = 0
        lib.tempos_receipts_begin(self.receipts, MAX_BATCH, self.book.received)

    def unbooked(self) -> int:
        """Datagrams that the dead writer had taken out of a socket, and that are not in its book yet."""
        return max(0, lib.tempos_receipts_taken(self.receipts, MAX_BATCH) - self.book.received)

    def unfinished(self) -> int:
        """Datagrams of the run that the writer has noted and not counted as forwarded."""
        if not self.note.stage:
            return 0
        return max(0, self.note.target - self.book.counts[self.note.topic][_FORWARDED])

    def unsent(self) -> int:
        """Copies of forwarded runs that the dead writer had not seen sent: at most so many are lost."""
        note = self.note
        begun = note.count * max(0, note.stage - 2) if self.unfinished() else 0
        return max(0, note.drawn - begun - lib.tempos_receipts_gone(self.receipts))


class NotedTickets:
    """The tickets of a worker: from the same counters as everybody's, each run noted before it is drawn."""

    def __init__(self, share: Share, estate: Estate, rows: Rows) -> None:
        """Raises :class:`OSError` if the memory cannot be had."""
        count = slots(rows.count)
        self._tickets = SharedNumbers(share.tickets, count, share.tickets_stride)
        self._counts = SharedNumbers(share.counts, count, share.counts_stride) if share.counts >= 0 else None
        self._estate = estate
        self._rows = rows
        #: By row, where it is counted what is forwarded, and what is drawn.
        self._counters: dict[int, tuple[CNumbers, CNumbers]] = {}

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        row = self._rows.of[topic]
        forwarded, counted = self._counters.get(row) or self._find(topic, row)
        return lib.tempos_shared_draw(
            self._estate.note,
            forwarded,
            counted,
            self._tickets.at(group_slot(row, epoch, group)),
            topic,
            epoch & 0xFFFFFFFF,
            group,
            count,
            groups,
        )

    def read(self, topic: int, epoch: int, group: int) -> int:
        return self._tickets.load(group_slot(self._rows.of[topic], epoch, group))

    def reset(self, topic: int, epoch: int) -> None:
        for group in range(NUMBERS):
            self._tickets.store(group_slot(self._rows.of[topic], epoch, group), 0)

    def _find(self, topic: int, row: int) -> tuple[CNumbers, CNumbers]:
        counted = ffi.NULL if self._counts is None else self._counts.at(group_slot(row, 0, 0))
        found = self._counters[row] = self._estate.forwarded_at(topic), counted
        return found


class SharedRates:
    """The token buckets of topics in memory that several processes, and the kernel's program, take from."""

    #: Bytes from one topic to the next, where this process makes the memory.
    stride = ffi.sizeof("struct tempos_topic")

    def __init__(self, descriptor: int, rows: Rows, stride: int = stride, clock_offset: int = 0) -> None:
        """Raises :class:`OSError` if the memory cannot be had."""
        self.descriptor = descriptor
        self.clock_offset = clock_offset
        self._rows = rows
        self._numbers = SharedNumbers(descriptor, rows.count, stride)
        #: What each row says, where it says anything.
        self._set: dict[int, Topic] = {}
        self._limited: set[int] = set()

    @classmethod
    def size(cls, rows: Rows) -> int:
        """Bytes of all of them."""
        return rows.count * cls.stride

    def configure(self, topics: Sequence[Topic]) -> None:
        """Go by the rates of these topics from now on. A bucket whose rate or burst changes begins full."""
        known = {self._rows.of[topic.id]: topic for topic in topics}
        for row in self._set.keys() - known.keys():
            lib.tempos_topic_set(self._at(row), lib.TEMPOS_BQ, lib.TEMPOS_OVERFLOW_DROP, 0, 0)
        for row, topic in known.items():
            self._say(row, topic)
        self._set = known
        self._limited.clear()
        self.follow(topics)

    def put(self, topic: Topic) -> None:
        """The same of one topic; all others as they are."""
        row = self._rows.of[topic.id]
        self._say(row, topic)
        self._set[row] = topic
        self.follow([topic])

    def drop(self, topic: int) -> None:
        """A topic is no more; it has its row still."""
        row = self._rows.of[topic]
        if self._set.pop(row, None) is not None:
            lib.tempos_topic_set(self._at(row), lib.TEMPOS_BQ, lib.TEMPOS_OVERFLOW_DROP, 0, 0)
        self._limited.discard(topic)

    def _say(self, row: int, topic: Topic) -> None:
        if self._set.get(row) != topic:
            lib.tempos_topic_set(
                self._at(row),
                lib.TEMPOS_SQ if topic.quality is Quality.SQ else lib.TEMPOS_BQ,
                lib.TEMPOS_OVERFLOW_DROP if topic.overflow is Overflow.DROP else lib.TEMPOS_OVERFLOW_PASS,
                topic.rate,
                topic.bucket,
            )

    def follow(self, put: Iterable[Topic], drop: Iterable[int] = ()) -> None:
        """Another process has dropped some topics, and put others; all else is as it is."""
        self._limited.difference_update(drop)
        for topic in put:
            limited = topic.rate and topic.overflow is Overflow.DROP
            (self._limited.add if limited else self._limited.discard)(topic.id)

    def take(self, topic: int, count: int) -> int:
        """How many of ``count`` datagrams that came now may go on: the others are over the topic's rate."""
        if topic not in self._limited:
            return count
        return lib.tempos_limit_take(self._at(self._rows.of[topic]), self.clock_offset, count)

    def _at(self, row: int) -> CTopic:
        topic: CTopic = ffi.cast("struct tempos_topic *", self._numbers.at(row))
        return topic


def finish_run(
    estate: Estate, tickets: Tickets, uncounted: Tickets, groups: Callable[[int, int], int]
) -> int:
    """Draw what the dead writer of an estate had begun to draw; gives how many datagrams that concerned.

    So every group of the epoch has drawn as many tickets, and as many events count as forwarded: they are in
    the ledger as ticketed, and as lost once it is clear that they reached nobody. ``tickets`` counts what is
    drawn (where anybody does), ``uncounted`` does not; ``groups``: how many a topic has in an epoch.
    """
    count = estate.unfinished()
    if not count:
        return 0
    note = estate.note
    topic, epoch, stage = note.topic, note.epoch, note.stage
    for group in range(max(0, stage - 2), min(groups(topic, epoch), TICKETS)):
        (tickets if stage == 1 and not group else uncounted).draw(topic, epoch, group, count)
    estate.book.counts[topic][_FORWARDED] += count
    return count


def write_off(estate: Estate) -> int:
    """Count what the dead writer had taken and not yet handed to a group; gives how many datagrams.

    What it had not even looked at is of no topic.
    """
    estate.book.counts[0][ARRIVED] += estate.unbooked()
    estate.begin()
    held = estate.held()
    for topic, count in held.items():
        estate.book.counts[topic][Reason.WORKER_LOST] += count
    return sum(held.values())
