"""What is told is made once for all who ask, never before they asked, and at most half of the time."""

from __future__ import annotations

import asyncio
import time

import pytest

from tempos_broker.api import telling
from tempos_broker.api.telling import Shared


class Maker:
    """Counts what it makes; each takes until it is released."""

    def __init__(self) -> None:
        self.made = 0
        self.turns: asyncio.Queue[int] = asyncio.Queue()
        self.begun: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self) -> int:
        self.made += 1
        self.begun.put_nowait(self.made)
        made = self.made
        if await self.turns.get() < 0:
            raise ValueError("cannot be made")
        return made


async def test_all_who_ask_meanwhile_are_told_the_next_one() -> None:
    maker = Maker()
    shared: Shared[int] = Shared(maker)
    first = asyncio.ensure_future(shared.ask())
    await maker.begun.get()
    # The first was begun before these asked.
    late = [asyncio.ensure_future(shared.ask()) for _ in range(100)]
    maker.turns.put_nowait(0)
    assert (await first).value == 1
    late[0].cancel()
    assert not any(each.done() for each in late[1:])
    await maker.begun.get()
    later = asyncio.ensure_future(shared.ask())
    maker.turns.put_nowait(0)
    assert {each.value for each in await asyncio.gather(*late[1:])} == {2}
    maker.turns.put_nowait(0)
    assert (await later).value == 3
    assert maker.made == 3
    # Who is content with what is there already is told that.
    assert (await shared.ask(60.0)).value == 3


async def test_after_a_making_there_is_as_long_a_rest() -> None:
    async def make() -> float:
        began = time.monotonic()
        await asyncio.sleep(0.05)
        return began

    shared: Shared[float] = Shared(make)
    first = (await shared.ask()).value
    second = (await shared.ask()).value
    assert second - first >= 0.1


async def test_what_fails_is_told_to_those_who_asked_and_to_nobody_else() -> None:
    maker = Maker()
    shared: Shared[int] = Shared(maker)
    maker.turns.put_nowait(-1)
    with pytest.raises(ValueError, match="cannot be made"):
        await shared.ask()
    maker.turns.put_nowait(0)
    assert (await shared.ask()).value == 2


async def test_what_nobody_asks_for_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "KEPT", 0.05)
    gone = asyncio.Event()
    maker = Maker()
    shared: Shared[int] = Shared(maker, gone.set)
    maker.turns.put_nowait(0)
    await shared.ask()
    await asyncio.wait_for(gone.wait(), 10)
    maker.turns.put_nowait(0)
    assert (await shared.ask(60.0)).value == 2
