"""How many places of a journal stay free between two epochs: for what is drawn until the route is swapped.

The next epoch begins behind them. Too few, and the last events of the one before stand where the first ones
of the next go; too many, and with each swap older ones are overwritten sooner. So it goes by what comes, and
by how long swaps take here. Without I/O; time is an argument (seconds).
"""

from __future__ import annotations

#: Parts of a journal that stay free at most, and at least; so many places do at least in a small one.
MOST, LEAST, FEW = 8, 64, 256
#: Seconds that a swap is taken to last at least; and how many times as much as is expected stays free.
SWAP, TIMES = 0.5, 2


class Spare:
    """Of one topic."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._drawn = 0
        # Events a second; what was drawn during a swap, and how long that was: the most of late.
        self._rate = self._during = self._lasted = 0.0

    def begins(self, drawn: int, slots: int, now: float) -> int:
        """An epoch is to come in a journal of so many ``slots``; of the one before so many were ``drawn``."""
        # Of one that began in a former life nobody knows since when it is.
        age = 1.0 if self._since is None else max(now - self._since, 1e-3)
        self._rate = max(drawn / age, self._rate / 2)
        self._since, self._drawn = now, drawn
        expected = max(self._rate * max(SWAP, self._lasted), self._during)
        least = max(slots // LEAST, min(slots // MOST, FEW))
        return min(slots // MOST, max(least, round(TIMES * expected)))

    def ended(self, drawn: int, now: float) -> None:
        """Nobody draws of the one before any more: so many were."""
        if self._since is not None:
            self._lasted = max(now - self._since, self._lasted / 2)
            self._during = max(drawn - self._drawn, self._during / 2)
