"""Few events are taken in at a time, and best-effort ones leave strict ones a few turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import Quality
from tempos_invoker.deploy.model import BrokerAt
from tempos_invoker.deploy.ports import Ports
from tempos_invoker.sources import Place, Source, Target
from tempos_invoker.turns import CHUNK, LEFT, Turns

EVENT = SimpleNamespace(
    topic="t", body=b"", publisher=1, sequence=1, sent_ns=1, received_ns=1, is_request=False
)


class Team:
    """Takes what comes; ``waiting``: events of its queue that wait."""

    def __init__(self, quality: Quality, waiting: int = 0) -> None:
        self.quality = quality
        self.pool = SimpleNamespace(queues=[SimpleNamespace(ready=[None] * waiting)])
        self.taken = 0

    def accept(self, queue: Any, event: Any) -> None:
        self.taken += 1

    def pump(self) -> None:
        pass


async def turns_until_done(work: Any) -> int:
    """How many turns of the loop it takes."""
    task = asyncio.ensure_future(work)
    count = 0
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    return count


@pytest.mark.parametrize(
    ("quality", "strict", "least", "most"),
    [
        (Quality.SQ, 5, 1, 3),
        (Quality.BQ, 0, 1, 3),
        (Quality.BQ, 5, LEFT, LEFT + 3),
    ],
)
async def test_best_effort_waits_for_strict_but_not_for_ever(
    quality: Quality, strict: int, least: int, most: int
) -> None:
    turns = Turns()
    turns.these([Team(Quality.SQ, strict), Team(Quality.BQ, 100)])  # type: ignore[list-item]
    assert least <= await turns_until_done(turns.next(quality)) <= most


async def test_a_source_lets_the_loop_go_on_between_a_few_events(tmp_path: Path) -> None:
    async def batches() -> AsyncIterator[list[Any]]:
        yield [EVENT] * 5
        yield [EVENT] * (3 * CHUNK)
        yield [EVENT]

    source = Source(Place(BrokerAt(), "t", "g"), Ports(tmp_path / "ports.json"), Turns())
    source.subscriber = SimpleNamespace(batches=batches)  # type: ignore[assignment]
    team = Team(Quality.BQ)
    queue = SimpleNamespace(step=SimpleNamespace(quality=Quality.BQ))
    source.feed(Target(team, queue))  # type: ignore[arg-type]
    seen = [0]
    while team.taken < 5 + 3 * CHUNK + 1:
        await asyncio.sleep(0)
        seen.append(team.taken)
    assert max(after - before for before, after in pairwise(seen)) <= 2 * CHUNK
    assert len(set(seen)) >= 4
