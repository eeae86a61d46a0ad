"""What reaches a member and not its program has a name in the ledger, and whose it was is in the status."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.ports import free_ports

from tempos import Framing, PathPolicy, Publisher, Quality, Subscriber, Topic, blocking, wire
from tempos._abi import FLAG_BATCH
from tempos.cli import ledger as ledger_command
from tempos.cli import status as status_command
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig

from .test_broker import FakeFastPath, until

EVENTS = Topic(1, "events", Quality.BQ, 0, Framing.EVENT, PathPolicy.SLOW)
PLAIN = Topic(2, "plain", Quality.BQ, 0, Framing.RAW, PathPolicy.SLOW)
GOOD = ["tickets", "delivered", "dropped", "unconfirmed", "lost", "unknown"]


@asynccontextmanager
async def running() -> AsyncIterator[Broker]:
    data, control, _ = free_ports(3)
    config = BrokerConfig(
        (TopicConfig(EVENTS), TopicConfig(PLAIN)),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        control=ControlConfig(heartbeat=0.05),
    )
    async with Broker(config, FakeFastPath()) as broker:
        yield broker


def subscriber(broker: Broker, topic: str, group: str | None = "g", **options: Any) -> Subscriber:
    port = broker.config.control_port
    return Subscriber("127.0.0.1", topic, group=group, control_port=port, **options)


def publisher(broker: Broker) -> Publisher:
    config = broker.config
    return Publisher("127.0.0.1", data_port=config.data_port, control_port=config.control_port)


def account(broker: Broker, topic: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(each for each in broker.ledger()["topics"] if each["name"] == topic)
    assert entry["balanced"], entry["problems"]
    for group in entry["groups"]:
        assert group["tickets"] == sum(group[name] for name in GOOD[1:])
    return entry


def group(broker: Broker, topic: str) -> dict[str, Any]:
    (found,) = account(broker, topic)["groups"]
    return dict(found)


@pytest.mark.parametrize("topic", ["events", "plain"])
async def test_what_a_slow_consumer_drops_is_not_delivered_and_who_it_was_is_told(topic: str) -> None:
    async with running() as broker, publisher(broker) as pub:
        async with subscriber(broker, topic, queue=10) as slow, subscriber(broker, topic) as quick:
            for number in range(200):
                await pub.publish(topic, b"%d" % number)
                if number % 2:
                    await quick.next(5)
            await until(lambda: slow.stats.queue_full == 90)
            await until(lambda: group(broker, topic)["dropped"] == 90)
            await until(lambda: group(broker, topic)["delivered"] == 110)
            (shown,) = next(each for each in broker.status()["topics"] if each["name"] == topic)["groups"]
            members = {each["port"]: each for each in shown["members"]}
            assert members[slow.member.port]["dropped"] == 90
            assert (members[slow.member.port]["waiting"], members[slow.member.port]["queue"]) == (10, 10)
            assert members[quick.member.port]["dropped"] == 0
            (named,) = broker.status()["slow_consumers"]
            assert (named["port"], named["groups"]) == (slow.member.port, [{"topic": topic, "group": "g"}])
            assert named["reason"] == "drops what it gets, 10 of 10 events wait"
            lines = list(status_command.render(broker.status()))
            at = lines.index("slow consumers")
            assert lines[at + 1] == (
                f"  {slow.member}: drops what it gets, 10 of 10 events wait ({topic} group g)"
            )
            # Those that wait are thrown away when it leaves without having taken them.
        assert slow.stats.discarded == slow.stats.discarded_events == 10
        assert slow.stats.queue_full == 90
        told = group(broker, topic)
        assert [told[name] for name in GOOD] == [200, 100, 100, 0, 0, 0]
        lines = list(ledger_command.render(broker.ledger()))
        assert any(line.split()[:4] == ["g", "200", "100", "100"] for line in lines)


@pytest.mark.parametrize("topic", ["events", "plain"])
async def test_what_is_read_after_a_drain_was_delivered(topic: str) -> None:
    async with running() as broker, publisher(broker) as pub:
        async with subscriber(broker, topic) as sub:
            for number in range(20):
                await pub.publish(topic, b"%d" % number)
            await until(lambda: sub.stats.datagrams == 20)
            assert await sub.drain(5)
            assert [(await sub.next()).body for _ in range(20)] == [b"%d" % number for number in range(20)]
        assert [group(broker, topic)[name] for name in GOOD] == [20, 20, 0, 0, 0, 0]


async def test_another_task_reads_on_while_the_block_is_left() -> None:
    async with running() as broker, publisher(broker) as pub:
        got: list[bytes] = []
        began, go_on = asyncio.Event(), asyncio.Event()

        async def consume(sub: Subscriber) -> None:
            async for event in sub:
                got.append(event.body)
                began.set()
                await go_on.wait()

        async with subscriber(broker, "events") as sub:
            consumer = asyncio.create_task(consume(sub))
            for number in range(20):
                await pub.publish("events", b"%d" % number)
            await began.wait()
            await until(lambda: sub.stats.datagrams == 20)
        go_on.set()
        await consumer
        assert len(got) == 20
        assert [group(broker, "events")[name] for name in GOOD] == [20, 20, 0, 0, 0, 0]


async def test_a_batch_of_which_something_is_thrown_away_was_not_delivered() -> None:
    async with running() as broker, publisher(broker) as pub:
        async with subscriber(broker, "events") as sub:
            for _ in range(3):
                async with pub.batch():
                    for number in range(10):
                        await pub.publish("events", number)
            await until(lambda: sub.stats.events == 30)
            for _ in range(14):
                await sub.next(5)
        assert (sub.stats.discarded, sub.stats.discarded_events) == (2, 16)
        assert [group(broker, "events")[name] for name in GOOD] == [3, 1, 2, 0, 0, 0]


async def test_a_damaged_batch_reached_the_member_and_not_its_program() -> None:
    async with running() as broker, publisher(broker) as pub:
        async with subscriber(broker, "events") as sub:
            await pub.publish("events", b"good")
            # A batch whose one body is longer than it is.
            pub._socket.send(wire.encode_event(1, pub.id, 7, 0, b"\x00\x09abc", FLAG_BATCH))
            await pub.publish("events", b"good")
            assert [(await sub.next(5)).missed for _ in range(2)] == [0, 1]
        assert sub.stats.malformed == {"bad_batch": 1}
        assert [group(broker, "events")[name] for name in GOOD] == [3, 2, 1, 0, 0, 0]


async def test_drops_of_many_epochs_ago_are_in_the_sum_all_the_same() -> None:
    async with running() as broker, publisher(broker) as pub:
        async with subscriber(broker, "events", queue=1000) as sub:
            for number in range(40):
                await pub.publish("events", number)
                await until(lambda number=number: sub.stats.datagrams == number + 1)
                async with subscriber(broker, "events", group="other"):
                    pass
            await sub.next(5)
        assert sub.stats.discarded == 39
        told = next(each for each in account(broker, "events")["groups"] if each["name"] == "g")
        assert (told["tickets"], told["lost"], told["unconfirmed"]) == (40, 0, 0)
        assert told["delivered"] + told["dropped"] == 40
        assert told["dropped"] == 39


@pytest.mark.skipif(sys.platform != "linux", reason="SO_RXQ_OVFL is Linux")
async def test_what_the_kernel_lost_at_a_members_socket_is_named() -> None:
    async with running() as broker, subscriber(broker, "events", receive_buffer=4096) as sub:
        epoch = broker.status()["topics"][0]["epoch"]
        # Sent without a turn of the loop, which would read.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((sub.member.ip, sub.member.port))
            for number in range(60):
                datagram = bytearray(wire.encode_event(1, 9, number, 0, bytes(1000)))
                wire.stamp(datagram, epoch, number)
                sender.send(datagram)
            await until(lambda: sub.stats.datagrams > 0)
            # The kernel tells with the next one.
            sender.send(datagram)
        await until(lambda: bool(broker.status()["slow_consumers"]))
        (named,) = broker.status()["slow_consumers"]
        assert "its socket overflows" in named["reason"]
        assert named["overruns"] == sub.stats.overruns > 0


async def test_who_takes_so_many_leaves_and_says_what_it_was_given_beyond() -> None:
    async with running() as broker, publisher(broker) as pub:
        control = str(broker.config.control_port)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tempos", "sub", "--control-port", control, "-t", "events", "-g", "g",
            "--count", "3", "--stats",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        await process.stderr.readline()
        async with pub.batch():
            for number in range(10):
                await pub.publish("events", str(number).encode())
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert out == b"0\n1\n2\n"
        assert process.returncode == 0
        assert "7 more events had come and were not printed" in err.decode()
        assert "1 dropped (not printed)" in err.decode()
        assert [group(broker, "events")[name] for name in GOOD] == [1, 0, 1, 0, 0, 0]


async def test_the_blocking_client_tells_the_same() -> None:
    async with running() as broker, publisher(broker) as pub:
        port = broker.config.control_port
        sub = blocking.Subscriber("127.0.0.1", "events", group="g", control_port=port, queue=8)
        await asyncio.to_thread(sub.__enter__)
        for number in range(20):
            await pub.publish("events", number)
        await until(lambda: sub.stats.datagrams == 20)
        assert [(await asyncio.to_thread(sub.next, 5)).unpack() for _ in range(3)] == [0, 1, 2]
        await asyncio.to_thread(sub.__exit__, None, None, None)
        assert (sub.stats.queue_full, sub.stats.discarded) == (12, 5)
        assert [group(broker, "events")[name] for name in GOOD] == [20, 3, 17, 0, 0, 0]


async def test_who_is_slow_no_more_is_not_named_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempos_broker.account.consumers.RECENT", 0.2)
    async with (
        running() as broker,
        publisher(broker) as pub,
        subscriber(broker, "events", queue=4) as sub,
    ):
        for number in range(20):
            await pub.publish("events", number)
        await until(lambda: bool(broker.status()["slow_consumers"]))
        while sub.poll() is not None:
            pass
        await until(lambda: not broker.status()["slow_consumers"])
        assert group(broker, "events")["dropped"] == 16


async def test_what_was_dropped_of_a_topic_is_not_told_of_the_one_that_is_made_in_its_place() -> None:
    made = {"name": "made", "id": 9, "path": "slow"}
    async with running() as broker, publisher(broker) as pub:
        await broker.add_topic(made)
        async with subscriber(broker, "made", queue=10) as sub:
            for number in range(100):
                await pub.publish("made", b"%d" % number)
            await until(lambda: group(broker, "made")["dropped"] == 90)
            await broker.remove_topic("made", drain=True, patience=1.0)
            await broker.add_topic(made)
            for _ in range(10):
                await sub.next(5)
            await until(lambda: bool(group(broker, "made")["members"]))
            for number in range(50):
                await pub.publish("made", b"%d" % number)
                await sub.next(5)
            for number in range(50, 70):
                await pub.publish("made", b"%d" % number)
            await until(lambda: sub.stats.queue_full == 100)
            await until(lambda: [group(broker, "made")[name] for name in GOOD] == [70, 60, 10, 0, 0, 0])
