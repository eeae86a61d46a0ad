"""The worker for strict events: it serves, it is killed, it is refused real time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from support.brokers import ON_LOOPBACK, get, serving
from support.ports import free_ports
from support.processes import descendants, still_alive
from support.waiting import LIMIT

from tempos import Publisher, Subscriber
from tempos.wire import encode_event

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the worker is for Linux")

#: Datagrams per system call: what a worker that is killed has at hand.
BATCH = 64
BODY = b"x" * 30
#: Bytes of a datagram with one such event.
SIZE = len(encode_event(1, 1, 0, 0, BODY))
CONFIG = (
    ON_LOOPBACK
    + """\
[state]
file = "{state}"
[control]
lease = 60.0
heartbeat = 0.2
[quality]
worker_sq = true
{quality}
[[topic]]
id = 1
name = "alarms"
class = "SQ"
[[topic]]
id = 2
name = "logs"
class = "BQ"
"""
)


class Node:
    """Where the broker is started, perhaps again and again, with one configuration."""

    def __init__(self, folder: Path, quality: str = "", state: str = "off") -> None:
        self.data, self.control, self.api = free_ports(3)
        self.file, self.log = folder / "broker.toml", folder / "log"
        self.file.write_text(
            CONFIG.format(data=self.data, control=self.control, api=self.api, quality=quality, state=state)
        )
        self.file.chmod(0o644)

    @contextmanager
    def broker(self, *prefix: str, how: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[str]]:
        family: set[int] = set()
        try:
            with serving(self.file, self.log, prefix=prefix, how=how) as process:
                family = descendants(process.pid)
                yield process
                family |= descendants(process.pid)
        finally:
            assert not still_alive(family, LIMIT), "the worker goes with its broker"

    async def get(self, path: str) -> dict[str, Any]:
        return await asyncio.to_thread(get, self.api, path)

    async def worker(self) -> dict[str, Any]:
        return dict((await self.get("/v1/status"))["quality"]["worker"])

    async def topic(self, name: str) -> dict[str, Any]:
        return next(entry for entry in (await self.get("/v1/ledger"))["topics"] if entry["name"] == name)

    def subscriber(self, topic: str, group: str = "g") -> Subscriber:
        return Subscriber("127.0.0.1", topic, group=group, control_port=self.control)

    def publisher(self) -> Publisher:
        return Publisher("127.0.0.1", data_port=self.data, control_port=self.control)

    @asynccontextmanager
    async def traffic(self, *topics: str) -> AsyncIterator[dict[str, int]]:
        """Some 10,000 events a second of each topic for as long as it lasts; gives how many went out."""
        sent = dict.fromkeys(topics, 0)

        async def publish() -> None:
            async with self.publisher() as publisher:
                while True:
                    for topic in topics:
                        for _ in range(20):
                            await publisher.publish(topic, BODY)
                            sent[topic] += 1
                    await asyncio.sleep(0.002)

        task = asyncio.create_task(publish())
        try:
            yield sent
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition: Any) -> None:
    async def poll() -> None:
        while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), LIMIT)


def scheduling_of(pid: int) -> tuple[int, int, set[int]]:
    return (
        os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK,
        os.sched_getparam(pid).sched_priority,
        os.sched_getaffinity(pid),
    )


def process_status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def test_strict_events_go_through_the_worker_and_the_account_closes(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    node = Node(tmp_path, f"priority_sq = 7\ncpus_sq = [{cpu}]\ncpus_bq = [{cpu}]\nso_priority_sq = 5")
    with node.broker() as broker:
        worker = await node.worker()
        assert worker["state"] == "serving"
        policy, priority, cpus = scheduling_of(worker["pid"])
        assert (worker["policy"], worker["priority"]) == (
            ("fifo", priority) if policy == os.SCHED_FIFO else ("other", 0)
        ), "what is told is what the kernel says"
        assert cpus == {cpu} == set(worker["cpus"]) == set(worker["broker_cpus"])
        assert scheduling_of(broker.pid)[2] == {cpu}
        assert re.search(r"CapEff:\s0+\n", process_status(worker["pid"])), "a worker has no privileges"
        members = [node.subscriber(*each) for each in (("alarms", "g"), ("alarms", "h"), ("logs", "g"))]
        for member in members:
            await member.__aenter__()
        async with node.traffic("alarms", "logs") as sent:
            await until(lambda: all(member.stats.datagrams > 1000 for member in members))
            # A change under traffic: both processes let go of the old route before its tickets are final.
            async with node.subscriber("alarms") as another:
                await until(lambda: another.stats.datagrams > 200)
                assert await another.drain(LIMIT)
                extra = another.stats.datagrams
        assert all([await member.drain(LIMIT) for member in members])
        ledger = await node.get("/v1/ledger")
        assert ledger["balanced"], ledger
        assert await node.worker() | {"pid": None} == worker | {"pid": None}
        status = await node.get("/v1/status")
        told = status["quality"]["classes"]["SQ"]
        assert (told["so_priority"], told["reason"]) == (5, "")
        for topic in status["topics"]:
            # Who measured is the worker for the one, and the broker for the other.
            volume, times = topic["bytes"]["slow"], topic["latency"]
            assert volume["received"] == volume["forwarded"] == topic["received"] * SIZE
            assert (times["program"], times["since_sent"]) == (None, None)
            for each in (times["slow"], times["slow_since_sent"]):
                assert (each["count"], each["ahead"], each["beyond"]) == (topic["received"], 0, 0)
            assert 0 < times["slow"]["p99_ns"] <= times["slow"]["max_ns"]
        url = f"http://127.0.0.1:{node.api}/metrics"
        page = (await asyncio.to_thread(urlopen, url, timeout=LIMIT)).read().decode()
        figures = {
            name: float(value) for name, value in re.findall(r"^(tempos_.*) (\S+)$", page, re.MULTILINE)
        }
        for name, quality in (("alarms", "SQ"), ("logs", "BQ")):
            for what in ("received", "forwarded"):
                line = f'tempos_{what}_bytes_total{{path="slow",topic="{name}"}}'
                assert figures[line] == sent[name] * SIZE
            line = f'tempos_slow_path_seconds_count{{class="{quality}",topic="{name}"}}'
            assert figures[line] == sent[name]
    alarms, logs = ledger["topics"]
    for topic in (alarms, logs):
        assert topic["slow"] == topic["received"] == sent[topic["name"]], "and nothing is lost on loopback"
        for group in topic["groups"]:
            assert (group["tickets"], group["lost"], group["unconfirmed"]) == (group["delivered"], 0, 0)
    assert members[0].stats.datagrams + extra == members[1].stats.datagrams == sent["alarms"]
    assert members[2].stats.datagrams == sent["logs"]
    assert sum(member.stats.duplicates + member.stats.late for member in members) == 0
    assert node.log.read_text() == "" or worker["policy"] == "other"


async def test_a_killed_worker_costs_what_it_held_and_no_more(tmp_path: Path) -> None:
    node = Node(tmp_path, "priority_sq = 0")
    kills = 4
    with node.broker():
        members = [node.subscriber("alarms"), node.subscriber("alarms", "h"), node.subscriber("logs")]
        for member in members:
            await member.__aenter__()
        async with node.traffic("alarms", "logs"):
            for kill in range(1, kills + 1):
                before = members[0].stats.datagrams
                await until(lambda before=before: members[0].stats.datagrams > before + 500)
                pid = (await node.worker())["pid"]
                os.kill(pid, signal.SIGKILL)
                assert not still_alive({pid}, LIMIT)
                # Strict events go on at once, by the broker itself; changes work meanwhile.
                before = members[0].stats.datagrams
                await until(lambda before=before: members[0].stats.datagrams > before + 100)
                async with node.subscriber("alarms") as passing:
                    await until(lambda passing=passing: passing.stats.datagrams > 50)
                    assert await passing.drain(LIMIT)

                async def replaced(started: int = kill + 1) -> bool:
                    worker = await node.worker()
                    return worker["state"] == "serving" and worker["started"] == started

                await until(replaced)
        await asyncio.gather(*(member.drain(LIMIT) for member in members))
        ledger = await node.get("/v1/ledger")
        worker = await node.worker()
    assert ledger["balanced"], ledger
    alarms, logs = ledger["topics"]
    held = alarms["refused"].get("worker_lost", 0)
    assert set(alarms["refused"]) <= {"worker_lost"}
    for group in alarms["groups"]:
        assert group["tickets"] == alarms["slow"]
        assert group["tickets"] == group["delivered"] + group["lost"] + group["unconfirmed"]
        assert group["lost"] + group["unconfirmed"] <= kills * BATCH
        assert held <= worker["lost"] <= held + kills * BATCH
    assert held <= kills * BATCH
    assert [group["tickets"] - group["delivered"] for group in logs["groups"]] == [0]
    assert "the SQ worker is gone: it ended by itself (ended by SIGKILL)" in node.log.read_text()


async def test_a_topic_changes_its_class_under_traffic(tmp_path: Path) -> None:
    """What sits in the other class's socket, or in the other process, has the same route and tickets."""
    node = Node(tmp_path, "priority_sq = 0")
    texts = [node.file.read_text()]
    texts.append(texts[0].replace('"alarms"\nclass = "SQ"', '"alarms"\nclass = "BQ"'))
    assert texts[0] != texts[1]
    with node.broker() as broker:
        async with node.subscriber("alarms") as member:
            async with node.traffic("alarms") as sent:
                for change in range(1, 9):
                    seen = member.stats.datagrams
                    await until(lambda seen=seen: member.stats.datagrams > seen + 200)
                    epoch = (await node.topic("alarms"))["epoch"]
                    node.file.write_text(texts[change % 2])
                    broker.send_signal(signal.SIGHUP)

                    async def changed(epoch: int = epoch) -> bool:
                        return bool((await node.topic("alarms"))["epoch"] > epoch)

                    await until(changed)
            assert await member.drain(LIMIT)
            topic = await node.topic("alarms")
            worker = await node.worker()
    (group,) = topic["groups"]
    assert topic["balanced"], topic
    assert (
        topic["received"] == topic["slow"] == group["delivered"] == member.stats.datagrams == sent["alarms"]
    )
    assert (worker["started"], worker["lost"]) == (1, 0)
    assert member.stats.duplicates == 0


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    node = Node(tmp_path, "priority_sq = 0")
    with node.broker():
        async with node.subscriber("alarms") as member, node.traffic("alarms"):
            await until(lambda: member.stats.datagrams > 100)
            pid = (await node.worker())["pid"]
            os.kill(pid, signal.SIGSTOP)
            seen = member.stats.datagrams
            # A change needs its answer, so it waits until the worker is given up.
            async with node.subscriber("alarms", "late") as late:
                await until(lambda: late.stats.datagrams > 100 and member.stats.datagrams > seen + 100)
            assert not still_alive({pid}, LIMIT)
    assert "it did not answer within 5 s (ended by SIGKILL)" in node.log.read_text()


async def test_a_killed_broker_takes_its_worker_along_and_the_next_one_goes_on(tmp_path: Path) -> None:
    node = Node(tmp_path, "priority_sq = 0", state=str(tmp_path / "state.db"))
    async with contextlib.AsyncExitStack() as stack:
        with node.broker(how=signal.SIGKILL):
            member = await stack.enter_async_context(node.subscriber("alarms"))
            await stack.enter_async_context(node.traffic("alarms"))
            await until(lambda: member.stats.datagrams > 500)
            epoch = (await node.topic("alarms"))["epoch"]
        for _ in range(2):
            with node.broker(how=signal.SIGKILL):
                seen = member.stats.datagrams
                await until(lambda seen=seen: member.stats.datagrams > seen + 500)
        with node.broker():
            seen = member.stats.datagrams
            await until(lambda seen=seen: member.stats.datagrams > seen + 100)
            topic = await node.topic("alarms")
            assert topic["epoch"] == epoch, "the same route, its tickets going on"
            await member.drain(2.0)
            topic = await node.topic("alarms")
            assert topic["balanced"], topic
            (group,) = topic["groups"]
            assert topic["slow"] == group["tickets"] == group["delivered"] + group["lost"]
            assert group["delivered"] == member.stats.datagrams
            assert group["lost"] <= 3 * BATCH
    assert member.stats.duplicates == member.stats.late == 0


async def test_refused_real_time_is_told_and_strict_events_are_served(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        pytest.skip("setpriv and prlimit (util-linux) are not installed")
    node = Node(tmp_path, "priority_sq = 50")
    # Root or not: without the capability, and without a limit that would stand for it.
    without = ("setpriv", "--inh-caps=-all", *(("--bounding-set=-all",) if os.geteuid() == 0 else ()))
    with node.broker("prlimit", "--rtprio=0:0", "--nice=0:0", *without):
        worker = await node.worker()
        assert (worker["state"], worker["policy"], worker["priority"]) == ("serving", "other", 0)
        assert "SCHED_FIFO 50 was refused (Operation not permitted)" in worker["reason"]
        assert "ordinary scheduling instead" in worker["reason"]
        assert scheduling_of(worker["pid"])[0] == os.SCHED_OTHER
        async with node.subscriber("alarms") as member, node.traffic("alarms"):
            await until(lambda: member.stats.datagrams > 100)
    assert "it needs CAP_SYS_NICE" in node.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give real time and take it for others")
async def test_what_gives_real_time_is_kept_only_as_far_as_the_next_worker_needs_it(tmp_path: Path) -> None:
    node = Node(tmp_path, "priority_sq = 7")
    with node.broker() as broker:
        status = await node.get("/v1/status")
        limit = resource.prlimit(broker.pid, resource.RLIMIT_RTPRIO)[0]
        # In a container there may be CAP_SYS_NICE without CAP_SYS_RESOURCE, which raises the limit.
        needed = [] if limit == resource.RLIM_INFINITY or limit >= 7 else ["sys_nice"]
        assert status["broker"]["privileges"]["capabilities"] == needed
        worker = status["quality"]["worker"]
        assert (worker["policy"], worker["priority"]) == ("fifo", 7)
        os.kill(worker["pid"], signal.SIGKILL)

        async def replaced() -> bool:
            worker = await node.worker()
            return worker["state"] == "serving" and worker["started"] == 2

        await until(replaced)
        worker = await node.worker()
        assert (worker["policy"], worker["priority"]) == ("fifo", 7)
        assert scheduling_of(worker["pid"])[:2] == (os.SCHED_FIFO, 7)
