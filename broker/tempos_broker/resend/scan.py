"""One journal, read position by position as it is written: whose events came.

A position is that of a ticket, so all that were drawn must come to stand there. What does not within a while,
for its slot was taken or its writer died, and what was overwritten before it was read, may have been any
event: since then nobody can say of what is not seen that it never came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Memory, Run

#: ns that somebody who writes may be held up.
HELD_UP = 50_000_000
#: Positions before the last one that are read again at the start: they may be being written.
BACK = 256
#: Epochs that are over and remembered.
OVER = 8


@dataclass(slots=True)
class _Epoch:
    """Begins at ``first``; before it was read ``base`` tickets had been drawn that are of no interest here.

    ``alone_ns``: since when there is no other, None while there is. ``drawn``: how many tickets, once final.
    """

    number: int
    first: int
    base: int
    alone_ns: int | None
    drawn: int | None = None


class Scan:
    """``fresh``: nothing was ever written to ``memory``."""

    def __init__(self, memory: Memory, *, fresh: bool) -> None:
        self.memory = memory
        #: Since when all that came is known, ns.
        self.since = 0
        #: Positions that were read as they were written.
        self.read = 0
        self._fresh = fresh
        self._epochs: list[_Epoch] = []
        #: The latest of those that are over and read.
        self._over: deque[_Epoch] = deque(maxlen=OVER)
        self._at = 0
        self._pending: dict[int, int] = {}
        self.is_reading = False

    @property
    def is_settled(self) -> bool:
        """Whether all that was drawn has been read."""
        return not self._pending

    def opened(self, epoch: int, first: int, drawn: int, now_ns: int) -> None:
        """An epoch is about to begin at this position; of it so many tickets are drawn already."""
        base = drawn if self._fresh else 0
        alone = now_ns if not self._epochs and (self._fresh or not drawn) else None
        self._epochs.append(_Epoch(epoch, first, base, alone))

    def closed(self, epoch: int, drawn: int, now_ns: int) -> None:
        """Of an epoch no tickets are drawn any more; there were so many."""
        self._fresh = self._fresh and not drawn
        for each in self._epochs:
            if each.number == epoch:
                each.drawn = drawn
            elif each.alone_ns is None:
                each.alone_ns = now_ns
        if not self.is_reading:
            self._over.extend(each for each in self._epochs if each.drawn is not None)
            self._epochs = [each for each in self._epochs if each.drawn is None]

    def begin(self, drawn: Callable[[int], int], now_ns: int) -> None:
        """Read from now on what is written; ``drawn``: tickets of an epoch as they stand."""
        self._pending.clear()
        self.is_reading = bool(self._epochs)
        if not self.is_reading:
            return
        epoch = self._epochs[0]
        end, slots = epoch.first + drawn(epoch.number), self.memory.layout.slots
        self._at = at = max(epoch.first + epoch.base, end - slots)
        # The last one before which nothing is certain.
        bound = at - 1 if at > epoch.first + epoch.base or epoch.alone_ns is None else None
        while self._at < end:
            walked = self.memory.walk(self._at, end)
            for position in walked.lacking:
                if position >= end - BACK:
                    self._pending[position] = now_ns
                else:
                    bound = position
            if walked.lapped:
                bound = walked.at - 1
            self._at = walked.at
        if bound is None:
            self.since = self._since_before(epoch.alone_ns or now_ns)
        else:
            entry = self.memory.read(bound + 1)
            self.since = entry.at_ns if entry is not None else now_ns

    def _since_before(self, since: int) -> int:
        """The same with epochs that are over, of which all is there still."""
        for epoch in reversed(self._over):
            at, end = epoch.first + epoch.base, epoch.first + (epoch.drawn or 0)
            while at < end:
                walked = self.memory.walk(at, end)
                if walked.lacking or walked.lapped:
                    return since
                at = walked.at
            if epoch.alone_ns is None:
                return since
            since = epoch.alone_ns
        return since

    def end(self) -> None:
        """Read nothing any more."""
        self.is_reading = False
        self._pending.clear()

    def all_of(self, publisher: int) -> list[Run]:
        """What stands there of a publisher, in no order."""
        return self.memory.walk_all(publisher)

    def advance(self, drawn: Callable[[int], int], now_ns: int) -> list[Run]:
        """What has come to stand there."""
        runs: list[Run] = []
        for position, since in list(self._pending.items()):
            walked = self.memory.walk(position, position + 1)
            runs += walked.runs
            if not walked.lacking:
                del self._pending[position]
            elif now_ns - since > HELD_UP:
                del self._pending[position]
                self._break(now_ns)
            if walked.lapped:
                self._break(now_ns)
        while self._epochs:
            epoch = self._epochs[0]
            end = epoch.first + (drawn(epoch.number) if epoch.drawn is None else epoch.drawn)
            while self._at < end:
                walked = self.memory.walk(self._at, end)
                runs += walked.runs
                self._pending.update(dict.fromkeys(walked.lacking, now_ns))
                if walked.lapped:
                    self._break(now_ns)
                self.read += walked.at - self._at
                self._at = walked.at
            if epoch.drawn is None:
                break
            self._over.append(self._epochs.pop(0))
            self._at = self._epochs[0].first if self._epochs else 0
        return runs

    def _break(self, now_ns: int) -> None:
        self.since = now_ns
