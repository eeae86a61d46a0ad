"""Who waits for a number is woken when it is reached, and nobody else is."""

from __future__ import annotations

import asyncio

from tempos_broker.fleet.reached import Reached


async def test_each_is_woken_at_its_number_and_who_gives_up_is_forgotten() -> None:
    reached, woken = Reached(), []

    async def wait(number: int) -> None:
        await reached.until(number)
        woken.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in (3, 1, 2, 2, 5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    reached.tell(2)
    await asyncio.gather(*tasks[1:4], return_exceptions=True)
    assert woken == [1, 2]
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    # A number that was reached can be waited for anew: who waits looks before.
    tasks.append(asyncio.ensure_future(wait(1)))
    await asyncio.sleep(0)
    reached.let_go()
    await asyncio.gather(*tasks[4:])
    assert woken == [1, 2, 5, 1]
    assert not reached._places
