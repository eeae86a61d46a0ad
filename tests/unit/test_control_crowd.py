"""Of a crowd that joins at once each is told once, when all is in force, and not of each other's coming."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tempos import Topic
from tempos._awaitables import in_time
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import BrokerConfig, TopicConfig
from tempos_broker.control import port as control_port
from tempos_broker.control.auth import Admitted, Caller
from tempos_broker.control.decisions import Decision, Listed, Way
from tempos_broker.control.port import ControlPort
from tempos_broker.membership import Registry
from tempos_broker.tasks import Tasks

LIMIT = 60.0
TOPIC = Topic(1, "news")


class Everything:
    """Whatever the port asks for while it carries out a request; it is in force once ``settled``."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.noted, self.replies = 0, {}
        self.served: Counter[str] = Counter()
        #: Nobody says the same again.
        self.repeats = self

    def answer(self, datagram: bytes, ip: str, asked: str | None, now: float) -> None:
        return None

    def receive_datagram(self, datagram: bytes, ip: str, now: float, asked: str | None) -> Decision:
        number = int(datagram)
        way = Way(Admitted(Caller(ip), datagram), number, 1000, asked, "subscribe")
        return Decision(way, Listed(Holder(ip, number, number), "g", (0, 0)), frozenset({1}))

    async def keep_wants(self) -> None:
        return

    async def swap_all(self, topics: frozenset[int]) -> None:
        return

    def joins(self, decision: Decision) -> tuple[()]:
        return ()

    def schedule(self) -> None:
        return

    async def settle(self, noted: int, limit: float) -> None:
        await self.settled.wait()

    def render(self, decision: Decision) -> bytes:
        return b"answer"


@pytest.mark.parametrize("crowd", [1, 2 * control_port.CROWD])
async def test_who_comes_in_a_crowd_waits_longer_for_all_of_the_answer(
    crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_port, "ANSWER_BY", 0.0)
    monkeypatch.setattr(control_port, "CROWD_BY", LIMIT)
    every: Any = Everything()
    tasks = Tasks()
    port = ControlPort(every, every, every, tasks, fleet=every)
    answered: asyncio.Queue[bytes] = asyncio.Queue()
    for number in range(1, crowd + 1):
        port._receive(b"%d" % number, "10.0.0.1", None, lambda answer, member: answered.put_nowait(answer))
    if crowd == 1:
        await in_time(answered.get(), LIMIT)
        assert not every.settled.is_set()
    else:
        for _ in range(5):
            await asyncio.sleep(0)
        assert answered.empty()
        every.settled.set()
        for _ in range(crowd):
            await in_time(answered.get(), LIMIT)
    await tasks.close()


async def test_who_is_answered_before_all_is_in_force_is_so_once_what_it_wants_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_port, "ANSWER_BY", 0.0)
    every: Any = Everything()
    asked, stored = asyncio.Event(), asyncio.Event()

    async def swap_all(topics: frozenset[int]) -> None:
        await asyncio.Event().wait()

    async def keep_wants() -> None:
        asked.set()
        await stored.wait()

    every.swap_all, every.keep_wants = swap_all, keep_wants
    tasks = Tasks()
    port = ControlPort(every, every, every, tasks, fleet=every)
    answered: asyncio.Queue[bytes] = asyncio.Queue()
    port._receive(b"1", "10.0.0.1", None, lambda answer, member: answered.put_nowait(answer))
    await in_time(asked.wait(), LIMIT)
    assert answered.empty()
    stored.set()
    await in_time(answered.get(), LIMIT)
    await tasks.close()


async def test_a_copy_that_waited_behind_one_is_not_answered_again_until_nothing_waits() -> None:
    every: Any = Everything()
    every.settled.set()
    tasks = Tasks()
    port = ControlPort(every, every, every, tasks, fleet=every)
    answered: asyncio.Queue[bytes] = asyncio.Queue()

    def ask() -> None:
        port._hear(b"1", "10.0.0.1", None, lambda answer, member: answered.put_nowait(answer))

    ask()
    await in_time(answered.get(), LIMIT)
    await tasks.close()
    ask()
    assert every.served == {"subscribe": 1}
    # An answer may be lost: what is asked for again for long is answered again, whatever waits.
    for forget in (port._heard.clear, lambda: setattr(port, "_heard_since", -control_port.COPY_WITHIN)):
        forget()
        ask()
        await in_time(answered.get(), LIMIT)
        await tasks.close()
    assert every.served == {"subscribe": 1}


def test_that_others_come_and_go_is_nothing_to_be_told_at_once() -> None:
    registry = Registry(BrokerConfig((TopicConfig(TOPIC),), listen=("127.0.0.1",)), lambda ip: False)
    one, two = Holder("10.0.0.1", 5000, 1), Holder("10.0.0.2", 5000, 2)

    def come(holder: Holder) -> None:
        registry.subscribe("news", "g", (holder.ip, holder.port), holder.client or 0, 0.0)
        in_force()

    def in_force() -> None:
        registry.holdings.in_force(TOPIC.id, registry.holders(TOPIC.id))

    come(one)
    lease = registry.lease_of(one)
    assert lease is not None
    assert lease.turned == (came := registry.holdings.news) > 0
    come(two)
    assert lease.turned == came
    # What has changed for it is told when it asks next.
    assert [topic for topic, _ in lease.since(came)] == [TOPIC.id]
    registry.goodbye((two.ip, two.port), 2)
    in_force()
    assert lease.turned == came
    registry.clear(TOPIC.id, 0.0)
    assert lease.turned == registry.holdings.news > came
    went = lease.turned
    registry.reopen(TOPIC.id)
    come(one)
    assert lease.turned > went
