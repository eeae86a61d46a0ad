"""How fast a topic's journal is written over: whether it has what a member had by the time that it is gone.

Without I/O; time is an argument (monotonic seconds).
"""

from __future__ import annotations


class Turning:
    """Of one topic."""

    def __init__(self) -> None:
        self._epoch = -1
        self._drawn = self._came = 0
        self._since: float | None = None
        #: Events a second, of late.
        self.rate = 0.0

    def moved(self, epoch: int, drawn: int, now: float, window: float) -> int:
        """So many were drawn by now in the latest epoch; how many came since this was told last, at least.

        ``window``: seconds over which the rate is taken.
        """
        came = drawn - self._drawn if epoch == self._epoch else drawn
        self._epoch, self._drawn = epoch, drawn
        if self._since is None:
            self._since = now
            return came
        self._came += came
        if now - self._since >= window:
            self.rate = self._came / (now - self._since)
            self._since, self._came = now, 0
        return came
