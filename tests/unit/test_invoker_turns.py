"""Few events are taken in at a time, and best-effort ones leave strict ones a few turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos import Quality
from tempos._awaitables import in_time
from tempos.receiving.inbox import Event
from tempos_invoker.deploy.model import BrokerAt
from tempos_invoker.deploy.ports import Ports
from tempos_invoker.sources import Place, Source, Target
from tempos_invoker.turns import CHUNK, LEFT, Turns

EVENT = Event("t", 1, b"", 1, 1, 1, 1, 1, 1, 0)


class Team:
    """Takes what comes; ``waiting``: events of its queue that wait."""

    def __init__(self, quality: Quality, waiting: int = 0) -> None:
        self.quality = quality
        self.pool = SimpleNamespace(queues=[SimpleNamespace(ready=[None] * waiting)])
        self.reading = SimpleNamespace(offer=lambda *_: None)
        self.taken = 0
        #: What waits for a function.
        self.ready: list[None] = []

    def accept(self, queue: Any, event: Any) -> None:
        self.taken += 1

    def pump(self) -> None:
        pass


class Subscriber:
    """Events that are there."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.call: Callable[[], None] = lambda: None
        self.is_finished = False
        feeds = [SimpleNamespace(redelivers=True)]
        #: What it has not processed goes to others.
        self._intake = SimpleNamespace(inbox=SimpleNamespace(processed=[]), feeds=feeds)

    def on_events(self, call: Callable[[], None]) -> None:
        self.call = call

    def take(self, most: int) -> list[Event]:
        some = min(most, self.waiting)
        self.waiting -= some
        return [EVENT] * some

    def finished(self) -> None:
        self.is_finished = True


def fed(folder: Path, turns: Turns, quality: Quality, waiting: int) -> tuple[Subscriber, Team]:
    """A source with so many events, and where they go."""
    source = Source(Place(BrokerAt(), "t", "g"), Ports(folder / "ports.json"), turns)
    source.subscriber = subscriber = Subscriber(waiting)  # type: ignore[assignment]
    team = Team(quality)
    queue = SimpleNamespace(step=SimpleNamespace(quality=quality), ready=team.ready)
    source.feed(Target(team, queue))  # type: ignore[arg-type]
    return subscriber, team  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("quality", "strict", "turns_taken"),
    [(Quality.SQ, 5, 1), (Quality.BQ, 0, 1), (Quality.BQ, 5, LEFT + 1)],
)
async def test_best_effort_waits_for_strict_but_not_for_ever(
    tmp_path: Path, quality: Quality, strict: int, turns_taken: int
) -> None:
    turns = Turns()
    turns.these([Team(Quality.SQ, strict), Team(Quality.BQ, 100)])  # type: ignore[list-item]
    subscriber, team = fed(tmp_path, turns, quality, 3 * CHUNK)
    subscriber.call()
    assert team.taken == CHUNK
    for each in (2 * CHUNK, 3 * CHUNK):
        for _ in range(turns_taken):
            assert team.taken == each - CHUNK
            await asyncio.sleep(0)
        assert team.taken == each


async def test_a_source_lets_the_loop_go_on_between_a_few_events(tmp_path: Path) -> None:
    subscriber, team = fed(tmp_path, Turns(), Quality.BQ, 3 * CHUNK + 5)
    seen = [0]
    while team.taken < 3 * CHUNK + 5:
        # What comes meanwhile does not have them taken in any sooner.
        subscriber.call()
        seen.append(team.taken)
        await asyncio.sleep(0)
        seen.append(team.taken)
    assert max(after - before for before, after in pairwise(seen)) == CHUNK
    assert len(set(seen)) == 5
    subscriber.waiting = 1
    subscriber.call()
    assert team.taken == 3 * CHUNK + 6


async def test_of_what_goes_to_others_none_is_taken_before_a_function_has_the_last(tmp_path: Path) -> None:
    subscriber, team = fed(tmp_path, Turns(), Quality.SQ, 2 * CHUNK)
    team.ready.append(None)
    subscriber.call()
    for _ in range(LEFT):
        await asyncio.sleep(0)
        # What it took is told to be processed when it takes more.
        assert (team.taken, subscriber.is_finished) == (0, False)
    team.ready.clear()

    async def done() -> None:
        while not subscriber.is_finished:
            await asyncio.sleep(0)

    await in_time(done(), LIMIT)
    assert team.taken == 2 * CHUNK
