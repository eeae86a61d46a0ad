"""Members join, leave and drain while events flow, through a real broker on loopback: nothing goes astray."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tempos import ControlRefused, Framing, LocalError, Publisher, Subscriber, Topic
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.paths import NoFastPath

from .test_broker import free_ports, until

EVENTS = Topic(1, "events")
PLAIN = Topic(2, "plain", framing=Framing.RAW)


@asynccontextmanager
async def broker(**control: float) -> AsyncIterator[Broker]:
    data, port = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(EVENTS), TopicConfig(PLAIN)),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=port,
        api_port=0,
        control=ControlConfig(**control),
    )
    async with Broker(config, NoFastPath("off")) as running:
        yield running


class Traffic:
    """Numbered events, published until it is stopped, and how often each number arrived."""

    def __init__(self, config: BrokerConfig, topic: str) -> None:
        self._config = config
        self._topic = topic
        self._stop = asyncio.Event()
        self.sent = 0
        self.got: Counter[int] = Counter()

    async def run(self) -> None:
        async with Publisher(
            "127.0.0.1", data_port=self._config.data_port, control_port=self._config.control_port
        ) as publisher:
            while not self._stop.is_set():
                # Of a topic that is no more a publisher is told, and goes on when there is one again.
                with contextlib.suppress(ControlRefused):
                    for _ in range(20):
                        await publisher.publish(self._topic, self.sent.to_bytes(4, "big"))
                        self.sent += 1
                await asyncio.sleep(0.001)

    async def read(self, subscriber: Subscriber) -> int:
        count = 0
        async for event in subscriber:
            self.got[int.from_bytes(event.body, "big")] += 1
            count += 1
        return count

    def stop(self) -> None:
        self._stop.set()

    def all_arrived(self) -> bool:
        return len(self.got) == self.sent

    def subscriber(self, group: str = "g") -> Subscriber:
        return Subscriber("127.0.0.1", self._topic, group=group, control_port=self._config.control_port)


def assert_exact(running: Broker, traffic: Traffic) -> None:
    """Every event arrived once, and the ledger says so."""
    assert traffic.got == Counter(range(traffic.sent))
    document = running.ledger()
    assert document["balanced"], document
    (topic,) = (entry for entry in document["topics"] if entry["name"] == traffic._topic)
    (group,) = (entry for entry in topic["groups"] if entry["name"] == "g")
    assert topic["received"] == topic["slow"] == group["tickets"] == traffic.sent
    assert (group["delivered"], group["lost"], group["unknown"]) == (traffic.sent, 0, 0)


@pytest.mark.parametrize("topic", ["events", "plain"])
async def test_one_of_three_members_drains(topic: str) -> None:
    async with broker() as running:
        traffic = Traffic(running.config, topic)
        members = [traffic.subscriber() for _ in range(3)]
        for member in members:
            await member.__aenter__()
        readers = [asyncio.create_task(traffic.read(member)) for member in members]
        publishing = asyncio.create_task(traffic.run())
        await until(lambda: members[0].stats.events > 500)
        drained = await members[0].drain()
        assert drained is not None
        assert drained.lost == 0
        assert drained.ticketed == drained.delivered == members[0].stats.datagrams
        assert await readers[0] == drained.delivered
        before = members[1].stats.events
        await until(lambda: members[1].stats.events > before + 200)
        traffic.stop()
        await publishing
        await until(traffic.all_arrived)
        # The iterators end with the close; what the others got is told by their drains.
        for member in members[1:]:
            await member.close()
        assert sum([await reader for reader in readers]) == traffic.sent
        assert_exact(running, traffic)
        assert [group["members"] for group in running.status()["topics"][0]["groups"]] in ([], [[]])


async def test_one_topic_of_two_is_left_while_events_flow() -> None:
    async with broker(lease=4.0, heartbeat=0.05) as running:
        left, kept = Traffic(running.config, "events"), Traffic(running.config, "plain")
        member = Subscriber(
            "127.0.0.1", "events", "plain", group="g", control_port=running.config.control_port
        )
        await member.__aenter__()
        other = left.subscriber()
        await other.__aenter__()

        async def read() -> None:
            async for event in member:
                traffic = left if event.topic == "events" else kept
                traffic.got[int.from_bytes(event.body, "big")] += 1

        readers = [asyncio.create_task(read()), asyncio.create_task(left.read(other))]
        publishing = [asyncio.create_task(traffic.run()) for traffic in (left, kept)]
        await until(lambda: len(kept.got) > 300 and len(left.got) > 300)
        await member.unsubscribe("events")
        with pytest.raises(LocalError, match="no member of 'events'"):
            await member.unsubscribe("events")
        goal = kept.sent + 300
        await until(lambda: kept.sent > goal)
        for traffic in (left, kept):
            traffic.stop()
        await asyncio.gather(*publishing)
        await until(lambda: left.all_arrived() and kept.all_arrived())
        for each in (member, other):
            drained = await each.drain()
            assert drained is not None
            assert drained.lost == 0
        await asyncio.gather(*readers)
        assert_exact(running, left)
        assert_exact(running, kept)


async def test_members_come_and_go_all_the_time() -> None:
    rng = random.Random(7)
    async with broker() as running:
        traffic = Traffic(running.config, "events")
        first = traffic.subscriber()
        await first.__aenter__()
        present = [first]
        readers = [asyncio.create_task(traffic.read(first))]
        publishing = asyncio.create_task(traffic.run())
        for _ in range(60):
            if len(present) > 1 and (len(present) == 8 or rng.random() < 0.5):
                drained = await present.pop(rng.randrange(len(present))).drain()
                assert drained is not None
                assert drained.lost == 0
            else:
                member = traffic.subscriber()
                await member.__aenter__()
                present.append(member)
                readers.append(asyncio.create_task(traffic.read(member)))
            goal = traffic.sent + 50
            await until(lambda goal=goal: traffic.sent >= goal)
        traffic.stop()
        await publishing
        await until(traffic.all_arrived)
        for member in present:
            await member.close()
        assert sum([await reader for reader in readers]) == traffic.sent
        assert running.status()["topics"][0]["epoch"] == 1 + 1 + 60 + len(present)
        assert_exact(running, traffic)


async def test_what_members_got_is_in_the_account_however_many_come_and_go_between_two_heartbeats() -> None:
    """A route for each would be more epochs than a member can tell of, or tell apart."""
    async with broker(heartbeat=1.0) as running:
        traffic = Traffic(running.config, "events")
        async with traffic.subscriber() as member:
            reading = asyncio.create_task(traffic.read(member))
            publishing = asyncio.create_task(traffic.run())
            await until(lambda: traffic.sent > 0)
            registry, routes, first = running._registry, running._routes, running._routes.epoch(EVENTS.id)
            swaps = []
            for number in range(400):
                endpoint = ("127.0.0.9", 2000 + number // 2)
                if number % 2:
                    registry.goodbye(endpoint, 5)
                else:
                    registry.subscribe("events", "others", endpoint, 5, asyncio.get_running_loop().time())
                swaps.append(asyncio.create_task(routes.swap(EVENTS.id)))
                await asyncio.sleep(0.001)
            await asyncio.gather(*swaps)
            traffic.stop()
            await publishing
            assert routes.epoch(EVENTS.id) - first > 48
            assert await member.drain(5)
            await reading
        assert traffic.got == Counter(range(traffic.sent))
        (topic,) = (each for each in running.ledger()["topics"] if each["name"] == "events")
        assert topic["balanced"], topic
        (group,) = (each for each in topic["groups"] if each["name"] == "g")
        assert (group["delivered"], group["lost"], group["unknown"]) == (traffic.sent, 0, 0)
