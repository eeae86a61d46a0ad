"""What a member that dies was sent and had not processed is processed by others of its group, flagged."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.brokers import WAYS, Node, get, post
from support.silence import silenced
from support.waiting import LIMIT, stands

from tempos import Event, LocalError, Publisher, Subscriber, blocking
from tempos._awaitables import in_time

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

MORE = """\
[control]
lease = 1.0
heartbeat = 0.25
[[topic]]
id = 1
name = "orders"
class = "SQ"
journal = {journal}
redeliver = true
[[topic]]
id = 300
name = "wide"
journal = {journal}
redeliver = true
"""


class Redelivering(Node):
    """What members leave behind goes to others."""

    def __init__(self, folder: Path, way: str = "batches", *, journal: int = 10_000, **options: Any) -> None:
        super().__init__(folder, MORE.format(journal=journal), way, **options)

    async def group(self, topic: str = "orders", name: str = "work") -> dict[str, Any]:
        rows = (await asyncio.to_thread(get, self.api, "/v1/ledger"))["topics"]
        ledger = next(row for row in rows if row["name"] == topic)
        assert ledger["balanced"], ledger["problems"]
        group: dict[str, Any] = next(each for each in ledger["groups"] if each["name"] == name)
        assert group["orphaned"] == group["redelivered"] + group["pending"] + group["lapsed"]
        return group

    def member(self, *topics: str, **options: Any) -> Subscriber:
        return self.subscriber(*(topics or ("orders",)), group="work", **options)


class Worker:
    """Processes what comes, ``most`` until it goes on; can stop as if it were killed."""

    def __init__(self, subscriber: Subscriber, most: int = sys.maxsize) -> None:
        self.subscriber = subscriber
        self.done: list[Event] = []
        self.goes_on = asyncio.Event()
        self._most = most
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for event in self.subscriber:
            self.done.append(event)
            if len(self.done) >= self._most:
                await self.goes_on.wait()

    def pause(self) -> None:
        """It processes what it takes next and asks for nothing more."""
        self._most = 0

    async def kill(self) -> None:
        """Nothing is processed or told from now on."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await silenced(self.subscriber)


async def pending(node: Redelivering, events: int) -> bool:
    group = await node.group()
    return group["pending"] == events and (events > 0 or group["orphaned"] > 0)


async def orphaned(node: Redelivering, events: int) -> bool:
    return bool((await node.group())["orphaned"] == events)


async def until_done(workers: list[Worker], events: int) -> None:
    async def holds() -> bool:
        return len({int(event.body) for worker in workers for event in worker.done}) >= events

    await until(holds)


async def until_told(worker: Worker) -> None:
    """The broker has heard what it has processed."""
    redelivery = worker.subscriber._intake.redelivery

    async def holds() -> bool:
        telling = redelivery._noted or redelivery._telling
        return not telling and not any(each.has_news for each in redelivery._processed.values())

    await until(holds)


async def until_received(member: Worker | Subscriber, events: int) -> None:
    subscriber = member.subscriber if isinstance(member, Worker) else member

    async def holds() -> bool:
        return subscriber.stats.events >= events

    await until(holds)


def lossy(subscriber: Subscriber, loses: Any) -> None:
    """Have some of what comes to a subscriber lost before it sees it."""
    reader, receive = subscriber._reader, subscriber._intake.receive
    assert reader is not None
    reader._receive = lambda datagram: None if loses(datagram) else receive(datagram)  # type: ignore[attr-defined]


async def resize(node: Redelivering, journal: int) -> None:
    """Another size of the journals, by a reload."""
    text = node.file.read_text()
    node.file.write_text(re.sub(r"journal = \d+", f"journal = {journal}", text))
    await asyncio.to_thread(post, node.api, "/v1/reload")


async def until(condition: Any) -> None:
    async def holds() -> None:
        while not await condition():
            await asyncio.sleep(0.01)

    await in_time(holds(), LIMIT)


async def publish(publisher: Publisher, topic: str, numbers: range, pause: int = 50) -> None:
    for number in numbers:
        await publisher.publish(topic, str(number).encode())
        if not number % pause:
            await asyncio.sleep(0.001)
    await publisher.flush()


def check(workers: list[Worker], numbers: range) -> Counter[int]:
    """Every event is processed at least once, and of those that are twice all but one are flagged."""
    counts = Counter(int(event.body) for worker in workers for event in worker.done)
    plain = Counter(
        int(event.body) for worker in workers for event in worker.done if not event.is_redelivered
    )
    assert set(counts) == set(numbers)
    assert max(plain.values()) == 1
    return counts


@pytest.mark.parametrize(("way", "topic"), [("batches", "wide"), ("worker", "orders"), ("portable", "wide")])
async def test_what_a_killed_member_had_not_processed_goes_to_another(
    tmp_path: Path, way: str, topic: str
) -> None:
    node = Redelivering(tmp_path, way)
    events = 2000
    with node.broker():
        workers = [Worker(await node.member(topic).__aenter__()) for _ in range(3)]
        async with node.publisher() as publisher:
            await publish(publisher, topic, range(events // 2))
            await workers[0].kill()
            await publish(publisher, topic, range(events // 2, events))

            async def all_done() -> bool:
                return len({int(each.body) for worker in workers for each in worker.done}) == events

            await until(all_done)

            async def settled() -> bool:
                return not (await node.group(topic))["pending"]

            await until(settled)
        counts = check(workers, range(events))
        group = await node.group(topic)
        for worker in workers[1:]:
            await worker.subscriber.close()
    again = [event for worker in workers for event in worker.done if event.is_redelivered]
    assert group["redelivered"] == len(again) == group["orphaned"] > 0
    assert sum(counts.values()) == events + len(again) - sum(
        1 for event in again if counts[int(event.body)] == 1
    )
    # All of it to one of them, in its order.
    taken = [[int(event.body) for event in worker.done if event.is_redelivered] for worker in workers]
    assert len([each for each in taken if each]) == 1
    assert all(each == sorted(each) for each in taken)
    assert sum(worker.subscriber.stats.redelivered for worker in workers) == len(again)


async def test_what_nobody_is_left_for_waits_for_the_next_member(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.publisher() as publisher:
            only = Worker(await node.member().__aenter__())
            await publish(publisher, "orders", range(20))
            await until_done([only], 20)
            only.pause()
            await publish(publisher, "orders", range(20, 50))
            await until_received(only, 50)
            await until_told(only)
            await only.kill()
            await until(lambda: pending(node, 30))
            next_ = Worker(await node.member().__aenter__())
            await until_done([only, next_], 50)
            await until(lambda: pending(node, 0))
            await next_.subscriber.close()
        group = await node.group()
    assert (group["orphaned"], group["redelivered"], group["lapsed"]) == (30, 30, 0)
    # With the one that it was at.
    assert [int(event.body) for event in next_.done] == list(range(20, 50))
    assert all(event.is_redelivered for event in next_.done)
    assert "nobody is left" in node.log.read_text()


@pytest.mark.parametrize("way", WAYS)
async def test_what_comes_while_nobody_is_there_waits_for_the_next_member(tmp_path: Path, way: str) -> None:
    node = Redelivering(tmp_path, way)

    async def has_nobody(events: int) -> bool:
        """So many wait; the doctor's words and the page's come from this document."""
        topic = await asyncio.to_thread(get, node.api, "/v1/topics/orders")
        members = [each for group in topic["groups"] if group["name"] == "work" for each in group["members"]]
        # Until its route is in force it is the member that is gone that is given what comes.
        return [
            ("nobody is there" in each["left_out"] and each["in_route"], each["ticketed"]) for each in members
        ] == [(True, events)]

    with node.broker():
        async with node.publisher() as publisher, node.subscriber("orders", group="other") as other:
            first = Worker(await node.member().__aenter__())
            await publish(publisher, "orders", range(20))
            await until_done([first], 20)
            await until_told(first)
            await first.kill()
            await until(lambda: has_nobody(0))
            await publish(publisher, "orders", range(20, 70))
            await until(lambda: has_nobody(50))
            await until_received(other, 70)
            second = Worker(await node.member().__aenter__())
            await until_done([first, second], 70)
            await until(lambda: pending(node, 0))
            await publish(publisher, "orders", range(70, 80))
            await until_done([first, second], 80)
            await second.subscriber.close()
            await until(lambda: gone(node))
            topic = (await asyncio.to_thread(get, node.api, "/v1/ledger"))["topics"][0]
    assert (topic["name"], topic["refused"], topic["unsent"]) == ("orders", {}, {})
    assert topic["balanced"], topic["problems"]
    waited = [int(event.body) for event in second.done if event.is_redelivered]
    assert [each for each in waited if each >= 20] == list(range(20, 70))
    assert "no member is left" in node.log.read_text()


async def gone(node: Redelivering) -> bool:
    """Who leaves in order says that nothing is to wait."""
    topic = await asyncio.to_thread(get, node.api, "/v1/topics/orders")
    return all(not group["members"] for group in topic["groups"] if group["name"] == "work")


async def test_a_member_that_dies_of_what_it_took_leaves_it_to_another(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.publisher() as publisher:
            first = Worker(await node.member().__aenter__())
            await publish(publisher, "orders", range(10))
            await until_done([first], 10)
            first.pause()
            await publish(publisher, "orders", range(10, 1000))
            await until_received(first, 1000)
            await until_told(first)
            await first.kill()
            second = Worker(await node.member().__aenter__(), 300)
            await until_done([second], 300)
            # It has told of all but the last, with which it is not done.
            await until(lambda: pending(node, 990 - 299))
            await second.kill()
            third = Worker(await node.member().__aenter__())
            await until_done([first, second, third], 1000)
            await until(lambda: pending(node, 0))
            group = await node.group()
            await third.subscriber.close()
        workers = [first, second, third]
        counts = check(workers, range(1000))
    assert (group["orphaned"], group["lapsed"]) == (990, 0)
    assert [int(event.body) for event in second.done] == list(range(10, 310))
    assert [int(event.body) for event in third.done] == list(range(309, 1000))
    # What the first was at when it died, and the second.
    assert {number for number, count in counts.items() if count > 1} == {10, 309}
    assert max(counts.values()) == 2


async def test_who_leaves_in_order_leaves_nothing_behind(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.publisher() as publisher:
            stays = Worker(await node.member().__aenter__())
            async with node.member() as drains:
                await publish(publisher, "orders", range(100))
                worker = Worker(drains)
                await until_done([stays, worker], 100)
                assert await drains.drain() is not None
                await worker.task
            # Drained before it is read: it was given to the program.
            async with node.member() as reads_on:
                await publish(publisher, "orders", range(100, 200))
                await until_received(reads_on, 50)
                await reads_on.drain()
                late = [event async for event in reads_on]
            async with node.member() as breaks:
                await publish(publisher, "orders", range(200, 210))
                await until_received(breaks, 5)
                async for _ in breaks:
                    break
            await until_done([stays, worker], 210 - 50 - 1)
            group = await node.group()
            await until(lambda: pending(node, 0))
            await stays.subscriber.close()
    assert len(late) == 50
    # What it threw away when it left, but for the one that it took.
    again = [event for event in stays.done if event.is_redelivered]
    assert len(again) == group["orphaned"] == 4


async def test_a_drain_that_runs_out_of_patience(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.publisher() as publisher:
            stays = Worker(await node.member().__aenter__())
            member = node.member(repair=0)
            await member.__aenter__()
            lossy(member, lambda datagram: datagram.endswith(b"9"))
            worker = Worker(member)
            await publish(publisher, "orders", range(99))
            drained = await member.drain(0.3)
            assert drained is not None
            await until_done([stays, worker], 99)
            await until(lambda: pending(node, 0))
            group = await node.group()
            await stays.subscriber.close()
    again = [event for event in stays.done if event.is_redelivered]
    assert len(again) == group["orphaned"] == drained.lost > 0
    assert {int(event.body) % 10 for event in again} == {9}
    assert set(check([stays, worker], range(99)).values()) == {1}


async def test_what_the_journal_has_no_more_is_told_and_counted(tmp_path: Path) -> None:
    node = Redelivering(tmp_path, journal=16)
    with node.broker():
        async with node.publisher() as publisher:
            first = Worker(await node.member().__aenter__())
            first.pause()
            await publish(publisher, "orders", range(100))
            await until_received(first, 100)
            await first.kill()
            await until(lambda: orphaned(node, 100))
            second = Worker(await node.member().__aenter__())
            await until(lambda: pending(node, 0))
            await second.subscriber.close()
            group = await node.group()
    assert (group["redelivered"], group["lapsed"]) == (len(second.done), 100 - len(second.done))
    assert 0 < len(second.done) <= 16
    assert [int(event.body) for event in second.done] == list(range(100 - len(second.done), 100))
    assert "not to be had any more" in node.log.read_text()


async def test_a_journal_gets_another_size_meanwhile(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.publisher() as publisher:
            first = Worker(await node.member().__aenter__())
            first.pause()
            await publish(publisher, "orders", range(3000))
            await until_received(first, 3000)
            await first.kill()
            second = Worker(await node.member().__aenter__(), 500)
            await until_done([second], 500)
            for journal in (20_000, 5_000, 4_000):
                await resize(node, journal)
            second.goes_on.set()
            await until_done([second], 3000)
            await until(lambda: pending(node, 0))
            await second.subscriber.close()
            group = await node.group()
    assert (group["redelivered"], group["lapsed"]) == (3000, 0)
    assert [event.body for event in second.done] == [str(number).encode() for number in range(3000)]


async def test_a_broker_that_begins_again_with_another_journal_says_what_is_lost(tmp_path: Path) -> None:
    node = Redelivering(tmp_path, state=str(tmp_path / "state"))
    with node.broker(signal.SIGKILL):
        publisher = await node.publisher().__aenter__()
        first = Worker(await node.member().__aenter__())
        await publish(publisher, "orders", range(50))
        await until_done([first], 50)
        first.pause()
        await publish(publisher, "orders", range(50, 100))
        await until_received(first, 100)
        await until_told(first)
        await first.kill()
        await until(lambda: pending(node, 50))
    with node.broker(signal.SIGKILL):
        # Its journal died with the process.
        second = Worker(await node.member().__aenter__())
        await publish(publisher, "orders", range(100, 150))
        await until(lambda: pending(node, 0))
        await until_done([first, second], 100)
        group = await node.group()
        await second.kill()
        await publisher.close()
    assert (group["orphaned"], group["redelivered"], group["lapsed"]) == (50, 0, 50)
    assert [int(event.body) for event in second.done] == list(range(100, 150))


def test_code_without_asyncio_and_batches(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    options: dict[str, Any] = {"control_port": node.control, "group": "work", "timeout": LIMIT}
    ends = {"data_port": node.data, "control_port": node.control}
    with node.broker(), blocking.Publisher("127.0.0.1", linger=0.01, **ends) as publisher:

        def fail() -> None:
            with blocking.Subscriber("127.0.0.1", "orders", **options) as fails:
                for number in range(300):
                    publisher.publish("orders", number)
                publisher.flush()
                for event in fails:
                    done.append(event)
                    if event.unpack() == 40:
                        raise ZeroDivisionError

        done: list[Event] = []
        with pytest.raises(ZeroDivisionError):
            fail()
        with blocking.Subscriber("127.0.0.1", "orders", **options) as takes:
            again = [takes.next(LIMIT)]
            while again[-1].unpack() < 299:
                again.append(takes.next(LIMIT))
    assert all(event.is_redelivered for event in again)
    bodies = [event.unpack() for event in again]
    assert bodies == list(range(bodies[0], 300))
    # The whole datagram in which it failed.
    assert bodies[0] <= 40
    assert [(event.publisher, event.sequence) for event in again[: 41 - bodies[0]]] == [
        (event.publisher, event.sequence) for event in done[bodies[0] :]
    ]


def test_the_command_tells_it(tmp_path: Path) -> None:
    node = Redelivering(tmp_path)
    command = [
        sys.executable,
        "-m",
        "tempos",
        "sub",
        "-b",
        f"127.0.0.1:{node.control}",
        "-g",
        "work",
        "--json",
    ]
    with node.broker(), blocking.Publisher("127.0.0.1", data_port=node.data, control_port=node.control) as p:
        held = [*command, "-t", "orders"]
        with subprocess.Popen(held, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            assert stands(first.stderr)
            # It hangs before it is given the second one.
            p.publish("orders", "one")
            assert json.loads(first.stdout.readline())["body"] == "one"
            first.send_signal(signal.SIGSTOP)
            p.publish("orders", "two")
            p.flush()
            first.kill()
        done = subprocess.run([*held, "--count", "1", "--timeout", str(LIMIT), "--stats"],
                              capture_output=True, text=True, timeout=2 * LIMIT, check=True)  # fmt: skip
    row = json.loads(done.stdout)
    assert row["redelivered"] is True
    assert row["body"] in ("one", "two")
    (stats,) = (line for line in done.stderr.splitlines() if line.startswith("{"))
    assert json.loads(stats)["stats"]["redelivered"] in (1, 2)


@pytest.mark.parametrize("topic", ["orders", "wide"])
async def test_a_request_whose_replier_dies_is_answered_by_the_next(tmp_path: Path, topic: str) -> None:
    node = Redelivering(tmp_path)
    with node.broker():
        async with node.member(topic) as stays, node.publisher() as publisher:
            victim = Worker(await node.member(topic).__aenter__(), 1)
            asking = [asyncio.ensure_future(publisher.request(topic, b"%d" % n, LIMIT)) for n in range(10)]
            for member in (victim, stays):
                await until_received(member, 5)
            await victim.kill()
            for number in range(10):
                event = await stays.next(LIMIT)
                assert (event.is_request, event.is_redelivered) == (True, number >= 5)
                await event.reply(event.body)
            with pytest.raises(LocalError, match="answered already"):
                event.reply(b"twice")
            answers = [reply.body for reply in await asyncio.gather(*asking)]
            assert answers == [b"%d" % n for n in range(10)]
