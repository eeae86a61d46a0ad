"""Where the epochs of a journal begin and how many events each had: so what lacks between two is known."""

from __future__ import annotations

from collections.abc import Iterable

from tempos_broker.account.accounts import Holder

#: Bits of a position that count inside of an epoch, at least.
INSIDE = 32
#: Epochs that are remembered of a topic.
_MOST = 1024


class Epochs:
    """Of one journal."""

    def __init__(self) -> None:
        #: By the high bits of its first position: the number of an epoch and that position.
        self._begun: dict[int, tuple[int, int]] = {}
        #: How many events those had that are over.
        self._had: dict[int, int] = {}
        #: How many of those of a former life there are at least.
        self._seen: dict[int, int] = {}
        #: Where the first epoch of each of the present members begins.
        self._since: dict[Holder, int] = {}

    def begun(self, epoch: int, first: int) -> None:
        """An epoch begins at this position."""
        self._begun[first >> INSIDE] = epoch, first
        if len(self._begun) > _MOST:
            over, _ = self._begun.pop(next(iter(self._begun)))
            self._had.pop(over, None)
            self._seen.pop(over, None)

    def found(self, epoch: int, first: int, least: int) -> None:
        """A former life had so many events at least in an epoch that began there."""
        self.begun(epoch, first)
        self._seen[epoch] = least

    def ended(self, epoch: int, had: int) -> None:
        """An epoch is over: nobody gets another ticket of it."""
        if any(number == epoch for number, _ in self._begun.values()):
            self._had[epoch] = had

    def joined(self, first: int, holders: Iterable[Holder]) -> None:
        """An epoch that begins there has these members."""
        self._since = {holder: self._since.get(holder, first) for holder in holders}

    def before(self, holder: Holder) -> list[tuple[int, int]] | None:
        """Of each epoch before the first one of a member: where it begins, and how many events it had.

        None: nobody knows which that was.
        """
        end = self._since.get(holder, 0)
        if not end:
            return None
        return [
            (first, self._had.get(epoch, self._seen.get(epoch, 0)))
            for epoch, first in sorted(self._begun.values(), key=lambda begun: begun[1])
            if first < end
        ]

    def between(self, before: int, position: int) -> tuple[int, bool]:
        """How many events there were between two, and whether that is known; at least so many otherwise."""
        if before >> INSIDE == position >> INSIDE:
            return position - before - 1, True
        one, other = self._begun.get(before >> INSIDE), self._begun.get(position >> INSIDE)
        count = position - other[1] if other else 0
        if one is None or other is None:
            return count, False
        known = True
        for epoch in range(one[0], other[0]):
            had = self._had.get(epoch)
            if had is None:
                known = False
            else:
                count += max(0, had - (before - one[1] + 1 if epoch == one[0] else 0))
        return count, known
