"""Waiting for a time: a cancellation is never forgotten, whenever it comes."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import LIMIT

from tempos import _awaitables
from tempos._awaitables import Bell, in_time, until_next


@pytest.mark.parametrize("turns", range(6))
async def test_who_is_cancelled_as_what_it_awaits_ends_is_cancelled(turns: int) -> None:
    event, ended = asyncio.Event(), False

    async def wait() -> None:
        nonlocal ended
        await in_time(event.wait(), 60)
        ended = True
        await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done, f"it waits on, {ended=}"
    assert task.cancelled()


async def test_what_is_awaited_gives_its_result_its_error_or_is_cancelled_in_time() -> None:
    async def give(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def fail() -> None:
        raise KeyError("it")

    left = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            left.set()

    assert await in_time(give(7), 5) == await in_time(give(7), None) == 7
    with pytest.raises(KeyError):
        await in_time(fail(), 5)
    with pytest.raises(asyncio.TimeoutError):
        await in_time(hang(), 0)
    assert left.is_set(), "it has ended by then"


def test_all_periods_end_at_the_same_moments_and_none_is_less_than_half_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loop:
        now = 0.0

        def time(self) -> float:
            return self.now

    loop = Loop()
    monkeypatch.setattr(_awaitables.asyncio, "get_running_loop", lambda: loop)
    ends = set()
    for step in range(100):
        loop.now = 50.0 + step / 64
        for period in (0.25, 0.5, 1.0):
            wait = until_next(period)
            assert period / 2 <= wait <= 1.5 * period
            ends.add(round((loop.now + wait) * 4 + 4 * _awaitables._PHASE, 6))
    assert all(each == round(each) for each in ends), "quarters of a second"


async def test_a_bell_is_waited_for_with_a_limit_by_any_number_and_again_and_again() -> None:
    bell = Bell()
    assert not await bell.wait(0.001), "nobody rang"
    waiting = [asyncio.create_task(bell.wait(60)) for _ in range(2)]
    await asyncio.sleep(0)
    bell.set()
    # Also who clears it at once has woken those that waited.
    bell.clear()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [True, True]
    assert not bell.is_set()
    bell.set()
    assert await bell.wait(0)
    bell.clear()
    task = asyncio.create_task(bell.wait(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    bell.set()


async def test_a_bell_settles_once_it_was_quiet_or_when_it_has_taken_too_long() -> None:
    bell, loop = Bell(), asyncio.get_running_loop()
    bell.set()
    # Quiet at once: whatever it was set for before.
    await bell.settle(0.001, LIMIT)
    assert not bell.is_set()

    ringing = asyncio.create_task(_ring(bell))
    began = loop.time()
    await bell.settle(LIMIT, 0.01)
    assert loop.time() - began >= 0.01
    ringing.cancel()


async def _ring(bell: Bell) -> None:
    while True:
        bell.set()
        await asyncio.sleep(0)
