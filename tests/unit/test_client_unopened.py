"""Who reads a subscriber that was never opened is told so, however it is read; it would wait for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.waiting import LIMIT

from tempos import LocalError, Subscriber, blocking


async def iterate(sub: Subscriber) -> None:
    async for _ in sub:
        pass


async def iterate_batches(sub: Subscriber) -> None:
    async for _ in sub.batches():
        pass


async def at_once(call: Callable[[], object]) -> None:
    call()


@pytest.mark.parametrize(
    "read",
    [
        iterate,
        iterate_batches,
        lambda sub: sub.next(),
        lambda sub: sub.wait(),
        lambda sub: at_once(sub.poll),
        lambda sub: at_once(lambda: sub.take(9)),
        lambda sub: at_once(lambda: sub.on_events(print)),
        lambda sub: at_once(lambda: sub.member),
    ],
)
async def test_an_asyncio_one(read: Callable[[Subscriber], Awaitable[object]]) -> None:
    with pytest.raises(LocalError, match=r"not open: use it inside 'async with Subscriber\(\.\.\.\)'"):
        await asyncio.wait_for(read(Subscriber("127.0.0.1", "heat")), LIMIT)


@pytest.mark.parametrize(
    "read",
    [
        lambda sub: next(iter(sub)),
        lambda sub: sub.next(),
        lambda sub: sub.poll(),
        lambda sub: sub.unsubscribe("heat"),
        lambda sub: sub.member,
    ],
)
def test_a_blocking_one(read: Callable[[blocking.Subscriber], object]) -> None:
    with pytest.raises(LocalError, match=r"not open: use it inside 'with Subscriber\(\.\.\.\)'"):
        read(blocking.Subscriber("127.0.0.1", "heat"))
