"""Where holders stand in the groups of open epochs, found without going through their neighbours.

Every heartbeat asks for it; a group may have hundreds of members, and a topic thousands of groups.
"""

from __future__ import annotations

from typing import NamedTuple

from tempos_broker.account.accounts import Holder
from tempos_broker.account.quiet import Groups

#: So many holders, or groups, are searched: to remember where each is would take more than that saves.
_FEW = 8


class Position(NamedTuple):
    """Of a holder in its group: its number, and of how many."""

    place: int
    of: int


class _Known:
    """Of an epoch: the numbers of groups by name, the first group of a holder, its place in large groups."""

    __slots__ = ("first", "number", "place")

    def __init__(self, groups: Groups) -> None:
        numbered = list(enumerate(groups))
        self.number = {name: number for number, (name, _) in numbered}
        # The first of several comes last.
        self.first = {holder: number for number, (_, holders) in reversed(numbered) for holder in holders}
        self.place = {
            (number, holder): index
            for number, (_, holders) in numbered
            if len(holders) > _FEW
            for index, holder in reversed(tuple(enumerate(holders)))
        }


class Positions:
    """Of all topics; what is remembered of an epoch goes with :meth:`forget`."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, _Known]] = {}

    def find(self, topic: int, epoch: int, groups: Groups, holder: Holder) -> Position | None:
        """Where a holder is in the groups that the epoch was opened with, if it is in any."""
        if len(groups) > _FEW:
            number = self._of(topic, epoch, groups).first.get(holder)
            return None if number is None else self.of(topic, epoch, groups, number, holder)
        found = (self.of(topic, epoch, groups, number, holder) for number in range(len(groups)))
        return next(filter(None, found), None)

    def number(self, topic: int, epoch: int, groups: Groups, group: str) -> int | None:
        """Which of the groups that the epoch was opened with has this name, if there is any."""
        if len(groups) > _FEW:
            return self._of(topic, epoch, groups).number.get(group)
        for number, (name, _) in enumerate(groups):
            if name == group:
                return number
        return None

    def of(self, topic: int, epoch: int, groups: Groups, number: int, holder: Holder) -> Position | None:
        """Where a holder is in the group of this number, if it is in it."""
        holders = groups[number][1]
        if len(holders) <= _FEW:
            index = holders.index(holder) if holder in holders else None
        else:
            index = self._of(topic, epoch, groups).place.get((number, holder))
        return None if index is None else Position(index, len(holders))

    def forget(self, topic: int, epoch: int | None = None) -> None:
        """An epoch is closed, or all that is known of a topic holds no more."""
        if epoch is None:
            self._known.pop(topic, None)
        elif epochs := self._known.get(topic):
            epochs.pop(epoch, None)

    def _of(self, topic: int, epoch: int, groups: Groups) -> _Known:
        epochs = self._known.setdefault(topic, {})
        if epoch not in epochs:
            epochs[epoch] = _Known(groups)
        return epochs[epoch]
