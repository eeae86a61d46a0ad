"""Lots: what one member that is gone is owed, in its order, for another member of its group. Values, no I/O.

A lot is handed out to one member at a time, by numbers that no other event of the topic has: ``base`` is that
of the first. If that member goes, too, what it has not processed is handed out to another one, as it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from tempos.redelivery.spans import Spans


class Piece(NamedTuple):
    """Deliveries [begin, end) of the member at ``place`` of ``members``, in a group of an epoch.

    ``first``: where the epoch begins in the journal.
    """

    epoch: int
    first: int
    group: int
    place: int
    members: int
    begin: int
    end: int


class Event(NamedTuple):
    """Which event it is: a ticket of a group in an epoch, which begins at ``first``."""

    epoch: int
    first: int
    group: int
    ticket: int


class Kept:
    """Payloads of events of a lot, or of a member's deliveries, by their place, that the journal may lose."""

    #: Bytes that an event takes beside its payload.
    EACH = 128

    __slots__ = ("_payloads", "looked", "size")

    def __init__(self) -> None:
        self._payloads: dict[int, bytes] = {}
        #: Up to where was looked at what the journal has.
        self.looked = 0
        #: Bytes that they take.
        self.size = 0

    def __len__(self) -> int:
        return len(self._payloads)

    def put(self, index: int, payload: bytes) -> int:
        """Keep one that is not kept yet; the bytes that it takes."""
        self._payloads[index] = payload
        self.size += len(payload) + self.EACH
        return len(payload) + self.EACH

    def get(self, index: int) -> bytes | None:
        """One of them; None: it is not here."""
        return self._payloads.get(index)

    def forget(self, begin: int, end: int) -> None:
        """Those from ``begin`` on, before ``end``, are of no use any more."""
        for index in self.within(begin, end):
            self.take(index)

    def take(self, index: int) -> bytes:
        """Let go of one that is here."""
        payload = self._payloads.pop(index)
        self.size -= len(payload) + self.EACH
        return payload

    def within(self, begin: int, end: int) -> Sequence[int]:
        """The places from ``begin`` on, before ``end``, that are here."""
        if end - begin < len(self._payloads):
            return [index for index in range(begin, end) if index in self._payloads]
        return [index for index in self._payloads if begin <= index < end]


@dataclass(slots=True)
class Lot:
    """``taker``: the client that has it; None: nobody. ``done``: so many are processed, or not to be had."""

    base: int
    group: str
    pieces: Sequence[Piece]
    taker: int | None = None
    done: int = 0
    #: Those that were not to be had.
    gone: Spans = field(default_factory=Spans)
    #: Those that were copied out of the journal.
    aside: Kept = field(default_factory=Kept)
    _ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(piece.end - piece.begin for piece in self.pieces))

    @property
    def size(self) -> int:
        """How many events there are in all."""
        return self._ends[-1] if self._ends else 0

    @property
    def left(self) -> int:
        """How many of them are not done with."""
        return self.size - self.done

    def __getitem__(self, index: int) -> Event:
        at = bisect_right(self._ends, index)
        piece = self.pieces[at]
        sequence = piece.begin + index - (self._ends[at - 1] if at else 0)
        return Event(piece.epoch, piece.first, piece.group, sequence * piece.members + piece.place)

    def events(self, index: int, end: int) -> Iterator[Event]:
        """Those from ``index`` on, before ``end``."""
        at = bisect_right(self._ends, index)
        while index < end:
            piece, begin = self.pieces[at], self._ends[at - 1] if at else 0
            stop = min(self._ends[at], end)
            sequence = piece.begin + index - begin
            for ticket in range(
                sequence * piece.members + piece.place,
                (sequence + stop - index) * piece.members + piece.place,
                piece.members,
            ):
                yield Event(piece.epoch, piece.first, piece.group, ticket)
            index, at = stop, at + 1

    def finish(self, done: int) -> tuple[int, int]:
        """So many are done with: how many more were processed, and were not to be had."""
        done = min(done, self.size)
        if done <= self.done:
            return 0, 0
        gone = self.gone.count(self.done, done)
        processed = done - self.done - gone
        self.aside.forget(self.done, done)
        self.done = done
        return processed, gone

    def export(self) -> list[Any]:
        """As JSON values."""
        return [self.base, self.group, self.pieces, self.taker, self.done, self.gone.all]

    @classmethod
    def load(cls, stored: Any) -> Lot:
        """The same again; raises KeyError, TypeError or ValueError for what is none."""
        base, group, pieces, taker, done, gone = stored
        lot = cls(
            int(base), str(group), [Piece(*map(int, piece)) for piece in pieces],
            None if taker is None else int(taker), int(done),
            Spans((int(first), int(end)) for first, end in gone),
        )  # fmt: skip
        if not 0 <= lot.done <= lot.size:
            raise ValueError("a lot of which more is done with than there is")
        return lot
