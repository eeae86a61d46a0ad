"""A subscriber asks its home who is in the fleet, and has another home before the answer comes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tempos.receiving.elsewhere import Others, Place
from tempos.receiving.standing import Standing


class Home:
    """A link that answers when it is let; notes of whom it is to say that this hears them."""

    client = 1

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.heard: list[list[int]] = []

    async def ask(self, op: str, **fields: Any) -> Any:
        self.asked.set()
        await self.answers.wait()
        rows = [[number, f"10.0.0.{number}", 9998, 9997] for number in (1, 2)]
        return SimpleNamespace(fields={"me": 1, "changes": 3, "brokers": rows, "more": False})

    def hear(self, numbers: list[int]) -> None:
        self.heard.append(numbers)

    def look(self) -> None:
        return


async def test_a_broker_that_is_no_home_any_more_does_not_become_it_by_a_late_answer() -> None:
    first, second = Home(), Home()
    others = Others(
        cast("Any", None), cast("Any", None), lambda: None, Standing("b", cast("Any", None)), "home"
    )
    place = Place(2, "10.0.0.2", 9998, 9997)
    satellite = cast("Any", SimpleNamespace(link=second))
    others._satellites[place] = satellite
    first.answers.set()
    await others._meet_all(cast("Any", first), cast("Any", None), 0)
    assert (first.heard, others._met) == ([[2]], 3)
    first.answers.clear()
    first.asked.clear()
    meeting = asyncio.ensure_future(others._meet_all(cast("Any", first), cast("Any", None), 0))
    await first.asked.wait()
    others.home_at, others._met = satellite, None
    first.answers.set()
    await meeting
    # Whom a member says that it hears takes itself for its home; and the new one is asked anew.
    assert (first.heard, second.heard, others._met) == ([[2]], [], None)
