"""Events in the order in which they were sent: what follows a gap waits until that is filled or given up.

An inbox that holds back. Where in the order of a topic an event stands, its epoch and delivery sequence say;
raw topics have none, and wait for nothing. What comes after it was given up is handed out where it comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, cast

from tempos.receiving.inbox import Event, Inbox, new_event

#: Where in an event's fields these stand.
_TOPIC, _BODY, _DELIVERY, _EPOCH, _MISSED = 1, 2, 5, 6, 9

#: Epoch, in full, and delivery sequence.
Position = tuple[int, int]
#: The position of the first gap of a topic that may be filled still; None: there is none.
FirstGap = Callable[[int], "Position | None"]
#: The full number of a topic's epoch, of which the low 8 bits are given.
Number = Callable[[int, int], int]


class _Lane:
    """One topic. ``held``: what waits, and its turn; ``ahead``: how many it says that are missing."""

    __slots__ = ("ahead", "held", "owed")

    def __init__(self) -> None:
        self.held: list[tuple[Position, int, Any]] = []
        self.ahead = self.owed = 0


class OrderedInbox(Inbox):
    """See above; :meth:`release` whenever a gap is filled or given up."""

    __slots__ = ("_first_gap", "_held", "_lanes", "_number", "_turn")

    def __init__(self, limit: int, first_gap: FirstGap, number: Number) -> None:
        super().__init__(limit)
        self._first_gap = first_gap
        self._number = number
        self._lanes: dict[int, _Lane] = {}
        self._held = self._turn = 0

    @property
    def waiting(self) -> int:
        """Events that have not been taken, those held back among them."""
        return super().waiting + self._held

    def put(self, event: Event) -> bool:
        return self._put(event, 1)

    def put_batch(self, fields: tuple[Any, ...], bodies: tuple[bytes, ...]) -> bool:
        return self._put(fields, len(bodies))

    def shut(self) -> list[tuple[int, int]]:
        self.release_all()
        return super().shut()

    def release(self, topic: int) -> bool:
        """Let go of what waits for no gap any more; whether there was anything."""
        return topic in self._lanes and self._release(topic, self._first_gap(topic))

    def release_all(self) -> bool:
        """Hold nothing back any more; whether there was anything."""
        topics = list(self._lanes)
        for topic in topics:
            self._release(topic, None)
        return bool(topics)

    def _put(self, entry: Any, events: int) -> bool:
        if self.waiting >= self.limit or not self._limit:
            return False
        topic: int = entry[_TOPIC]
        gap = None if entry[_DELIVERY] is None else self._first_gap(topic)
        lane = self._lanes.get(topic)
        if gap is None and lane is None:
            self._enter(entry)
            return True
        if lane is None:
            lane = self._lanes[topic] = _Lane()
        position = self._number(topic, entry[_EPOCH]), entry[_DELIVERY]
        self._turn += 1
        heapq.heappush(lane.held, (position, self._turn, entry))
        lane.ahead += max(0, entry[_MISSED])
        self._held += events
        self._release(topic, gap)
        return True

    def _release(self, topic: int, gap: Position | None) -> bool:
        lane = self._lanes[topic]
        held, any_came = lane.held, False
        while held and (gap is None or held[0][0] < gap):
            _, _, entry = heapq.heappop(held)
            self._held -= _events(entry)
            any_came = True
            self._enter(self._in_order(lane, entry))
        if not held:
            del self._lanes[topic]
        return any_came

    def _in_order(self, lane: _Lane, entry: Any) -> Any:
        """The entry as it is told in its turn: what it takes back one behind it may say."""
        missed = said = entry[_MISSED]
        if missed > 0:
            lane.ahead -= missed
            missed, lane.owed = max(0, missed - lane.owed), max(0, lane.owed - missed)
        elif missed < 0 and lane.ahead > lane.owed:
            missed, lane.owed = 0, lane.owed - missed
        if missed == said:
            return entry
        if type(entry) is tuple:
            return (*entry[:_MISSED], missed)
        # A request has more than its fields.
        told = new_event(type(entry), (*entry[:_MISSED], missed))
        if type(entry) is not Event:
            told.__dict__.update(entry.__dict__)
        return told

    def _enter(self, entry: Any) -> None:
        # There was room when it came.
        self._queue.append(entry)
        if type(entry) is tuple:
            self._more_in += len(entry[_BODY]) - 1


def _events(entry: Any) -> int:
    return len(cast("tuple[bytes, ...]", entry[_BODY])) if type(entry) is tuple else 1
