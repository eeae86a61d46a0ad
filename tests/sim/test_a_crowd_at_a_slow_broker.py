"""A crowd that joins a broker which takes longer for all of them than each waits before it repeats itself."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import Topic
from tempos.session.core import ControlSession
from tempos.session.events import Failed, Listed
from tempos.session.proof import decode
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, Limits, TopicConfig
from tempos_broker.control import port as control_port
from tempos_broker.control.decisions import Decision
from tempos_broker.control.port import ControlPort
from tempos_broker.control.proofs import Proofs
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Registry
from tempos_broker.tasks import Tasks

CROWD, ASKED, WAY = 150, "10.0.0.1", 0.0001
#: Seconds that a request takes, and a copy of one that is passed over.
TAKES, PASSED_OVER = 0.01, 0.0005


class Routes:
    """All is in force at once."""

    async def keep_wants(self) -> None:
        return

    async def swap_all(self, topics: object) -> None:
        return

    def schedule(self) -> None:
        return


class Crowd:
    """Sessions and a port in a time of their own: what comes waits until what came before is done."""

    def __init__(self) -> None:
        self.now, self.handled = 101.0, 0
        self.joined: set[int] = set()
        self.failed: set[int] = set()
        self.waiting: deque[tuple[int, bytes]] = deque()
        config = BrokerConfig(
            (TopicConfig(Topic(1, "news")),),
            control=ControlConfig(rate=100_000),
            limits=Limits(members_per_group=CROWD),
        )
        self.server = ControlServer(
            Registry(config, lambda ip: False), Ledger(), config.control, name="b", instance=1,
            epoch=lambda topic: 1, proofs=Proofs(b"k" * 32), monotonic=lambda: self.now,
        )  # fmt: skip
        decide = self.server.receive_datagram

        def decided(datagram: bytes, ip: str, now: float, asked: str | None = None) -> Decision | None:
            self.handled += 1
            return decide(datagram, ip, now, asked)

        self.server.receive_datagram = decided  # type: ignore[method-assign]
        routes: Any = Routes()
        self.tasks = Tasks()
        self.port = ControlPort(self.server, routes, routes, self.tasks, self._say)
        self.sessions = [ControlSession(client=number, broker=ASKED, port=5000) for number in range(CROWD)]
        self._numbers, self._timers = count(), dict[int, float]()
        self._coming: list[tuple[float, int, int, bytes | None, bool]] = []

    def _say(self, datagram: bytes, to: tuple[str, int], via: object) -> int:
        self._come(self.now + TAKES + WAY, int(to[0].rpartition(".")[2]), datagram, to_data=True)
        return 0

    def _come(self, at: float, number: int, datagram: bytes | None, *, to_data: bool = False) -> None:
        heapq.heappush(self._coming, (at, next(self._numbers), number, datagram, to_data))

    def pump(self, number: int) -> None:
        session = self.sessions[number]
        self.waiting.extend((number, each) for each in session.datagrams_to_send(self.now))
        while (event := session.next_event()) is not None:
            self.joined |= {number} if isinstance(event, Listed) else set()
            self.failed |= {number} if isinstance(event, Failed) else set()
        due = session.get_timer()
        is_one = number in self.joined or number in self.failed
        if not is_one and due is not None and due < self._timers.get(number, float("inf")):
            self._timers[number] = due
            self._come(due, number, None)

    async def serve_one(self) -> None:
        number, datagram = self.waiting.popleft()
        before = self.handled
        self.port._hear(
            datagram, f"10.1.0.{number}", ASKED,
            lambda answer, member: self._come(self.now + WAY, number, answer),
        )  # fmt: skip
        took = TAKES if self.handled > before else PASSED_OVER
        while self.tasks._tasks:
            await asyncio.sleep(0)
        self.now += took
        if not self.waiting:
            self.port._heard.clear()

    async def join(self) -> None:
        for number, session in enumerate(self.sessions):
            session.subscribe(["news"], "g", self.now)
            self.pump(number)
        while len(self.joined | self.failed) < CROWD:
            if self.waiting and (not self._coming or self.now <= self._coming[0][0]):
                await self.serve_one()
                continue
            at, _, number, datagram, to_data = heapq.heappop(self._coming)
            self.now = max(self.now, at)
            if datagram is None:
                del self._timers[number]
            elif to_data and (told := decode(datagram)) is not None:
                self.sessions[number].prove(*told, self.now)
            else:
                self.sessions[number].receive_datagram(datagram, self.now)
            if number not in self.joined:
                self.pump(number)


async def test_all_of_it_join_and_what_waits_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    monkeypatch.setattr(control_port, "time", SimpleNamespace(monotonic=lambda: crowd.now))
    await crowd.join()
    assert not crowd.failed
    # One for the proof of the address, one for that of the endpoint, one to join; and few in vain.
    assert crowd.handled < 4 * CROWD
    assert crowd.server.served["prove"] + crowd.server.served["subscribe"] > crowd.handled
    await crowd.tasks.close()
