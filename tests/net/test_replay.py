"""New members are given what was before them, out of journals, then what is live: nothing twice, no gap."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from support.brokers import WAYS, Node, get
from support.waiting import LIMIT

from tempos import Admin, Event, LocalError, Subscriber
from tempos._awaitables import in_time

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

TOPICS = """\
[[topic]]
id = 1
name = "plant/alarms"
class = "SQ"
journal = 4096
retain = true
[[topic]]
id = 2
name = "plant/raw"
framing = "raw"
journal = 256
retain = true
[[topic]]
id = 400
name = "plant/wide"
journal = 1024
[[topic]]
id = 4
name = "bare"
"""
NAMES = ("plant/alarms", "plant/raw", "plant/wide")


class Replaying(Node):
    """What becomes of its topics' events."""

    def __init__(self, folder: Path, way: str = "batches", topics: str = TOPICS) -> None:
        super().__init__(folder, topics, way)

    def is_balanced(self) -> bool:
        ledger = get(self.api, "/v1/ledger")
        for topic in ledger["topics"]:
            for group in topic["groups"]:
                if group["tickets"] != group["delivered"] + group["dropped"]:
                    return False
        return bool(ledger["balanced"])


async def take(subscriber: Subscriber, count: int) -> list[Event]:
    return [await in_time(anext(subscriber), LIMIT) for _ in range(count)]


def told(events: list[Event]) -> list[tuple[bytes, bool]]:
    return [(event.body, event.is_replayed) for event in events]


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_before_comes_first_and_what_is_live_follows(tmp_path: Path, way: str) -> None:
    node = Replaying(tmp_path, way)
    with node.broker():
        async with node.publisher() as publisher, node.subscriber(*NAMES, group="kept") as kept:

            async def send(topic: str, *numbers: int) -> None:
                for number in numbers:
                    await publisher.publish(topic, b"%d" % number)
                    await in_time(anext(kept), LIMIT)

            for topic in NAMES:
                await send(topic, *range(40))
                async with (
                    node.subscriber(topic, start=10) as some,
                    node.subscriber(topic, start="last") as one,
                ):
                    await send(topic, 40, 41)
                    live = [(b"40", False), (b"41", False)]
                    assert (
                        told(await take(some, 12)) == [(b"%d" % each, True) for each in range(30, 40)] + live
                    )
                    assert told(await take(one, 3)) == [(b"39", True), *live]
                    assert some.stats.replayed == 10
                    assert some.stats.datagrams == 2
                    assert (some.stats.missed, some.stats.replay_gone) == (0, 0)
                journal = (await asyncio.to_thread(get, node.api, f"/v1/topics/{topic.replace('/', '%2F')}"))[
                    "journal"
                ]
                # What is on its way for long is asked for again.
                assert journal["replays"] >= 2
                assert journal["replayed"] >= 11
                async with node.subscriber(topic, start=timedelta(hours=1)) as every:
                    assert told(await take(every, 42)) == [(b"%d" % each, True) for each in range(42)]
                    first = (await take_again(node, topic))[0]
                    assert first.delivery_sequence is None
                    assert first.topic == topic
                    assert (first.sequence, first.missed) == (None if topic == "plant/raw" else 0, 0)
            # Whoever asks for nothing is given the last one, where topics are so; by filters, too.
            async with node.subscriber("plant/#") as member:
                found = {event.topic: (event.body, event.is_replayed) for event in await take(member, 2)}
                assert found == {"plant/alarms": (b"41", True), "plant/raw": (b"41", True)}
                await send("plant/wide", 50)
                assert told(await take(member, 1)) == [(b"50", False)]
            async with node.subscriber("plant/#", start="live") as member:
                await send("plant/alarms", 42)
                assert told(await take(member, 1)) == [(b"42", False)]
            # A batch is its events.
            for name in ("plant/alarms", "plant/wide"):
                async with publisher.batch():
                    for body in (b"a", b"b", b"c"):
                        await publisher.publish(name, body)
                await take(kept, 3)
                async with node.subscriber(name, start=1) as member:
                    events = await take(member, 3)
                    assert told(events) == [(b"a", True), (b"b", True), (b"c", True)]
                    first = events[0].sequence or 0
                    assert [event.sequence for event in events] == [first, first + 1, first + 2]
        assert node.is_balanced()


async def take_again(node: Replaying, topic: str) -> list[Event]:
    async with node.subscriber(topic, start=4000) as member:
        return await take(member, 42)


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_missing_or_twice_where_replay_meets_live(tmp_path: Path, way: str) -> None:
    # Whoever comes or goes has the next epoch begin some hundred places further on.
    large = TOPICS.replace("journal = 4096", "journal = 32768\njournal_bytes = 64")
    node = Replaying(tmp_path, way, large)
    with node.broker():
        done = asyncio.Event()
        sent = 0
        async with node.publisher() as publisher, node.subscriber("plant/alarms", group="kept") as kept:

            async def flow() -> None:
                nonlocal sent
                while not done.is_set():
                    await publisher.publish("plant/alarms", b"%d" % sent)
                    sent += 1
                    await in_time(anext(kept), LIMIT)

            flowing = asyncio.ensure_future(flow())

            async def member(number: int) -> None:
                async with node.subscriber("plant/alarms", start=50 + 100 * number) as one:
                    events = await take(one, 60)
                    while events[-1].is_replayed:
                        events += await take(one, 20)
                    events += await take(one, 20)
                    numbers = [int(event.body) for event in events]
                    flags = [event.is_replayed for event in events]
                    known = f"{sum(flags)} replayed, {one.stats}"
                    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), known
                    assert flags == sorted(flags, reverse=True)
                    assert one.stats.replay_gone == 0

            for turn in range(3):
                await asyncio.gather(*(member(turn + number) for number in range(3)))
            done.set()
            await flowing
        assert node.is_balanced()


async def test_what_cannot_be_had_is_told(tmp_path: Path) -> None:
    node = Replaying(tmp_path)
    with node.broker():
        with pytest.raises(LocalError, match="no journal"):
            async with node.subscriber("bare", start="last"):
                pass
        for start in (0, -1, 70_000, "first", True, 1.5, timedelta()):
            with pytest.raises(LocalError, match="start"):
                node.subscriber("plant/wide", start=start)
        admin = Admin(f"http://127.0.0.1:{node.api}")
        await admin.add_topic("small", journal=8, journal_bytes=40, retain=True)
        async with node.publisher() as publisher, node.subscriber("small", group="kept") as kept:
            for body in (b"short", b"x" * 100, b"end"):
                await publisher.publish("small", body)
                await in_time(anext(kept), LIMIT)
            async with node.subscriber("small", start=3) as member:
                assert told(await take(member, 2)) == [(b"short", True), (b"end", True)]
                assert member.stats.replay_gone == 1
            changed = await admin.set_topic("small", retain=None)
            assert not changed.topic.retain
            async with node.subscriber("small") as member:
                await publisher.publish("small", b"live")
                assert told(await take(member, 1)) == [(b"live", False)]


async def test_the_command_prints_what_was_before(tmp_path: Path) -> None:
    node = Replaying(tmp_path)
    with node.broker():
        async with node.publisher() as publisher, node.subscriber("plant/wide", group="kept") as kept:
            for number in range(5):
                await publisher.publish("plant/wide", b"%d" % number)
                await in_time(anext(kept), LIMIT)
            for option, count in (("--last=2", 2), ("--since=1h", 5)):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tempos", "sub", "-t", "plant/wide", option, "--count", str(count),
                    "--control-port", str(node.control), "-q", stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                out, _ = await in_time(process.communicate(), LIMIT)
                assert out.decode().split() == [str(number) for number in range(5 - count, 5)]
