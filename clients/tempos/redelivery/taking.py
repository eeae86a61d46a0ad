"""The lot of one topic that a member takes: events that come again, in the order of their numbers. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tempos.control import Taking
from tempos.redelivery.asking import Handed

#: Events that may have come and not be processed.
WINDOW = 2048
#: Seconds until what was sent and has not come is asked for again: at first, and at most.
AGAIN_FIRST, AGAIN_MOST = 0.02, 0.5

_U32 = 0xFFFFFFFF


class Copy(NamedTuple):
    """An event that came, as its publisher sent it, and the low 8 bits of its epoch."""

    epoch: int
    datagram: bytes


#: Hands out events of a topic, whose numbers follow from the first one's: of each of those for which there is
#: room whether there is anything to process in it.
HandOut = Callable[[int, Sequence[Copy], int], Sequence[bool]]


class Lot:
    """``hand_out``: gives the consumer what comes."""

    def __init__(self, topic: int, hand_out: HandOut) -> None:
        self.topic = topic
        self._hand_out = hand_out
        self._base = self._size = self._have = self._sent = 0
        self._told = 0
        #: Whether the broker has said that there is something.
        self.is_announced = False
        self._ahead: dict[int, Copy] = {}
        self._gone: set[int] = set()
        self._out: deque[int] = deque()
        self._again = AGAIN_FIRST
        self._ask_at = 0.0

    @property
    def is_active(self) -> bool:
        """Whether there is anything to ask for, to process or to tell."""
        return self.is_announced or self._size > 0

    @property
    def _done(self) -> int:
        return self._out[0] if self._out else self._have

    def take(self, number: int, copies: Sequence[Copy], now: float) -> bool:
        """Events that came, from this number on; whether any of them is of this lot and had not come."""
        index = (number - self._base) & _U32
        first = max(index, self._have)
        end = min(index + len(copies), self._size, self._have + WINDOW)
        if first >= end:
            return False
        before = self._have
        self._ahead.update(zip(range(first, end), copies[first - index :], strict=False))
        self._move_on()
        if self._have > before:
            self._again = AGAIN_FIRST
        if self._have >= self._sent:
            self._ask_at = now
        return True

    def processed(self, number: int) -> None:
        """The consumer has done with the event of this number, and those before it."""
        index = (number - self._base) & _U32
        while self._out and self._out[0] <= index < self._size:
            self._out.popleft()

    def taking(self) -> Taking:
        """What to tell of it, and to ask for."""
        self._told = self._done
        return Taking(self.topic, self._base, self._done, self._have, self._room)

    @property
    def _room(self) -> int:
        return max(0, WINDOW - (self._have - self._done))

    def is_due(self, now: float) -> bool:
        """Whether it is to be asked for more, or told what is done."""
        if self.is_announced:
            return True
        if not self._size:
            return False
        self._move_on()
        if self._done == self._size or (self._told < self._done and self._done == self._have):
            return True
        if now < self._ask_at:
            return False
        wants = self._have < self._size and self._room >= WINDOW // 4
        return wants or self._done > self._told

    def handed(self, row: Handed, now: float) -> None:
        """What the broker says."""
        self.is_announced = False
        if (row.lot, row.size) != (self._base, self._size):
            self._base, self._size, self._have, self._sent = row.lot, row.size, row.first, row.first
            self._told = row.first
            self._ahead.clear()
            self._gone.clear()
            self._out.clear()
            self._again = AGAIN_FIRST
        for first, number in row.gone:
            if first < self._size:
                self._gone.update(range(max(first, self._have), min(first + number, self._size)))
        self._sent = max(self._sent, min(row.end, self._size))
        self._move_on()
        if self._have < self._sent:
            # On its way, or lost there.
            self._ask_at = now + self._again
            self._again = min(2 * self._again, AGAIN_MOST)
        elif row.end > row.first:
            self._ask_at = now
        else:
            # There was no room, here or there.
            self._ask_at = now + AGAIN_FIRST

    def _move_on(self) -> None:
        ahead, gone = self._ahead, self._gone
        while self._have < self._size:
            if self._have in gone:
                gone.discard(self._have)
                self._have += 1
                continue
            run: list[Copy] = []
            while (copy := ahead.pop(self._have + len(run), None)) is not None:
                run.append(copy)
            if not run:
                return
            handed = self._hand_out(self.topic, run, self._base + self._have)
            self._out.extend(at for at, useful in enumerate(handed, self._have) if useful)
            self._have += len(handed)
            if len(handed) < len(run):
                ahead.update(enumerate(run[len(handed) :], self._have))
                return
