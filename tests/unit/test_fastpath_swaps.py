"""Routes on their way into the kernel: which go together, and who is told of what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tempos import Unavailable
from tempos_fastpath.swaps import Swaps, waits_once


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


def _put(swaps: Swaps, *numbers: int) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(swaps.put(number, None)) for number in numbers]  # type: ignore[arg-type]


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
    await good
    with pytest.raises(Unavailable, match="not 2"):
        await bad
    with pytest.raises(asyncio.CancelledError):
        await gone


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
    good, bad = _put(swaps, 1, 2)
    await _turns()
    assert kernel.calls == [[1], [2]]
    kernel.let_in.set()
    await good
    with pytest.raises(Unavailable, match="not 2"):
        await bad


@pytest.mark.parametrize(
    ("release", "once"),
    [("6.1.0-44-amd64", False), ("6.7.12", False), ("6.8.0", True), ("6.12.1+deb12", True), ("7.0-rc1", True),
     ("odd", False)],
)  # fmt: skip
def test_which_kernels_wait_once(release: str, once: bool) -> None:
    assert waits_once(release) is once
