"""Which neighbours the kernel was asked for a moment ago: thousands of topics may lack the same one."""

from __future__ import annotations

from collections.abc import Iterable


class Resolving:
    """``lasts``: seconds that to have asked will do for."""

    def __init__(self, lasts: float) -> None:
        self._lasts = lasts
        #: Until when, by interface index and address.
        self._asked: dict[tuple[int, str], float] = {}

    def due(self, neighbours: Iterable[tuple[int, str]], now: float) -> tuple[tuple[int, str], ...]:
        """Those of them that are to be asked for; whoever asks does so now."""
        self._asked = {each: until for each, until in self._asked.items() if until > now}
        new = tuple(each for each in neighbours if each not in self._asked)
        self._asked.update(dict.fromkeys(new, now + self._lasts))
        return new
