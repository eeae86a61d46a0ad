"""Which row of every table is a topic's: dense, so that tables grow with the topics there are, not with ids.

A narrow topic's row is its id. A wide one is given the lowest that is free from 256 on when it is made, and
gives it back when it is gone; the tables in the kernel, in files and in shared memory all go by the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

from tempos._abi import NARROW, TOPIC_MAX, TOPIC_MIN, WIDE, WIDE_IDS
from tempos.errors import LocalError

#: The row of what has a wide id that no topic has.
UNKNOWN = WIDE
#: Topics that a broker holds at most, if nothing else is said.
TOPICS = 1024
#: The ids that a topic can have, for people.
IDS = f"{TOPIC_MIN}-{WIDE - 1} and {NARROW}-{TOPIC_MAX}"


def is_topic(id_: int) -> bool:
    """Whether a topic can have this id."""
    return TOPIC_MIN <= id_ <= TOPIC_MAX and id_ != WIDE


class NoRow(LocalError):
    """There is no room for one more topic, or none at this place."""


class Rows:
    """The rows of the topics that there are. ``topics``: how many there may be, narrow ones included."""

    def __init__(self, topics: int = TOPICS) -> None:
        self.topics = topics
        #: Rows that every table has.
        self.count = NARROW + min(topics, WIDE_IDS)
        #: The row of each id that has one, narrow ids always; read it, change it by the methods below.
        self.of: dict[int, int] = {id_: id_ for id_ in range(NARROW)}
        self._given: set[int] = set()
        self._back: list[int] = []
        self._next = NARROW

    def __len__(self) -> int:
        """How many topics there are."""
        return len(self._given)

    def __contains__(self, topic: object) -> bool:
        """Whether there is a topic with this id."""
        return topic in self._given

    def given(self) -> dict[int, int]:
        """The row of each topic that there is."""
        return {topic: self.of[topic] for topic in self._given}

    def give(self, topic: int, row: int | None = None) -> int:
        """The row of a topic that is made, or that has one already.

        ``row``: the one that it had in a former life. Raises :class:`NoRow` where there are as many topics as
        may be, or the row is not to be had.
        """
        if not is_topic(topic):
            raise LocalError(f"topic id {topic} is not in {IDS}")
        if topic in self._given:
            known = self.of[topic]
            if row is not None and row != known:
                raise NoRow(f"topic {topic} has row {known}, not {row}")
            return known
        if len(self._given) >= self.topics:
            raise NoRow(f"there are {self.topics} topics already, as many as limits.topics allows")
        if topic < NARROW:
            if row not in (None, topic):
                raise NoRow(f"the row of topic {topic} is its id, not {row}")
            row = topic
        else:
            row = self._lowest() if row is None else self._claim(topic, row)
        self._given.add(topic)
        self.of[topic] = row
        return row

    def free(self, topic: int) -> None:
        """The topic is gone from every table; its row may be another's. Safe to call twice."""
        if topic not in self._given:
            return
        self._given.discard(topic)
        if topic >= NARROW:
            heappush(self._back, self.of.pop(topic))

    def follow(self, rows: Mapping[int, int], gone: Iterable[int] = ()) -> None:
        """What another process says that gives them: ``gone`` have none any more, these topics have these."""
        for topic in self._given.intersection(gone):
            self._given.discard(topic)
            if topic >= NARROW:
                del self.of[topic]
        self.of.update(rows)
        self._given.update(rows)

    def _lowest(self) -> int:
        if self._back:
            return heappop(self._back)
        self._next += 1
        return self._next - 1

    def _claim(self, topic: int, row: int) -> int:
        if NARROW <= row < self.count:
            if row in self._back:
                self._back.remove(row)
                self._back.sort()
                return row
            if row >= self._next:
                for between in range(self._next, row):
                    heappush(self._back, between)
                self._next = row + 1
                return row
        raise NoRow(f"row {row} of topic {topic} is another's, or none of {self.count}")
