"""What a slow path measures of each topic: bytes of payload, and how long its events took.

Rows of numbers in memory that another process may see, too; one process writes them. Where times are not
wanted a row has the bytes only. A row that nothing was counted in takes no memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from typing import NamedTuple

from tempos._abi import LATENCY_BEYOND, LATENCY_BUCKETS, LATENCY_STEP_BITS
from tempos._rows import Rows
from tempos.histogram import Histogram

#: In a row: bytes that arrived, and those that were handed to the groups; then, where they are wanted, times
#: inside and times since an event was sent. Each has its buckets, the longest, what is beyond, what is ahead.
ARRIVED, FORWARDED, INSIDE = 0, 1, 2
_TIMES = LATENCY_BUCKETS + 3
SINCE_SENT = INSIDE + _TIMES
_LONGEST, _BEYOND, _AHEAD = range(LATENCY_BUCKETS, _TIMES)


class Measured(NamedTuple):
    """Of one topic, on the slow path; empty where times are not measured.

    ``inside``: from taking an event out of its socket to when its last copy left. ``since_sent``: from the
    send time in the event to then.
    """

    arrived: int
    forwarded: int
    inside: Histogram
    since_sent: Histogram


def width(*, timed: bool) -> int:
    """Numbers in a row."""
    return SINCE_SENT + _TIMES if timed else INSIDE


class Measures:
    """The rows of all topics. ``timed``: times, too.

    ``memory``: where they lie, if that is this object's own; else ``pointer`` is the compiled helper's.
    """

    def __init__(
        self, rows: Rows, *, timed: bool, numbers: memoryview | None = None, pointer: object = None
    ) -> None:
        """``numbers``: where the rows lie, and the compiled helper's pointer there; None: in own memory."""
        self.timed = timed
        self._width = width(timed=timed)
        self._rows = rows
        self.pointer = pointer
        self.memory: mmap.mmap | None = None
        if numbers is None:
            self.memory = _zeros(rows.count * self._width * 8)
            numbers = memoryview(self.memory).cast("Q")
        self.numbers = numbers

    def at(self, topic: int) -> int | None:
        """Which of the numbers is the first of a topic; None: it has no row."""
        row = self._rows.of.get(topic)
        return None if row is None else row * self._width

    def forget(self, topic: int) -> None:
        """What was measured under this id is another topic's."""
        if (at := self.at(topic)) is not None and any(self.numbers[at : at + INSIDE]):
            self.numbers[at : at + self._width] = memoryview(bytes(self._width * 8)).cast("Q")

    def add(self, topic: int, *, arrived: int = 0, forwarded: int = 0) -> None:
        """So many bytes of payload came, or were handed to the groups."""
        if (at := self.at(topic)) is not None:
            self.numbers[at + ARRIVED] += arrived
            self.numbers[at + FORWARDED] += forwarded

    def gone(self, topic: int, inside_ns: int, since_sent_ns: int | None) -> None:
        """The last copy of an event has left. ``since_sent_ns``: None where the event does not tell."""
        if self.timed and (at := self.at(topic)) is not None:
            self._note(at + INSIDE, inside_ns)
            if since_sent_ns is not None:
                self._note(at + SINCE_SENT, since_sent_ns)

    def of(self, topic: int) -> Measured | None:
        """What was measured of a topic; None where nothing came."""
        at = self.at(topic)
        if at is None or not any(self.numbers[at : at + INSIDE]):
            return None
        row = self.numbers[at : at + self._width].tolist()
        return Measured(row[ARRIVED], row[FORWARDED], _histogram(row, INSIDE), _histogram(row, SINCE_SENT))

    def _note(self, at: int, ns: int) -> None:
        if ns < 0:
            self.numbers[at + _AHEAD] += 1
        elif ns >= LATENCY_BEYOND:
            self.numbers[at + _BEYOND] += 1
        else:
            shift = max(0, ns.bit_length() - LATENCY_STEP_BITS - 1)
            self.numbers[at + (shift << LATENCY_STEP_BITS) + (ns >> shift)] += 1
            self.numbers[at + _LONGEST] = max(self.numbers[at + _LONGEST], ns)


def _zeros(size: int) -> mmap.mmap:
    """Memory that takes none where nothing was written, also if it is read."""
    private = getattr(mmap, "MAP_PRIVATE", None)
    return mmap.mmap(-1, size) if private is None else mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)


def together(parts: Collection[Measured | None]) -> Measured | None:
    """What several processes measured of one topic, as one."""
    known = [each for each in parts if each is not None]
    if len(known) < 2:
        return known[0] if known else None
    return Measured(
        sum(each.arrived for each in known),
        sum(each.forwarded for each in known),
        _sum([each.inside for each in known]),
        _sum([each.since_sent for each in known]),
    )


def _histogram(row: list[int], at: int) -> Histogram:
    if at >= len(row):
        return Histogram((0,) * LATENCY_BUCKETS)
    end = at + LATENCY_BUCKETS
    return Histogram(tuple(row[at:end]), *row[end : end + 3])


def _sum(parts: list[Histogram]) -> Histogram:
    return Histogram(
        tuple(map(sum, zip(*(each.buckets for each in parts), strict=True))),
        max(each.longest for each in parts),
        sum(each.beyond for each in parts),
        sum(each.ahead for each in parts),
    )
