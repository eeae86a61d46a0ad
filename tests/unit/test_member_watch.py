"""The kernel is asked about neighbours only while anything about them may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos_broker.addresses import Towards
from tempos_broker.members import watch
from tempos_broker.members.watch import Watch

A, B = ("10.0.2.2", None), ("10.0.2.3", None)
Place = tuple[int, str]


class Kernel:
    """Knows who is in ``known``, and finds nobody else; ``looks`` counts how often it was asked for all."""

    def __init__(self) -> None:
        self.known: set[str] = {A[0], B[0]}
        self.news = True
        self.looks = 0
        self.closed = False
        #: Those that ways are not known to, and those that there are none to.
        self.no_way: set[Towards] = set()
        self.nowhere: dict[Towards, str] = {}

    def stirred(self) -> bool:
        news, self.news = self.news, False
        return news

    def close(self) -> None:
        self.closed = True

    def ways(self, towards: Sequence[Towards]) -> Mapping[Towards, Place | str]:
        return {each: self.nowhere.get(each, (3, each[0])) for each in towards if each not in self.no_way}

    def unresolved(self, places: Collection[Place]) -> tuple[set[Place], set[Place], set[Place]]:
        self.looks += 1
        known = {each for each in places if each[1] in self.known}
        return known, set(), set(places) - known

    def ask(self, places: Collection[Place]) -> bool:
        return True


class Path:
    """Either path, which is told whom to leave out."""

    def __init__(self) -> None:
        self.left_out: frozenset[Towards] = frozenset()

    def make_room(self, room: int, on_full: object) -> None:
        pass


class Fast(Path):
    def leave_out(self, towards: frozenset[Towards]) -> None:
        self.left_out = towards


class Slow(Path):
    async def leave_out(self, towards: frozenset[Towards]) -> None:
        self.left_out = towards


class Watched:
    """A watch of members at A, looked at whenever a test says so."""

    def __init__(self) -> None:
        self.kernel, self.fast, self.slow = Kernel(), Fast(), Slow()
        self.routes = SimpleNamespace(towards={A: 1}, states={})
        args: Any = (self.kernel, self.routes, self.slow, self.fast, lambda: None)
        self.watch = Watch(*args)

    async def look(self, *, full: bool = False) -> int:
        """How often the kernel was asked."""
        before = self.kernel.looks
        await self.watch._look(full)
        return self.kernel.looks - before


async def test_where_all_are_known_the_kernel_is_asked_again_after_news_alone() -> None:
    it = Watched()
    assert [await it.look() for _ in range(3)] == [1, 0, 0]
    it.kernel.news = True
    assert [await it.look() for _ in range(2)] == [1, 0]
    assert await it.look(full=True) == 1, "a socket is full"


async def test_new_members_are_looked_at_and_ways_are_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Watched()
    assert [await it.look() for _ in range(2)] == [1, 0]
    it.routes.towards[B] = 1
    assert [await it.look() for _ in range(2)] == [1, 0]
    del it.routes.towards[A]
    assert [await it.look() for _ in range(2)] == [1, 0]
    monkeypatch.setattr(watch, "WAYS_AGAIN", 0.0)
    assert [await it.look() for _ in range(2)] == [1, 1]


async def test_while_anybody_is_not_known_every_look_asks() -> None:
    it = Watched()
    it.kernel.known = set()
    assert [await it.look() for _ in range(3)] == [1, 1, 1]
    assert it.fast.left_out == it.slow.left_out == {A}
    it.kernel.known = {A[0]}
    assert [await it.look() for _ in range(2)] == [1, 0]
    assert it.fast.left_out == it.slow.left_out == frozenset()


async def test_while_anybody_has_no_way_every_look_asks_for_one() -> None:
    it = Watched()
    it.routes.towards[B] = 1
    it.kernel.no_way = {B}
    assert [await it.look() for _ in range(2)] == [1, 1]
    it.kernel.no_way = set()
    assert [await it.look() for _ in range(2)] == [1, 0]


async def test_who_has_no_way_is_left_out_with_the_reason_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempos_broker.members.presence.LASTS", 0.0)
    it = Watched()
    await it.look()
    it.routes.towards[B] = 1
    it.kernel.nowhere = {B: "no way"}
    await it.look()
    assert it.fast.left_out == it.slow.left_out == it.watch.absent == {B}
    assert (it.watch.why(A), it.watch.why(B)) == ("", "no way")
    it.kernel.nowhere = {}
    await it.look()
    assert it.fast.left_out == it.slow.left_out == frozenset()
    # Where the ways of those that had one may have changed, they are asked at once.
    it.kernel.nowhere = {A: "gone"}
    assert await it.look() == 0
    it.watch.look_anew()
    await it.look()
    assert it.watch.absent == {A}


async def test_what_asks_the_kernel_is_let_go_with_the_watch() -> None:
    it = Watched()
    it.watch.begin()
    await asyncio.sleep(0)
    await it.watch.close()
    assert it.kernel.closed


async def test_whatever_goes_wrong_the_watch_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.001)
    it = Watched()
    looked = asyncio.Event()

    def ways(towards: Sequence[Towards]) -> Mapping[Towards, Place]:
        if not looked.is_set():
            looked.set()
            raise KeyError("what nobody thought of")
        return {each: (3, each[0]) for each in towards}

    async def again() -> None:
        while not it.kernel.looks:
            await asyncio.sleep(0)

    it.kernel.ways = ways  # type: ignore[method-assign]
    it.watch.begin()
    try:
        await asyncio.wait_for(again(), LIMIT)
    finally:
        await it.watch.close()
    assert caplog.text.count("members could not be looked after") == 1
