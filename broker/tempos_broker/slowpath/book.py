"""Where a core writes its account: rows of plain numbers, in lists or in memory that two processes share.

A book in shared memory has one writer, the process whose core it is. Another one may read it at any
time, and what is written stays when the writer is killed: each number is one aligned store.

Rules: what arrived is written before what became of it, so it is never the smaller one; a number
never goes down, but the copies lost of an epoch, which begin anew with the next epoch of its parity. A
topic of which nothing was counted takes no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableSequence
from typing import Protocol, cast

from tempos import Reason
from tempos._rows import UNKNOWN, Rows
from tempos._slots import TICKETS, group_slot, slots, ticket_of

#: Reasons that count losses beside the datagrams received; all others sum up to them.
BESIDE = frozenset({Reason.SEND_ERROR, Reason.SOCKET_OVERRUN})

#: In a row of counts, behind the reasons: what arrived.
ARRIVED = len(Reason)
#: As they stand in a row: going through an enumeration itself takes longer than all that is counted.
_REASONS = tuple(Reason)
_WIDTH = ARRIVED + 1


class Numbers(Protocol):
    """The counts of all topics by id: ``counts[topic][reason]``, in datagrams, and ``[ARRIVED]``."""

    def __getitem__(self, topic: int, /) -> MutableSequence[int]: ...


class Book:
    """The account of one core, in its own memory. Row 0 has what had no topic."""

    def __init__(self) -> None:
        self.counts: Numbers = _Lists()
        self._lost: dict[int, int] = {}

    @property
    def received(self) -> int:
        """Datagrams that arrived, whatever became of them."""
        return sum(row[ARRIVED] for row in self.rows().values())

    def rows(self) -> Mapping[int, MutableSequence[int]]:
        """The rows of topics of which anything may have been counted, by id."""
        return cast("_Lists", self.counts)

    def rows_of(self, topics: Collection[int]) -> Mapping[int, MutableSequence[int]]:
        """Those of these topics."""
        known = self.rows()
        return {topic: known[topic] for topic in topics if topic in known}

    def lose(self, topic: int, epoch: int, group: int, count: int) -> None:
        """``count`` copies for a group are lost; the epoch may be its low byte."""
        slot = group_slot(topic, epoch, ticket_of(group))
        self._lost[slot] = self._lost.get(slot, 0) + count

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Copies for a group that were lost, of the two latest epochs; once of those that share a number."""
        return 0 if group >= TICKETS else self._lost.get(group_slot(topic, epoch, group), 0)

    def begin(self, topic: int, epoch: int) -> None:
        """An epoch begins: of it nothing is lost."""
        if self._lost:
            for group in range(TICKETS):
                self._lost.pop(group_slot(topic, epoch, group), None)

    def settled(self, topic: int) -> int:
        """Datagrams of a topic of which it is decided what becomes: all that arrived but those that wait."""
        row = self.counts[topic]
        return sum(row[:ARRIVED]) - sum(row[reason] for reason in BESIDE)

    def taken(self, topic: int) -> int:
        """Datagrams of a topic that arrived, whatever became of them."""
        return self.counts[topic][ARRIVED]

    def counters(self, topics: Collection[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Everything counted since the start, by topic and reason, or of these; zeros are left out."""
        rows = self.rows() if topics is None else self.rows_of(topics)
        return {
            topic: {reason: count for reason, count in zip(_REASONS, row, strict=False) if count}
            for topic, row in rows.items()
            # Nothing becomes of what never arrived; only row 0 counts what was lost before.
            if (row[ARRIVED] or not topic) and any(row[:ARRIVED])
        }


class SharedBook(Book):
    """The same in memory that others see, too: topics stand by their ``rows`` there."""

    @staticmethod
    def size(rows: int) -> int:
        """How many u64s it takes for so many rows."""
        return rows * _WIDTH + slots(rows)

    def __init__(self, numbers: memoryview, rows: Rows) -> None:
        """``numbers``: as many u64s as :meth:`size` says."""
        self._rows = rows
        self._numbers = numbers
        self.counts = _Views(numbers, rows)
        self._losses = numbers[rows.count * _WIDTH : self.size(rows.count)]

    def rows(self) -> Mapping[int, MutableSequence[int]]:
        arrived = {topic: self._numbers[row * _WIDTH + ARRIVED] for topic, row in self._rows.of.items()}
        return {topic: self.counts[topic] for topic, count in arrived.items() if count or not topic}

    def rows_of(self, topics: Collection[int]) -> Mapping[int, MutableSequence[int]]:
        return {topic: self.counts[topic] for topic in topics if topic in self._rows.of}

    def lose(self, topic: int, epoch: int, group: int, count: int) -> None:
        self._losses[group_slot(self._rows.of[topic], epoch, ticket_of(group))] += count

    def lost(self, topic: int, epoch: int, group: int) -> int:
        row = self._rows.of.get(topic)
        return 0 if row is None or group >= TICKETS else self._losses[group_slot(row, epoch, group)]

    def begin(self, topic: int, epoch: int) -> None:
        first = group_slot(self._rows.of[topic], epoch, 0)
        for slot in range(first, first + TICKETS):
            self._losses[slot] = 0

    def number(self, topic: int, reason: int) -> int:
        """Which of the shared numbers is ``counts[topic][reason]``."""
        return self._rows.of[topic] * _WIDTH + reason


class _Lists(dict[int, MutableSequence[int]]):
    """Rows that are made when something is counted; lists are what Python counts fastest in."""

    def __missing__(self, topic: int) -> MutableSequence[int]:
        row: MutableSequence[int] = [0] * _WIDTH
        self[topic] = row
        return row


class _Views:
    """Rows of shared numbers, each made once."""

    def __init__(self, numbers: memoryview, rows: Rows) -> None:
        self._numbers = numbers
        self._rows = rows
        self._known: dict[int, MutableSequence[int]] = {}

    def __getitem__(self, topic: int) -> MutableSequence[int]:
        row = self._rows.of.get(topic, UNKNOWN)
        view = self._known.get(row)
        if view is None:
            at = row * _WIDTH
            view = self._known[row] = cast("MutableSequence[int]", self._numbers[at : at + _WIDTH])
        return view
