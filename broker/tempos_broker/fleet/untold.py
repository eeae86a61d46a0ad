"""Members of whom a broker may have something to tell its fleet. Values only, no I/O."""

from __future__ import annotations

from collections.abc import Collection

from tempos_broker.account.accounts import Holder


class Untold:
    """Noted until the store has taken what there was to tell, or there was nothing; what it refused stays.

    As long as one is in here, what is known of it from others is older than what is to be told.
    """

    def __init__(self) -> None:
        self._waiting: dict[Holder, None] = {}
        self._telling: dict[Holder, None] = {}
        self._refused: set[Holder] = set()
        self._passed_over: set[Holder] = set()
        #: How much there was to tell so far, and how much of that was told.
        self.noted = self.told = 0
        self._upto = 0

    def __contains__(self, holder: Holder) -> bool:
        return any(holder in each for each in (self._waiting, self._telling, self._refused))

    def __len__(self) -> int:
        """How many wait to be told of."""
        return len(self._waiting)

    def add(self, holder: Holder) -> None:
        """There may be something to tell of it."""
        self._refused.discard(holder)
        self._waiting[holder] = None
        self.noted += 1

    def discard(self, holder: Holder) -> None:
        """There is nothing to tell of it yet."""
        self._waiting.pop(holder, None)

    def refused(self, holder: Holder) -> None:
        """It could not be told, for its key is another than was known; it is added again."""
        self._refused.add(holder)

    def pass_over(self, holder: Holder) -> None:
        """Others told of it meanwhile, and that was not gone by."""
        self._passed_over.add(holder)

    def begin(self) -> Collection[Holder]:
        """Those to be told of now."""
        self._telling, self._waiting, self._upto = self._waiting, {}, self.noted
        return self._telling

    def fail(self) -> None:
        """They could not be told."""
        self._waiting = {**self._telling, **self._waiting}
        self._telling = {}

    def end(self, told: Collection[Holder]) -> set[Holder]:
        """They have been told, if there was anything; those of whom the others' word holds after all."""
        self._telling, self.told = {}, self._upto
        over = {holder for holder in self._passed_over if holder not in self}
        self._passed_over -= over
        return over.difference(told)
