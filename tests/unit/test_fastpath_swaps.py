"""Routes on their way into the kernel: which go together, and who is told of what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tempos import Unavailable
from tempos_fastpath.swaps import Errors, Swaps, Turns, waits_once


class _Kernel:
    """Takes routes as they are let in; the plan of one is its number."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.let_in = asyncio.Event()
        self.refused: set[int] = set()
        self.trouble: Exception | None = None

    async def write(self, entries: Sequence[tuple[Any, Any]]) -> list[Unavailable | None]:
        numbers = [plan for plan, _ in entries]
        self.calls.append(numbers)
        await self.let_in.wait()
        if self.trouble is not None:
            raise self.trouble
        return [Unavailable(f"not {number}") if number in self.refused else None for number in numbers]


def _put(swaps: Swaps, *numbers: int | tuple[int, ...]) -> list[asyncio.Task[Errors]]:
    """A task for each number, or for several that are put together."""
    together = [(each,) if isinstance(each, int) else each for each in numbers]
    return [asyncio.create_task(swaps.put([(plan, None) for plan in some])) for some in together]  # type: ignore[misc]


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_while_a_call_is_on_its_way_goes_by_the_next() -> None:
    kernel = _Kernel()
    swaps = Swaps(kernel.write, together=True)
    first = _put(swaps, 1, 2, 3)
    await _turns()
    later = _put(swaps, 4, 5)
    await _turns()
    assert kernel.calls == [[1, 2, 3]]
    kernel.let_in.set()
    await asyncio.gather(*first, *later)
    assert kernel.calls == [[1, 2, 3], [4, 5]]
    await asyncio.gather(*_put(swaps, 6))
    assert kernel.calls[2:] == [[6]]


async def test_each_learns_of_its_own_fault_and_who_was_cancelled_disturbs_nobody() -> None:
    kernel = _Kernel()
    kernel.refused = {2}
    swaps = Swaps(kernel.write, together=True)
    good, bad, gone = _put(swaps, 1, 2, 3)
    await _turns()
    gone.cancel()
    kernel.let_in.set()
    assert await good == [None]
    assert [str(each) for each in await bad] == ["not 2"]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_of_those_that_are_put_together_each_has_its_own_answer() -> None:
    kernel = _Kernel()
    kernel.refused = {2, 5}
    kernel.let_in.set()
    swaps = Swaps(kernel.write, together=True)
    first, second = await asyncio.gather(*_put(swaps, (1, 2, 3), (4, 5)))
    assert kernel.calls == [[1, 2, 3, 4, 5]]
    assert [each and str(each) for each in first] == [None, "not 2", None]
    assert [each and str(each) for each in second] == [None, "not 5"]
    assert await swaps.put([]) == []


async def test_what_nobody_foresaw_reaches_all_that_wait_and_the_next_go_on() -> None:
    kernel = _Kernel()
    kernel.let_in.set()
    kernel.trouble = RuntimeError("unforeseen")
    swaps = Swaps(kernel.write, together=True)
    for task in _put(swaps, 1, 2):
        with pytest.raises(RuntimeError, match="unforeseen"):
            await task
    kernel.trouble = None
    await asyncio.gather(*_put(swaps, 3))


async def test_where_a_call_waits_for_each_entry_they_go_beside_each_other() -> None:
    kernel = _Kernel()
    kernel.refused = {2}
    swaps = Swaps(kernel.write, together=False)
    good, bad = _put(swaps, 1, (2, 3))
    await _turns()
    assert kernel.calls == [[1], [2], [3]]
    kernel.let_in.set()
    assert await good == [None]
    assert [each and str(each) for each in await bad] == ["not 2", None]


async def test_of_a_topic_one_change_follows_the_other_and_others_pass_by() -> None:
    turns, seen = Turns(), list[str]()
    let_go = asyncio.Event()

    async def change(name: str, *topics: int) -> None:
        async with turns.of(topics):
            seen.append(name)
            await let_go.wait()

    tasks = [asyncio.create_task(change(*each)) for each in (("a", 1, 2), ("b", 3, 2), ("c", 4))]
    await _turns()
    assert seen == ["a", "c"]
    over = asyncio.create_task(turns.over())
    await _turns()
    assert not over.done()
    let_go.set()
    await asyncio.gather(*tasks, over)
    assert seen == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("release", "once"),
    [("6.1.0-44-amd64", False), ("6.7.12", False), ("6.8.0", True), ("6.12.1+deb12", True), ("7.0-rc1", True),
     ("odd", False)],
)  # fmt: skip
def test_which_kernels_wait_once(release: str, once: bool) -> None:
    assert waits_once(release) is once
