"""Subscribers without a group: every one gets every event, in the kernel as long as it carries so many.

There may be far more, which the slow path serves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path as File

import pytest
from support.life import EVENTS as TOPIC_ID
from support.life import Life
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import DATA_PORT, Path, Subscriber, Topic
from tempos._abi import MAX_GROUPS
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
#: Slow enough for 65 who read in one process that others hold up.
RATE, EVENTS = 200, 1_000_000


class Reader:
    """One subscriber and the sequences it got."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.got: list[int] = []
        self.newest = -1
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def until(self, sequence: int) -> None:
        """Wait until an event of at least this sequence came."""
        while self.newest < sequence:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), LIMIT)

    async def more(self) -> None:
        """Wait until quite a few more came."""
        await self.until(0)
        await self.until(self.newest + RATE // 10)

    async def drain(self) -> None:
        drained = await self.subscriber.drain()
        assert drained is not None
        assert drained.lost == 0
        await self._task

    async def _read(self) -> None:
        async for event in self.subscriber:
            assert event.sequence is not None
            self.got.append(event.sequence)
            self.newest = max(self.newest, event.sequence)
            self._changed.set()


async def join(topology: Topology) -> Reader:
    subscriber = Subscriber(topology.facing_subscriber, TOPIC.name)
    await subscriber.__aenter__()
    return Reader(subscriber)


async def news(topology: Topology, broker: Broker) -> list[Reader]:
    """One after another joins, one more than the kernel carries; three leave; at last all do."""
    readers = [await join(topology)]
    await asyncio.to_thread(broker.wait_path, TOPIC.name, Path.FAST)
    blast = topology.publisher.role(
        "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", TOPIC.id,
        "--count", EVENTS, "--rate", RATE,
    )  # fmt: skip
    while len(readers) < MAX_GROUPS:
        readers.append(await join(topology))
    status = await asyncio.to_thread(broker.wait_path, TOPIC.name, Path.FAST)
    assert len(status.groups) == MAX_GROUPS
    readers.append(await join(topology))
    status = await asyncio.to_thread(broker.wait_path, TOPIC.name, Path.SLOW)
    assert f"{MAX_GROUPS + 1} groups" in status.reason
    await readers[-1].more()
    leaving, staying = readers[2:5], readers[:2] + readers[5:]
    for reader in leaving:
        await reader.drain()
    await asyncio.to_thread(broker.wait_path, TOPIC.name, Path.FAST)
    await staying[-1].more()
    await asyncio.to_thread(blast.terminate)
    sent = (await asyncio.to_thread(blast.result, LIMIT))["sent"]
    for reader in staying:
        await reader.until(sent - 1)
        await reader.drain()
    return [*leaving, *staying]


@pytest.mark.kernel
def test_one_more_than_the_kernel_carries_moves_all_to_the_slow_path_and_back() -> None:
    require_netns()
    require_kernel()
    limits = {"groups_per_client": MAX_GROUPS + 1}
    with (
        build("straight") as topology,
        Broker(topology.broker, {TOPIC: ()}, mode="native", limits=limits) as broker,
    ):
        readers = topology.subscriber.call(lambda: asyncio.run(news(topology, broker)))
        status = broker.topic(TOPIC.name)

    assert len(readers) == MAX_GROUPS + 1
    for reader in readers:
        first = min(reader.got)
        # Events may overtake others where the path changes; none is lost, none comes twice.
        assert sorted(reader.got) == list(range(first, first + len(reader.got)))
        assert reader.subscriber.stats.missed == 0
    assert status.closed, status
    assert min(status.fast, status.slow) > 0


@pytest.mark.parametrize("worker", [False, True], ids=["", "worker"])
def test_a_hundred_get_everything_over_a_kill(tmp_path: File, worker: bool) -> None:
    """More than have a ticket of their own; all are in the ledger, to the event."""
    require_netns()
    options = {
        "quality": {"worker_sq": worker},
        "limits": {"groups_per_client": 100},
    }

    def start(life: Life) -> None:
        life.start({TOPIC_ID: {"name": "events", "class": "SQ"}}, {"mode": "off"}, **options)

    async def read(life: Life) -> list[Reader]:
        subscribers = [Subscriber(life.topology.facing_subscriber, "events") for _ in range(100)]
        await asyncio.gather(*(each.__aenter__() for each in subscribers))
        readers = [*map(Reader, subscribers)]
        await asyncio.to_thread(life.send, TOPIC_ID)
        for reader in readers:
            await reader.until(49)
        await asyncio.to_thread(life.kill)
        await asyncio.to_thread(start, life)
        await asyncio.to_thread(life.send, TOPIC_ID)
        for reader in readers:
            await reader.until(99)
        await asyncio.to_thread(until, lambda: delivered(life) == [100] * 100, lambda: delivered(life))
        await asyncio.gather(*(reader.drain() for reader in readers))
        return readers

    def delivered(life: Life) -> list[int]:
        return [group["delivered"] for group in life.topic("events")["groups"] if group["tickets"] == 100]

    with build("straight") as topology, Life(topology, tmp_path) as life:
        start(life)
        readers = topology.subscriber.call(lambda: asyncio.run(read(life)))
        account = life.topic("events")
    assert [reader.got for reader in readers] == [list(range(100))] * 100
    assert (account["received"], account["slow"], account["problems"]) == (100, 100, [])
