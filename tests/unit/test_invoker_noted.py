"""What a worker only notes beside what it answers: neither is taken for the other, whatever is read first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tempos import Quality
from tempos_invoker.core.account import Account
from tempos_invoker.core.invocation import Arrived
from tempos_invoker.core.step import Step
from tempos_invoker.deploy.model import Function
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Condition
from tempos_invoker.workers.log import FunctionLog
from tempos_invoker.workers.notes import ANSWERED, BEGUN, DONE
from tempos_invoker.workers.team import Team

EVENTS = 4


class Worker:
    """In place of a process: what it was handed, its notes, and its answers until they are read."""

    def __init__(self, team: Team) -> None:
        self.number, self.version, self.pid = 1, "1", 1
        self.hello = {"ok": True, "notes": True}
        self.notes = memoryview(bytearray(512)).cast("Q")
        self.seen = self.answered = 0
        self.places: set[int] = set()
        self.is_running = True
        self.tickets: list[int] = []
        self._team = team
        self.unread: list[Answer] = []

    def send(self, records: bytes, calls: int = 1) -> None:
        self.tickets += [call.ticket for call in frames.calls(records) if not call.flags & frames.PLACE]

    def works(self, fails: Callable[[int], bool]) -> None:
        """Do all that it was handed, without being looked at."""
        for at, ticket in enumerate(self.tickets):
            self.notes[BEGUN] = ticket
            if fails(at):
                self.unread.append(Answer(ticket, Condition.ERROR, b"as told", 1, 2))
                self.notes[ANSWERED] = ticket
            else:
                self.notes[DONE] = ticket

    def read_now(self) -> None:
        """One message of the answers, as one look at the socket gives it."""
        if self.unread:
            self._team.on_answers(self, [self.unread.pop(0)])  # type: ignore[arg-type]


async def _with_work() -> tuple[Team, Worker]:
    team = Team(
        Function("f", "python"), Quality.BQ, FunctionLog("f", lambda: 0.0, lambda: 0.0), lambda outcome: None,
        scheduling=lambda index: {}, cache="",
    )  # fmt: skip
    # As of calls that take no time: it is handed several at once.
    team.pool._takes = 0.0
    worker: Any = Worker(team)
    team._workers[1] = team._all[1] = worker
    team._up(worker)
    queue = team.open(Step("w", "s", "f", Quality.BQ, "t", "w/s"), Account())
    for number in range(EVENTS):
        team.accept(queue, Arrived("t", b"x", 9, number, 0, 0, 0.0))
    team.pump()
    assert len(worker.tickets) == EVENTS
    return team, worker


@pytest.mark.parametrize("failing", [{0}, {1}, {1, 2}, {0, 3}, set(range(EVENTS))])
async def test_a_failure_whose_answer_is_not_read_yet_is_no_success(failing: set[int]) -> None:
    team, worker = await _with_work()
    worker.works(failing.__contains__)
    # As before the account is told; that what was answered is there to be read nobody has said yet.
    team.look()
    while worker.unread:
        worker.read_now()
    team.pump()
    told = team.balance().document()
    assert (told["succeeded"], told["failed"]) == (EVENTS - len(failing), {"error": len(failing)})
    assert (told["waiting"], told["running"], told["drift"]) == (0, 0, 0)
