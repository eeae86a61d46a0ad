"""What the kernel knows of topics whatever their routes: class, rate, and the token bucket both paths use.

It lies in memory that the programs and this process share; fastpath/bpf/limit.h tells how a bucket works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempos import LocalError, Overflow, Quality, Topic
from tempos._rows import Rows
from tempos_bpf.maps import SharedArray
from tempos_fastpath.layout import OVERFLOWS, QUALITIES, TOPIC_SIZE
from tempos_fastpath.pulse import time_namespace_offset
from tempos_fastpath.structs import ffi, lib


class SharedTopics:
    """One entry per topic. What an earlier broker left stays in force until :meth:`configure`."""

    #: Bytes from one topic's entry to the next.
    stride = TOPIC_SIZE

    def __init__(self, array: SharedArray, rows: Rows) -> None:
        """``rows``: where topics stand in it."""
        self._array = array
        self._row_of = rows.of
        #: What each row says, where it is known; an earlier broker may have said something of any.
        self._said: dict[int, Topic | None] = {}
        self._rows = range(array.size // TOPIC_SIZE)
        self._topics: Any = ffi.from_buffer("struct tempos_topic[]", array.memory, require_writable=True)
        #: ns that this process sees CLOCK_MONOTONIC ahead of the kernel's own.
        self.clock_offset = time_namespace_offset()
        self._limited: set[int] = set()

    @property
    def descriptor(self) -> int:
        """Whose memory it is, for another process."""
        return self._array.descriptor

    def configure(self, topics: Sequence[Topic]) -> None:
        """Go by these topics from now on; there are no others. A bucket whose limit changes begins full."""
        known = {self._row_of[topic.id]: topic for topic in topics}
        for row in list(known.keys() | self._said.keys()) if self._said else self._rows:
            self._say(row, known.get(row))
        self._limited = {topic.id for topic in topics if topic.rate and topic.overflow is Overflow.DROP}

    def put(self, topic: Topic) -> None:
        """The same of one topic; all others as they are."""
        self._say(self._row_of[topic.id], topic)
        limited = topic.rate and topic.overflow is Overflow.DROP
        (self._limited.add if limited else self._limited.discard)(topic.id)

    def drop(self, topic: int) -> None:
        """A topic is no more; it has its row still."""
        self._say(self._row_of[topic], None)
        self._limited.discard(topic)

    def _say(self, row: int, topic: Topic | None) -> None:
        if row in self._said and self._said[row] == topic:
            return
        lib.tempos_topic_set(
            self._at(row),
            QUALITIES[topic.quality if topic else Quality.BQ],
            OVERFLOWS[topic.overflow if topic else Overflow.DROP],
            topic.rate if topic else 0,
            topic.bucket if topic else 0,
        )
        self._said[row] = topic

    def take(self, topic: int, count: int) -> int:
        """How many of ``count`` datagrams that came now may go on: the others are over the topic's rate.

        The rate of a topic whose overflow is ``pass`` is the fast path's alone: here all are taken.
        """
        if topic not in self._limited:
            return count
        return int(lib.tempos_limit_take(self._at(self._row_of[topic]), self.clock_offset, count))

    def close(self) -> None:
        """Safe to call twice."""
        if self._topics is not None:
            ffi.release(self._topics)
            self._topics = None
        self._array.close()

    def _at(self, row: int) -> Any:
        if self._topics is None:
            raise LocalError("the table of topics is closed")
        return ffi.addressof(self._topics, row)
