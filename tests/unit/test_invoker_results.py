"""Results that are on their way while the steps that they are for change."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tempos import Event, Quality, Reply
from tempos_invoker.core.account import Account
from tempos_invoker.core.invocation import Arrived, Invocation, Outcome, StepQueue
from tempos_invoker.core.step import Step
from tempos_invoker.failures import Failures
from tempos_invoker.results import Results
from tempos_invoker.way import Way
from tempos_invoker.workers.team import Team


class Asked:
    """A way by which one request goes, whose answer is the test's to give; a team; and who asked."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.said: list[object] = []

    async def request(self, topic: str, body: bytes, timeout: float) -> Reply:
        self.topics.append(topic)
        return await self.answer

    async def reply(self, body: object) -> None:
        self.said.append(body)

    def settle(self, *_: object) -> None:
        self.said.append("settled")


class Origin(Event):
    """A request that somebody waits for."""

    asked: Asked

    @property
    def is_request(self) -> bool:
        return True

    async def reply(self, body: object) -> None:
        await self.asked.reply(body)


def step(result: str, *, reply: bool) -> Step:
    return Step("w", "s", "f", Quality.BQ, "in", "g", result=result, reply=reply)


async def test_what_a_step_asked_before_it_changed_is_waited_for_where_it_went() -> None:
    asked = Asked()
    results = Results(lambda: cast("Way", asked), Failures())
    origin = Origin("in", 1, b"", 7, 1, None, 0, 0, 0, 0)
    origin.asked = asked
    queue = StepQueue(step("mid", reply=False), Account())
    event = Arrived("in", b"", 7, 1, 0, 0, 0.0, origin)
    results.on_outcome(cast("Team", asked), Outcome(Invocation(1, queue, event), "", b"out"))
    # Another step from now on, though nothing was sent yet.
    queue.step = step("end", reply=True)
    await results.arrived("end".__eq__, 60.0)
    assert asked.topics == []
    arrived: Any = asyncio.ensure_future(results.arrived("mid".__eq__, 60.0))
    while not asked.topics:
        await asyncio.sleep(0)
    assert asked.topics == ["mid"]
    assert not arrived.done()
    asked.answer.set_result(Reply("mid", b"answer", 0, 0, 0.0))
    await arrived
    assert asked.said == ["settled", b"answer"]
