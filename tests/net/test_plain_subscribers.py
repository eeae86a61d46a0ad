"""Subscribers without a group: every one gets every event, in the kernel as long as it carries so many."""

from __future__ import annotations

import asyncio

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Path, Subscriber, Topic
from tempos._abi import MAX_GROUPS
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

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
