"""The broker around a fake fast path: what is swapped when, who is answered when, what is counted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest
from support.ports import free_ports
from support.proving import granted
from support.waiting import LIMIT

from tempos import (
    FastPathStatus,
    Framing,
    Path,
    PathChoice,
    PathPolicy,
    Quality,
    Reason,
    Route,
    Topic,
    Unavailable,
)
from tempos.control import Received, decode_reply, encode_request
from tempos.histogram import Histogram, Latency
from tempos.model import Volume
from tempos_broker import addresses
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, StaticMember, TopicConfig
from tempos_broker.paths import LocalLimits, LocalTickets
from tempos_broker.routes import AT_ONCE

ALPHA = Topic(1, "alpha", Quality.SQ, 5, Framing.RAW)
BETA = Topic(2, "beta", Quality.BQ, 0, Framing.RAW, PathPolicy.SLOW)


class FakeFastPath:
    """Says that it carries every route; installing waits while ``gate`` is closed."""

    def __init__(self) -> None:
        self.journals = None
        self.tickets = LocalTickets()
        self.limits = LocalLimits()
        self.topics: list[Topic] = []
        self.told = False
        self.refusal: Unavailable | None = None
        self.before_install: Callable[[], None] = lambda: None
        self.installed: list[Route] = []
        self.withdrawn: list[int] = []
        self.choice = PathChoice(Path.FAST, "one group on fake0")
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False
        self._callbacks: list[Callable[[], None]] = []
        self.counts: dict[int, dict[Reason, int]] = {}
        self.left: dict[int, int] = {}
        self.times: dict[int, Latency] = {}

    def status(self) -> FastPathStatus:
        return FastPathStatus("native", "fake")

    async def configure(self, topics: Sequence[Topic]) -> None:
        if self.refusal is not None:
            raise self.refusal
        assert not self.installed or self.told, "classes and rates are known before the first route"
        self.told = True
        self.topics = list(topics)
        self.limits.configure(topics)

    async def put(self, topic: Topic) -> None:
        await self.configure(list({**{each.id: each for each in self.topics}, topic.id: topic}.values()))

    async def drop(self, topic: int) -> None:
        await self.configure([each for each in self.topics if each.id != topic])

    def select(self, strict: int, best_effort: int) -> None:
        raise Unavailable("a fake")

    async def install_all(self, routes: Sequence[Route]) -> Sequence[PathChoice]:
        return await asyncio.gather(*map(self.install, routes))

    async def install(self, route: Route) -> PathChoice:
        await self.gate.wait()
        self.before_install()
        self.installed.append(route)
        return self.choice

    async def withdraw(self, topic: int) -> None:
        self.withdrawn.append(topic)

    async def withdraw_all(self) -> None:
        self.withdrawn += [route.topic.id for route in self.installed]

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        return {"fake0": {"ENOSPC": 3}}

    def volumes(self, topics: Iterable[int]) -> Mapping[int, Volume]:
        return {}

    def latency(self, topics: Iterable[int]) -> Mapping[int, Latency]:
        return {topic: each for topic, each in self.times.items() if topic in topics}

    def measure_anew(self, topics: Iterable[int]) -> None:
        for topic in topics:
            self.times.pop(topic, None)

    @property
    def inherited(self) -> bool:
        return bool(self.left)

    @property
    def former(self) -> None:
        return None

    async def take_over(self) -> None:
        self.taken_over = True

    def rows(self) -> Mapping[int, int]:
        return {}

    def adopted(self) -> Mapping[int, int]:
        return self.left

    def counters(self, topics: Iterable[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        return self.counts

    outlives = False

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def changed(self) -> None:
        for callback in self._callbacks:
            callback()

    async def close(self, *, keep: bool = False) -> None:
        self.closed = True


class Client:
    """A member by hand: a data socket and a control socket, blocking ones driven by the loop."""

    def __init__(self, broker: Broker) -> None:
        self.data, self.control = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for each in (self.data, self.control):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        self.port = self.data.getsockname()[1]
        self._broker = broker
        self._config = broker.config
        self._id = 0

    def ask(self, op: str, **fields: Any) -> int:
        self._id += 1
        if op == "subscribe":
            fields["proof"] = granted(self._broker, "127.0.0.1", fields["port"], 99, "127.0.0.1")
        request = encode_request(op, self._id, 99, **fields)
        self.control.sendto(request, ("127.0.0.1", self._config.control_port))
        return self._id

    async def answer(self) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        reply = decode_reply(await asyncio.wait_for(loop.sock_recv(self.control, 2048), LIMIT))
        assert reply.ok is not None, reply.error
        return reply.ok

    def publish(self, payload: bytes) -> None:
        self.data.sendto(payload, ("127.0.0.1", self._config.data_port))

    async def event(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.data, 2048), LIMIT)

    def close(self) -> None:
        self.data.close()
        self.control.close()


@asynccontextmanager
async def running(
    lease: float = 10.0, topics: tuple[TopicConfig, ...] = (TopicConfig(ALPHA), TopicConfig(BETA))
) -> AsyncIterator[tuple[Broker, FakeFastPath, Client]]:
    data, control = free_ports(2)
    config = BrokerConfig(
        topics,
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        api_port=0,
        control=ControlConfig(lease=lease, heartbeat=lease / 4),
    )
    fast = FakeFastPath()
    async with Broker(config, fast) as broker:
        client = Client(broker)
        try:
            yield broker, fast, client
        finally:
            client.close()
    assert fast.closed


def topic(broker: Broker, name: str) -> dict[str, Any]:
    return next(entry for entry in broker.status()["topics"] if entry["name"] == name)


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), LIMIT)


async def test_a_subscriber_is_answered_when_its_route_is_in_force_on_both_paths() -> None:
    async with running() as (broker, fast, client):
        fast.gate.clear()
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        asked_again = client.ask("hello")
        assert "broker" in await client.answer(), "control goes on while the kernel takes its time"
        assert asked_again == 2
        assert topic(broker, "alpha")["epoch"] == 1
        fast.gate.set()
        answer = await client.answer()
        assert (answer["epoch"], answer["group"]) == (2, "g")
        assert [route.epoch for route in fast.installed] == [2]
        assert topic(broker, "alpha")["path"] == "fast"
        client.publish(b"\x01event")
        assert await client.event() == b"\x01event"


async def test_every_change_is_one_epoch_and_repeated_requests_are_none() -> None:
    async with running() as (broker, fast, client):
        for _ in range(3):
            client.ask("subscribe", topic="alpha", group="g", port=client.port)
        assert {(await client.answer())["epoch"] for _ in range(3)} == {2}
        client.ask("unsubscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        assert fast.withdrawn[-1] == ALPHA.id
        status = topic(broker, "alpha")
        assert (status["epoch"], status["path"], status["reason"]) == (3, "slow", "the topic has no member")


async def test_tickets_of_past_epochs_stay_in_the_account_of_the_group() -> None:
    async with running() as (broker, _, client):
        other = Client(broker)
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        for _ in range(3):
            client.publish(b"\x01x")
            await client.event()
        other.ask("subscribe", topic="alpha", group="g", port=other.port)
        await other.answer()
        for _ in range(2):
            client.publish(b"\x01x")
        await client.event()
        await other.event()
        client.ask("heartbeat", port=client.port, received=[Received(1, "g", 0, 4)])
        await client.answer()
        (group,) = topic(broker, "alpha")["groups"]
        assert group["tickets"] == 5
        assert [member["delivered"] for member in group["members"]] == [4, 0]
        assert (group["delivered"], group["unconfirmed"], group["lost"]) == (4, 1, 0)
        assert topic(broker, "alpha")["balanced"]
        status = topic(broker, "alpha")
        assert (status["received"], status["slow"], status["fast"]) == (5, 5, 0)
        other.close()


async def test_a_member_without_heartbeats_leaves_the_route_when_its_lease_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(lease=0.2) as (broker, fast, client):
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        await until(lambda: topic(broker, "alpha")["epoch"] == 3)
        assert [group["members"] for group in topic(broker, "alpha")["groups"]] in ([], [[]])
        assert fast.withdrawn[-1] == ALPHA.id
        assert f"the lease of 127.0.0.1:{client.port} ended" in caplog.text
        client.publish(b"\x01nobody")
        await until(lambda: topic(broker, "alpha")["refused"] == {"no_member": 1})


async def test_a_topic_that_must_be_slow_never_meets_the_fast_path() -> None:
    async with running() as (broker, fast, client):
        client.ask("subscribe", topic="beta", port=client.port)
        await client.answer()
        assert fast.installed == []
        assert topic(broker, "beta")["reason"] == "the configuration says path = slow"


async def test_changed_facts_install_the_same_epoch_anew_and_may_change_the_path() -> None:
    async with running() as (broker, fast, client):
        client.ask("subscribe", topic="alpha", port=client.port)
        await client.answer()
        fast.choice = PathChoice(Path.SLOW, "fake0 is down")
        fast.changed()
        await until(lambda: topic(broker, "alpha")["path"] == "slow")
        assert topic(broker, "alpha")["reason"] == "fake0 is down"
        assert [route.epoch for route in fast.installed] == [2, 2]


async def test_facts_that_change_for_thousands_of_topics_do_not_keep_others_waiting() -> None:
    """Only those with members are installed anew, a few before the loop has its turn again."""
    data, control = free_ports(2)
    member = StaticMember("127.0.0.1", 9, "static")
    entries = [TopicConfig(Topic(300 + n, f"t{n}"), (member,) if n % 2 else ()) for n in range(400)]
    config = BrokerConfig(
        tuple(entries), listen=("127.0.0.1",), data_port=data, control_port=control, api_port=0
    )
    fast = FakeFastPath()
    async with Broker(config, fast) as broker:
        assert broker._routes.towards == {("127.0.0.1", "127.0.0.1"): 200}
        done, fast.installed = len(fast.installed), []
        assert done == 200
        fast.changed()
        longest = before = 0
        while len(fast.installed) < done:
            await asyncio.sleep(0)
            longest = max(longest, len(fast.installed) - before)
            before = len(fast.installed)
        assert longest <= AT_ONCE
        assert {route.epoch for route in fast.installed} == {1}
        await broker.reload(replace(config, topics=(replace(entries[1], members=()), *entries[2:4])))
        assert broker._routes.towards == {("127.0.0.1", "127.0.0.1"): 1}


async def test_where_the_kernel_prefers_another_address_now_the_route_is_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a static member, which asked none; who asked one keeps it."""
    preferred = "127.0.0.2"
    monkeypatch.setattr(addresses, "way_from", lambda address, ip: preferred)
    data, control = free_ports(2)
    static = StaticMember("127.0.0.1", 9, "static")
    config = BrokerConfig(
        (TopicConfig(ALPHA, (static,)),), listen=("127.0.0.1", "127.0.0.2"), data_port=data,
        control_port=control, api_port=0,
    )  # fmt: skip
    fast = FakeFastPath()
    async with Broker(config, fast) as broker:
        with closing(Client(broker)) as client:
            client.ask("subscribe", topic="alpha", group="g", port=client.port)
            await client.answer()
            preferred = "127.0.0.1"
            fast.changed()
            await until(lambda: topic(broker, "alpha")["epoch"] == 3)
            groups = topic(broker, "alpha")["groups"]
    assert {group["name"]: [member["from"] for member in group["members"]] for group in groups} == {
        "static": ["127.0.0.1"],
        "g": ["127.0.0.1"],
    }
    sources = [[m.source for group in route.groups for m in group.members] for route in fast.installed]
    assert sources == [["127.0.0.2"], ["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.1"]]


async def test_the_status_adds_up_over_both_paths() -> None:
    async with running() as (broker, fast, client):
        client.ask("subscribe", topic="alpha", port=client.port)
        await client.answer()
        fast.counts = {
            0: {Reason.NOT_IPV4: 7, Reason.NO_ROUTE: 1},
            9: {Reason.NO_ROUTE: 2},
            1: {Reason.FORWARDED: 10, Reason.NO_EGRESS: 2, Reason.TTL: 1},
        }
        client.publish(b"\x01up")
        await client.event()
        client.publish(b"")
        client.publish(b"\x09")
        client.publish(b"\x0a")
        await until(lambda: broker.status()["paths"]["slow"]["received"] == 4)
        status = topic(broker, "alpha")
        assert (status["received"], status["fast"], status["slow"]) == (13, 10, 1)
        assert (status["refused"], status["passed"]) == ({"no_egress": 2}, {"ttl": 1})
        assert broker.status()["unattributed"] == {"empty": 1, "unknown_topic": 2}
        assert broker.status()["paths"]["fast"]["passed"] == {"not_ipv4": 7, "no_route": 3}
        assert broker.status()["paths"]["fast"]["drops"] == {"fake0": {"ENOSPC": 3}}
        assert broker.ledger()["drops"] == {"fake0": {"ENOSPC": 3}}


async def test_what_the_fast_path_measured_is_told_of_its_topics_and_of_no_others() -> None:
    async with running() as (broker, fast, _):
        assert topic(broker, "alpha")["latency"] is None
        took = Histogram((0, 0, 4), longest=2)
        fast.times = {1: Latency(took, Histogram((0, 0, 0), ahead=4)), 77: Latency(took, took)}
        told = topic(broker, "alpha")["latency"]
        assert (told["program"]["p50_ns"], told["program"]["buckets"]) == (2, [[2, 3, 4]])
        assert (told["since_sent"]["ahead"], told["since_sent"]["max_ns"]) == (4, None)
        others = [entry for entry in broker.status()["topics"] if entry["id"] != 1]
        assert others
        assert all(entry["latency"] is None for entry in others)


async def test_what_the_fast_path_measured_of_a_topic_is_not_the_next_ones_of_its_place() -> None:
    async with running() as (broker, fast, _):
        await broker.add_topic({"name": "made", "id": 300})
        took = Histogram((0, 0, 4), longest=2)
        fast.times = {300: Latency(took, took)}
        assert topic(broker, "made")["latency"] is not None
        await broker.remove_topic("made")
        await broker.add_topic({"name": "another", "id": 300})
        assert topic(broker, "another")["latency"] is None


async def test_an_address_that_is_taken_is_told_and_everything_is_released() -> None:
    async with running() as (broker, _, _client):
        fast = FakeFastPath()
        with pytest.raises(Unavailable, match=str(broker.config.data_port)):
            await Broker(broker.config, fast).__aenter__()
        assert fast.closed


async def test_a_control_port_that_is_taken_is_told_too() -> None:
    async with running() as (broker, _, _client):
        (data,) = free_ports(1)
        with pytest.raises(Unavailable, match=f"{broker.config.control_port}/udp"):
            await Broker(replace(broker.config, data_port=data), FakeFastPath()).__aenter__()


async def test_a_publisher_that_asks_learns_that_nobody_listens() -> None:
    async with running() as (_, _, client):
        client.ask("resolve", topic="alpha")
        assert (await client.answer())["members"] == 0
        client.ask("subscribe", topic="alpha", port=client.port)
        await client.answer()
        client.ask("resolve", topic="alpha")
        assert (await client.answer())["members"] == 1


async def test_a_step_of_the_wall_clock_ends_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(lease=5) as (broker, _, client):
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        real, day = time.time, 86_400
        for step in (day, -day):
            monkeypatch.setattr(time, "time", lambda step=step: real() + step)
            monkeypatch.setattr(time, "time_ns", lambda step=step: int((real() + step) * 1e9))
            client.ask("heartbeat", port=client.port, received=[])
            await client.answer()
            broker._expiry.expire()
            client.ask("subscribe", topic="alpha", group="g", port=client.port)
            assert (await client.answer())["epoch"] == 2, "still the same route"
