"""What the kernel knows of topics whatever their routes: class, rate, and the token bucket both paths use.

It lies in memory that the programs and this process share; fastpath/bpf/limit.h tells how a bucket works.
"""

from __future__ import annotations

from collections.abc import Sequence

from tempos import Overflow, Quality, Topic, _abi
from tempos_fastpath.layout import OVERFLOWS, QUALITIES, TOPIC_SIZE
from tempos_fastpath.maps import SharedArray
from tempos_fastpath.pulse import time_namespace_offset


class SharedTopics:
    """One entry per topic. What an earlier broker left stays in force until :meth:`configure`."""

    #: Bytes from one topic's entry to the next.
    stride = TOPIC_SIZE

    def __init__(self, array: SharedArray) -> None:
        self._array = array
        #: ns that this process sees CLOCK_MONOTONIC ahead of the kernel's own.
        self.clock_offset = time_namespace_offset()
        self._limited: frozenset[int] = frozenset()

    @property
    def descriptor(self) -> int:
        """Whose memory it is, for another process."""
        return self._array.descriptor

    def configure(self, topics: Sequence[Topic]) -> None:
        """Go by these topics from now on; there are no others. A bucket whose limit changes begins full."""
        known = {topic.id: topic for topic in topics}
        for number in range(_abi.TOPICS):
            topic = known.get(number)
            self._array.set_topic(
                number * TOPIC_SIZE,
                quality=QUALITIES[topic.quality if topic else Quality.BQ],
                overflow=OVERFLOWS[topic.overflow if topic else Overflow.DROP],
                rate=topic.rate if topic else 0,
                burst=topic.bucket if topic else 0,
            )
        self._limited = frozenset(
            topic.id for topic in topics if topic.rate and topic.overflow is Overflow.DROP
        )

    def take(self, topic: int, count: int) -> int:
        """How many of ``count`` datagrams that came now may go on: the others are over the topic's rate.

        The rate of a topic whose overflow is ``pass`` is the fast path's alone: here all are taken.
        """
        if topic not in self._limited:
            return count
        return self._array.take(topic * TOPIC_SIZE, count, clock_offset=self.clock_offset)

    def close(self) -> None:
        self._array.close()
