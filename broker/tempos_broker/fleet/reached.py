"""Numbers that only grow, and those who wait until one is reached: each is woken once, when it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Place:
    """Those who wait for the same number."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


class Reached:
    """What costs little however many wait, and whatever comes meanwhile that is not what they wait for."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}

    async def until(self, number: int) -> None:
        """Return once this number is reached, or everybody is let go."""
        place = self._places.setdefault(number, _Place())
        place.waiting += 1
        try:
            await place.event.wait()
        finally:
            place.waiting -= 1
            if not place.waiting and self._places.get(number) is place:
                del self._places[number]

    def tell(self, number: float) -> None:
        """So far it is now."""
        for each in [each for each in self._places if each <= number]:
            self._places.pop(each).event.set()

    def let_go(self) -> None:
        """Nobody is to wait any more, whatever is reached."""
        self.tell(float("inf"))
