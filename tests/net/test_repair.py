"""What members miss they have sent again, by a running broker: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.brokers import WAYS, Node, get, post
from support.waiting import LIMIT

from tempos import Publisher, Subscriber
from tempos._awaitables import in_time

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

TOPICS = """\
[[topic]]
id = 1
name = "orders"
class = "SQ"
journal = {journal}
journal_bytes = 200
[[topic]]
id = 300
name = "wide"
journal = {journal}
repair = true
[[topic]]
id = 3
name = "logs"
journal = 1000
"""


class Repairing(Node):
    """Its members have sent again what they missed."""

    def __init__(self, folder: Path, way: str = "batches", *, journal: int = 10_000) -> None:
        super().__init__(folder, TOPICS.format(journal=journal), way)

    def subscriber(self, *topics: str, **options: Any) -> Subscriber:
        # On a machine that is busy with other things, too.
        return super().subscriber(*topics, **{"repair": LIMIT, **options})

    async def ledger(self, topic: str) -> dict[str, Any]:
        rows = (await asyncio.to_thread(get, self.api, "/v1/ledger"))["topics"]
        return next(row for row in rows if row["name"] == topic)


def lossy(subscriber: Subscriber, loses: Callable[[bytes], bool]) -> Counter[str]:
    """Have what comes to a subscriber lost before it sees it, where ``loses`` says so; counts them."""
    lost: Counter[str] = Counter()
    reader, receive = subscriber._reader, subscriber._intake.receive

    def through(datagram: bytes) -> None:
        if loses(datagram):
            lost["told" if datagram[:1] == b"\0" else "events"] += 1
        else:
            receive(datagram)

    assert reader is not None
    reader._receive = through  # type: ignore[attr-defined]
    return lost


def some(share: float, seed: int) -> Callable[[bytes], bool]:
    """Loses a share of what comes, whatever that is."""
    chance = random.Random(seed)
    return lambda datagram: chance.random() < share


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await in_time(holds(), LIMIT)


async def until_received(node: Repairing, topic: str, events: int) -> None:
    async def holds() -> None:
        while (await node.ledger(topic))["received"] < events:
            await asyncio.sleep(0.005)

    await in_time(holds(), LIMIT)


async def collect(subscriber: Subscriber, into: list[int]) -> None:
    async for events in subscriber.batches():
        into += [int(event.body) for event in events]


async def publish(publisher: Publisher, topic: str, numbers: range, pause: int = 50) -> None:
    for number in numbers:
        await publisher.publish(topic, str(number).encode())
        if not number % pause:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path, way: str) -> None:
    node = Repairing(tmp_path, way)
    events = 3000
    with node.broker():
        shares = [node.subscriber("orders", group="work") for _ in range(3)]
        alone = [node.subscriber("orders", ordered=True)]
        members = [await each.__aenter__() for each in (*shares, *alone)]
        lost = [lossy(each, some(0.1, seed)) for seed, each in enumerate(members)]
        got: list[list[int]] = [[] for _ in members]
        readers = [asyncio.ensure_future(collect(*each)) for each in zip(members, got, strict=True)]
        async with node.publisher() as publisher:
            await publish(publisher, "orders", range(events))
        await until(lambda: len(got[3]) == events)
        drained = [await each.drain() for each in members]
        await asyncio.gather(*readers)
        ledger = await node.ledger("orders")
    assert sorted(number for each in got[:3] for number in each) == list(range(events))
    assert got[3] == list(range(events))
    for member, what, end in zip(members, lost, drained, strict=True):
        stats = member.stats
        assert end is not None
        assert end.lost == 0
        assert (stats.missed, stats.given_up, stats.malformed) == (0, 0, {})
        # What was sent again may have been lost again.
        assert 0 < stats.repaired <= what["events"]
    assert ledger["balanced"]
    assert sum(group["lost"] for group in ledger["groups"]) == 0
    assert sum(group["repaired"] for group in ledger["groups"]) == sum(m.stats.repaired for m in members)


async def test_the_last_event_is_missed_although_none_follows(tmp_path: Path) -> None:
    node = Repairing(tmp_path)
    with node.broker():
        async with node.subscriber("orders", "wide") as subscriber, node.publisher() as publisher:
            lost = lossy(subscriber, lambda datagram: datagram.endswith(b"lost") and not datagram[1] & 2
                         and not (datagram[0] == 255 and datagram[24] & 2))  # fmt: skip
            for topic in ("orders", "wide"):
                await publisher.publish(topic, b"came")
                await publisher.publish(topic, b"lost")
                bodies = [(await subscriber.next(LIMIT)).body for _ in range(2)]
                assert bodies == [b"came", b"lost"]
        assert lost["events"] == 2
        assert subscriber.stats.repaired == 2
        assert subscriber.stats.missed == subscriber.stats.given_up == subscriber.stats.late == 0


async def test_what_has_left_the_journal_is_given_up_and_told(tmp_path: Path) -> None:
    node = Repairing(tmp_path, journal=8)
    with node.broker():
        async with node.subscriber("orders", ordered=True) as subscriber, node.publisher() as publisher:
            deaf = True
            lossy(subscriber, lambda datagram: deaf)
            for number in range(100):
                await publisher.publish("orders", str(number).encode())
            await publisher.flush()
            await until_received(node, "orders", 100)
            deaf = False
            await publisher.publish("orders", b"100")
            first = await subscriber.next(LIMIT)
            got = [first, *[await subscriber.next(LIMIT) for _ in range(100 - int(first.body))]]
            assert [int(event.body) for event in got] == list(range(int(first.body), 101))
            assert sum(event.missed for event in got) == int(first.body)
            drained = await subscriber.drain(0.2)
        stats = subscriber.stats
        ledger = await node.ledger("orders")
    assert drained is not None
    assert stats.given_up == stats.missed == drained.lost == int(first.body) > 80
    (group,) = ledger["groups"]
    assert (group["given_up"], group["repaired"]) == (stats.given_up, stats.repaired)
    assert group["lost"] == stats.given_up
    assert ledger["balanced"]


async def test_topics_that_are_not_repaired_are_as_ever(tmp_path: Path) -> None:
    node = Repairing(tmp_path)
    with node.broker():
        async with (
            node.subscriber("logs") as unrepaired,
            node.subscriber("orders", repair=0) as asks_nothing,
            node.publisher() as publisher,
        ):
            members = (unrepaired, "logs"), (asks_nothing, "orders")
            for subscriber, topic in members:
                lossy(subscriber, lambda datagram: datagram.endswith(b"1"))
                for number in range(3):
                    await publisher.publish(topic, str(number).encode())
                got = [await subscriber.next(LIMIT) for _ in range(2)]
                assert [event.body for event in got] == [b"0", b"2"]
                assert [event.missed for event in got] == [0, 1]
                assert subscriber.stats.repaired == subscriber.stats.given_up == 0
                assert subscriber.stats.missed == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_journal_changes_its_size_while_it_is_repaired_from_and_followed(
    tmp_path: Path, way: str
) -> None:
    node = Repairing(tmp_path, way)
    events = 3000
    command = [sys.executable, "-u", "-m", "tempos", "tap", "orders", "--follow", "--json"]
    with node.broker():
        member = await node.subscriber("orders").__aenter__()
        lossy(member, some(0.1, 7))
        got: list[int] = []
        reader = asyncio.ensure_future(collect(member, got))
        following = await asyncio.create_subprocess_exec(
            *command, "--api", f"127.0.0.1:{node.api}", stdout=asyncio.subprocess.PIPE
        )
        try:
            async with node.publisher() as publisher:
                sizes = iter((20_000, 5_000, 4_000, 30_000))
                for first in range(0, events, 600):
                    await publish(publisher, "orders", range(first, first + 600))
                    if (size := next(sizes, None)) is not None:
                        await resize(node, size)
            await until(lambda: len(got) >= events)
            assert following.stdout is not None
            told = []
            while len(told) < events:
                told.append(json.loads(await in_time(following.stdout.readline(), LIMIT)))
        finally:
            following.send_signal(signal.SIGINT)
            await following.wait()
        drained = await member.drain()
        await reader
        ledger = await node.ledger("orders")
    assert sorted(got) == list(range(events))
    assert [int(row["body"]) for row in told] == list(range(events))
    assert drained is not None
    assert (drained.lost, member.stats.missed, member.stats.given_up) == (0, 0, 0)
    assert member.stats.repaired > 0
    assert ledger["balanced"]


async def resize(node: Repairing, journal: int) -> None:
    """Another size of the journals, by a reload."""
    text = node.file.read_text()
    node.file.write_text(re.sub(r"journal = \d{4,}", f"journal = {journal}", text))
    await asyncio.to_thread(post, node.api, "/v1/reload")
