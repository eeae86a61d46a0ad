"""Where holders stand in the groups of open epochs, found without going through their neighbours.

Every heartbeat asks for it, and a group may have hundreds of members.
"""

from __future__ import annotations

from typing import NamedTuple

from tempos_broker.account.accounts import Holder
from tempos_broker.account.quiet import Groups

#: Groups of so many holders are searched: to remember where each is would take more than that saves.
_FEW = 8


class Position(NamedTuple):
    """Of a holder in its group: its number, and of how many."""

    place: int
    of: int


class Positions:
    """Of all topics; what is remembered of an epoch goes with :meth:`forget`."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, dict[tuple[int, Holder], int]]] = {}

    def find(self, topic: int, epoch: int, groups: Groups, holder: Holder) -> Position | None:
        """Where a holder is in the groups that the epoch was opened with, if it is in any."""
        found = (self.of(topic, epoch, groups, number, holder) for number in range(len(groups)))
        return next(filter(None, found), None)

    def of(self, topic: int, epoch: int, groups: Groups, number: int, holder: Holder) -> Position | None:
        """Where a holder is in the group of this number, if it is in it."""
        holders = groups[number][1]
        if len(holders) <= _FEW:
            index = holders.index(holder) if holder in holders else None
        else:
            index = self._indices(topic, epoch, groups).get((number, holder))
        return None if index is None else Position(index, len(holders))

    def forget(self, topic: int, epoch: int | None = None) -> None:
        """An epoch is closed, or all that is known of a topic holds no more."""
        if epoch is None:
            self._known.pop(topic, None)
        elif epochs := self._known.get(topic):
            epochs.pop(epoch, None)

    def _indices(self, topic: int, epoch: int, groups: Groups) -> dict[tuple[int, Holder], int]:
        epochs = self._known.setdefault(topic, {})
        if epoch not in epochs:
            epochs[epoch] = {
                (number, holder): index
                for number, (_, holders) in enumerate(groups)
                if len(holders) > _FEW
                # The first of two that are the same.
                for index, holder in reversed(tuple(enumerate(holders)))
            }
        return epochs[epoch]
