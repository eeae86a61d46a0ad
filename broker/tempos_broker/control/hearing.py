"""Who judges that somebody is silent hears first what waits at the control port.

A broker that stood still, for its machine was busy, finds there what came meanwhile, and every timer due.
"""

from __future__ import annotations

from collections.abc import Callable


class Hearing:
    """``has_heard``: whether all has been heard that had come by a time (monotonic seconds)."""

    def __init__(self, has_heard: Callable[[float], bool] = lambda since: True) -> None:
        self._has_heard = has_heard
        self._since: float | None = None

    def is_done(self, now: float, most: float) -> bool:
        """Whether it may be judged now; asked again until it may, ``most`` seconds after the first time.

        So whoever asks a lot, and always has something wait, keeps nobody from it.
        """
        if self._since is None:
            self._since = now
        if now < self._since + most and not self._has_heard(self._since):
            return False
        self._since = None
        return True
