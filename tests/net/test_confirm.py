"""What a broker lacks its publisher sends again: all comes once, and what does not is told exactly."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.brokers import Node, get
from support.waiting import LIMIT

from tempos import Publisher, Subscriber, Unconfirmed, blocking
from tempos._awaitables import in_time
from tempos.sending.asked import WORDS, Unkept
from tempos.sending.window import MARGIN, UNCERTAIN

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

TOPICS = """\
[[topic]]
id = 1
name = "orders"
class = "SQ"
journal = 10000
journal_bytes = 1472
[[topic]]
id = 300
name = "wide"
journal = 10000
[[topic]]
id = 3
name = "plain"
[[topic]]
id = 4
name = "raw"
framing = "raw"
journal = 10
"""
WINDOW = 4 << 20


class Confirming(Node):
    def __init__(self, folder: Path, way: str = "batches") -> None:
        super().__init__(folder, TOPICS, way)

    async def topic(self, name: str) -> dict[str, Any]:
        rows = (await asyncio.to_thread(get, self.api, "/v1/ledger"))["topics"]
        return next(row for row in rows if row["name"] == name)


class Lossy:
    """A publisher's socket that loses what it is told to, and keeps it."""

    def __init__(self, publisher: Publisher, loses: Callable[[], bool]) -> None:
        self._inner, self._loses = publisher._socket, loses
        self.lost: list[bytes] = []
        publisher._socket = self

    def send(self, datagram: bytes) -> int:
        if self._loses():
            self.lost.append(datagram)
            return len(datagram)
        return int(self._inner.send(datagram))

    def late(self) -> None:
        """What was lost comes all the same."""
        for datagram in self.lost:
            self._inner.send(datagram)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await in_time(holds(), LIMIT)


async def collect(subscriber: Subscriber, into: list[int]) -> None:
    async for events in subscriber.batches():
        into += [int(event.body) for event in events]


@pytest.mark.parametrize(
    ("way", "topic", "linger"),
    [
        ("batches", "orders", 0.001), ("batches", "wide", 0.0), ("worker", "orders", 0.0),
        ("portable", "wide", 0.001),
    ],
)  # fmt: skip
async def test_all_comes_once_and_what_comes_late_to_nobody(
    tmp_path: Path, way: str, topic: str, linger: float
) -> None:
    node, chance, events = Confirming(tmp_path, way), random.Random(1), 1500
    got: list[int] = []
    shared: list[int] = []
    with node.broker():
        async with node.subscriber(topic) as own, node.subscriber(topic, group="g") as one, node.subscriber(
            topic, group="g"
        ) as two, node.publisher(window=WINDOW, linger=linger) as publisher:  # fmt: skip
            readers = [
                asyncio.create_task(collect(member, into))
                for member, into in ((own, got), (one, shared), (two, shared))
            ]
            # Of what is sent in the moment in which the first members come nobody can be certain.
            joined = time.monotonic()
            await until(lambda: time.monotonic() - joined > 2 * MARGIN)
            await publisher.learn(topic)
            link = Lossy(publisher, lambda: chance.random() < 0.1)
            for number in range(events):
                await publisher.publish(topic, str(number).encode())
                if not number % 50:
                    await asyncio.sleep(0.001)
            await publisher.confirmed(LIMIT)
            assert link.lost
            assert publisher.stats.resent >= len(link.lost)
            await until(lambda: len(got) >= events and len(shared) >= events)
            link.late()
            await until_refused(node, topic, len(link.lost))
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
            assert sorted(got) == sorted(shared) == list(range(events))
            found = await node.topic(topic)
            assert found["balanced"], found["problems"]
            (row,) = [each for each in found["publishers"] if each["publisher"] == publisher.id]
            assert (row["repaired"], row["given_up"]) == (len(link.lost), 0)
            assert found["lost_before"]["repaired"] == len(link.lost)


async def until_refused(node: Confirming, topic: str, count: int) -> None:
    async def holds() -> None:
        while (await node.topic(topic))["refused"].get("repeated", 0) < count:
            await asyncio.sleep(0.02)

    await in_time(holds(), LIMIT)


async def test_why_nothing_is_confirmed_is_told_once(tmp_path: Path) -> None:
    node = Confirming(tmp_path)
    with node.broker():
        async with (
            node.publisher(window=WINDOW) as publisher,
            node.subscriber("plain"),
            node.subscriber("raw"),
        ):
            for topic in ("plain", "raw", "orders"):
                for _ in range(3):
                    await publisher.publish(topic, b"x")
            with pytest.raises(Unconfirmed) as told:
                await publisher.confirmed(LIMIT)
            assert told.value.missing == 9
            assert told.value.whys == {
                ("plain", WORDS[Unkept.NO_JOURNAL]): 3,
                ("raw", WORDS[Unkept.NO_JOURNAL]): 3,
                ("orders", WORDS[Unkept.NO_MEMBER]): 3,
            }
            await publisher.confirmed(LIMIT)
            async with node.subscriber("orders"):
                await publisher.publish("orders", b"x")
                await publisher.confirmed(LIMIT)


async def test_what_a_killed_broker_may_have_had_is_not_sent_again_and_told(tmp_path: Path) -> None:
    node = Confirming(tmp_path)
    member, publisher = node.subscriber("orders"), node.publisher(window=WINDOW)
    try:
        with node.broker(signal.SIGKILL):
            await member.__aenter__()
            await publisher.__aenter__()
            await publisher.publish("orders", b"0")
            await publisher.confirmed(LIMIT)
        link = Lossy(publisher, lambda: True)
        for number in range(5):
            await publisher.publish("orders", str(number).encode())
        with pytest.raises(Unconfirmed) as told:
            await publisher.confirmed(0.2)
        assert told.value.missing == 5
        with node.broker():
            link._loses = lambda: False
            await publisher.publish("orders", b"6")
            with pytest.raises(Unconfirmed) as told:
                await publisher.confirmed(LIMIT)
            assert {topic for topic, _ in told.value.whys} == {"orders"}
            assert {why for _, why in told.value.whys} <= {UNCERTAIN, WORDS[Unkept.NO_MEMBER]}
            assert told.value.missing >= 5
            # What is published from now on is confirmed as ever, once there is a member again.
            await until(lambda: "orders" in member.topics)
            async with node.subscriber("orders"), node.publisher(window=WINDOW) as other:
                await other.publish("orders", b"7")
                await other.confirmed(LIMIT)
    finally:
        await publisher.close()
        await member.drain(0.1)


def test_code_without_asyncio_and_the_command_confirm(tmp_path: Path) -> None:
    node = Confirming(tmp_path)
    with node.broker(), blocking.Subscriber("127.0.0.1", "orders", control_port=node.control) as member:
        where = f"127.0.0.1:{node.control}:{node.data}"
        with blocking.Publisher(where, window=WINDOW) as publisher:
            for number in range(100):
                publisher.publish("orders", str(number).encode())
            publisher.confirmed(LIMIT)
        command = [
            sys.executable,
            "-m",
            "tempos",
            "pub",
            "-b",
            where,
            "-t",
            "orders",
            "--confirm",
            str(LIMIT),
        ]
        text = "".join(f"{number}\n" for number in range(100, 10_000))
        subprocess.run([*command, "-l"], input=text, text=True, check=True, timeout=LIMIT)
        got = [int(member.next(LIMIT).body) for _ in range(10_000)]
        assert sorted(got) == list(range(10_000))
        command[command.index("orders")] = "plain"
        done = subprocess.run(
            [*command, "-m", "x"], capture_output=True, text=True, check=False, timeout=LIMIT
        )
        assert done.returncode == 1
        assert f"1 of 1 events of topic plain not confirmed: {WORDS[Unkept.NO_JOURNAL]}" in done.stderr


async def test_without_a_window_nothing_is_confirmed() -> None:
    async with Publisher("127.0.0.1", topics=()) as publisher:
        with pytest.raises(Exception, match="without a window"):
            await publisher.confirmed()
