"""Which ids are given out, who waits for whom, and what of names in addresses."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Topic
from tempos_broker.api.names import Names, OneName, WholeNames, in_address
from tempos_broker.config.model import TopicConfig
from tempos_broker.topics.catalogue import REST, Catalogue, Ids
from tempos_broker.topics.locks import Gate, KeyedLocks


def test_the_lowest_id_that_nobody_had_just_now() -> None:
    ids = Ids([1, 2, 3, 256])
    ids.take(2)
    assert ids.lowest(0.0) == 1
    ids.take(1)
    assert ids.lowest(0.0) == 3
    ids.release(1, 10.0)
    assert ids.lowest(10.0) == 3, "its publishers may still send"
    assert ids.lowest(10.0 + REST) == 1
    for each in (1, 3):
        ids.take(each)
    assert ids.lowest(100.0) == 256
    ids.take(256)
    assert ids.lowest(100.0) is None
    # Where there is no other, the one that rests longest; who asks for one by its number may have it.
    ids.release(3, 101.0)
    ids.release(1, 102.0)
    ids.take(3)
    assert ids.lowest(103.0) == 1
    ids.take(1)
    assert ids.lowest(104.0) is None
    ids.release(3, 105.0)
    ids.release(256, None)
    assert ids.lowest(105.0) == 256, "it was never served"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.floats(0, 50)), max_size=60))
def test_an_id_is_one_topics_whatever_comes_and_goes(steps: list[tuple[bool, int, float]]) -> None:
    catalogue, now = Catalogue([]), 0.0
    for comes, which, passes in steps:
        now += passes
        known = catalogue.named(f"t{which}")
        if comes and known is None:
            free = catalogue.ids.lowest(now)
            assert free is not None
            assert catalogue.numbered(free) is None
            catalogue.put(TopicConfig(Topic(free, f"t{which}")))
        elif not comes and known is not None:
            catalogue.drop(known, now)
        assert len({entry.topic.id for entry in catalogue}) == len(catalogue)


async def test_a_lock_of_a_key_is_there_while_somebody_wants_it() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    order: list[int] = []

    async def work(number: int, *keys: str) -> None:
        async with locks.held(keys):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(work(1, "a", "b"), work(2, "b"), work(3, "b", "a"), work(4, "c"))
    assert [order.index(each) for each in (1, 2, 3)] == sorted(order.index(each) for each in (1, 2, 3))
    for each in (1, 2, 3):
        first = order.index(each)
        assert [one for one in order[first : first + 3] if one != 4][:2] == [each, each]
    assert len(locks) == 0
    waiting = asyncio.create_task(work(5, "a"))
    async with locks.one("a"):
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert len(locks) == 0


async def test_one_alone_waits_for_those_inside_and_newcomers_for_it() -> None:
    gate, told = Gate(), list[str]()
    leave = asyncio.Event()

    async def inside(name: str) -> None:
        async with gate.together():
            told.append(name)
            await leave.wait()

    async def alone() -> None:
        async with gate.alone():
            told.append("alone")
            await asyncio.sleep(0)
            told.append("done")

    tasks = [asyncio.create_task(each) for each in (inside("a"), inside("b"), alone(), inside("c"))]
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == ["a", "b"]
    leave.set()
    await asyncio.gather(*tasks)
    assert told == ["a", "b", "alone", "done", "c"]


@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_a_name_in_an_address_is_the_name_again(name: str) -> None:
    found: list[str] = []

    async def app(scope: object, *_: object) -> None:
        found.append(scope["path"])  # type: ignore[index]

    address = f"/v1/topics/{in_address(name)}/path"
    scope = {"type": "http", "raw_path": address.encode(), "path": "as it was decoded"}
    asyncio.run(WholeNames(app)(scope, None, None))  # type: ignore[arg-type]
    first, version, topics, told, last = found[0].split("/")
    assert (first, version, topics, last) == ("", "v1", "topics", "path")
    assert OneName().convert(told) == Names().convert(told) == name
    assert OneName().to_string(name) == told
