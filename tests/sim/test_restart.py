"""A broker that is killed and started again, as processes on loopback: its members notice nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import forking
from support.brokers import get
from support.waiting import LIMIT

from tempos import Publisher, Subscriber
from tempos_broker.lives.store import Store, Whole

from .test_broker import free_ports, until

TOPICS = """
[[topic]]
id = 1
name = "events"
[[topic]]
id = 2
name = "plain"
framing = "raw"
"""


class Machine:
    """Where the broker is started again and again with one configuration."""

    def __init__(self, folder: Path, lease: float = 7.0) -> None:
        self.lease = lease
        self.data, self.control, self.api = free_ports(3)
        self.state = folder / "state.db"
        self.file = folder / "broker.toml"
        self.configure()

    def configure(self, topics: str = TOPICS) -> None:
        self.file.write_text(
            f'[broker]\nlisten = ["127.0.0.1"]\ndata_port = {self.data}\ncontrol_port = {self.control}\n'
            f'api = "127.0.0.1:{self.api}"\n[fastpath]\nmode = "off"\n'
            f'[control]\nlease = {self.lease}\nheartbeat = 0.2\n[state]\nfile = "{self.state}"\n{topics}'
        )

    @contextmanager
    def broker(self, how: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[str]]:
        command = (sys.executable, "-m", "tempos_broker", "-c", str(self.file))
        with forking.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("ready"), process.stderr.read() if process.stderr else line
                yield process
            finally:
                process.send_signal(how)
                process.wait(LIMIT)

    def get(self, path: str) -> dict[str, Any]:
        return get(self.api, path)

    def topic(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.get("/v1/ledger")["topics"] if entry["name"] == name)

    def subscriber(self, topic: str, group: str | None = "g") -> Subscriber:
        return Subscriber("127.0.0.1", topic, group=group, control_port=self.control)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_members_of_a_killed_broker_go_on_and_the_ledger_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Longer than any restart takes.
    machine = Machine(tmp_path, lease=60.0)
    caplog.set_level(logging.INFO)
    stop = asyncio.Event()
    sent = {"events": 0, "plain": 0}

    async def publish() -> None:
        async with Publisher("127.0.0.1", data_port=machine.data, control_port=machine.control) as publisher:
            while not stop.is_set():
                for topic in sent:
                    for _ in range(10):
                        await publisher.publish(topic, b"x" * 30)
                        sent[topic] += 1
                await asyncio.sleep(0.002)

    with machine.broker(signal.SIGKILL):
        members = [machine.subscriber(topic) for topic in ("events", "events", "events", "plain", "plain")]
        for member in members:
            await member.__aenter__()
        publishing = asyncio.create_task(publish())
        await until(lambda: all(member.stats.datagrams > 300 for member in members))
        before = await asyncio.to_thread(machine.get, "/v1/status")
    for _ in range(3):
        seen = [member.stats.datagrams for member in members]
        with machine.broker(signal.SIGKILL):
            await until(
                lambda seen=seen: all(m.stats.datagrams > s + 200 for m, s in zip(members, seen, strict=True))
            )
    with machine.broker():
        after = await asyncio.to_thread(machine.get, "/v1/status")
        stop.set()
        await publishing
        drained = [await member.drain(2.0) for member in members]
        assert all(drained)
        ledger = await asyncio.to_thread(machine.get, "/v1/ledger")

    assert after["broker"]["pid"] != before["broker"]["pid"]
    assert after["broker"]["instance"] == before["broker"]["instance"]
    assert [topic["epoch"] for topic in after["topics"]] == [topic["epoch"] for topic in before["topics"]]
    assert "subscribed again" not in caplog.text
    assert ledger["balanced"], ledger
    for topic, mine in zip(ledger["topics"], (members[:3], members[3:]), strict=True):
        (group,) = topic["groups"]
        got = sum(member.stats.datagrams for member in mine)
        assert topic["received"] == topic["slow"] + sum(topic["refused"].values())
        assert topic["slow"] == group["tickets"] == group["delivered"] + group["lost"]
        # What a killed process had drawn tickets for and not handed to the kernel, at most a batch each time.
        assert group["delivered"] == got
        assert group["lost"] <= 4 * 64
        assert got <= sent[topic["name"]]
    assert sum(member.stats.duplicates + member.stats.late for member in members) == 0


async def test_what_a_clean_stop_leaves_is_taken_up_and_leases_still_end(machine: Machine) -> None:
    with machine.broker():
        gone = machine.subscriber("events", "g")
        await gone.__aenter__()
        # It dies with the broker: nobody says goodbye for it.
        assert gone._link is not None
        await gone._link.close()
        epoch = machine.topic("events")["epoch"]
    with machine.broker():
        assert [group["name"] for group in machine.topic("events")["groups"]] == ["g"]

        def left() -> bool:
            # The account is opened just before the route is in force.
            topic = machine.topic("events")
            gone = all(member["left"] for group in topic["groups"] for member in group["members"])
            return gone and topic["epoch"] == epoch + 1

        await asyncio.wait_for(asyncio.to_thread(lambda: _poll(left)), LIMIT)
    machine.configure('[[topic]]\nid = 1\nname = "other"\n')
    with machine.broker():
        other = machine.topic("other")
        assert (other["groups"], other["received"], other["balanced"]) == ([], 0, True)
        assert other["epoch"] == epoch + 2, "the epoch of a topic id never goes back"
    await gone.close()


def _poll(condition: Any) -> None:
    end = time.monotonic() + LIMIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def test_a_second_broker_of_the_same_file_is_refused_and_a_broken_file_put_aside(machine: Machine) -> None:
    with machine.broker():
        (machine.file.parent / "second").mkdir()
        second = Machine(machine.file.parent / "second")
        second.state = machine.state
        second.configure()
        told = subprocess.run(
            (sys.executable, "-m", "tempos_broker", "-c", str(second.file)),
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert told.returncode == 1
        assert "in use by another broker" in told.stderr
    for content in (b"no database at all, but long enough to be read as one" * 100, None):
        if content is None:
            machine.state.unlink()
            with sqlite3.connect(machine.state) as database:
                database.execute("PRAGMA user_version = 99")
            database.close()
        else:
            machine.state.write_bytes(content)
        with machine.broker() as process:
            assert machine.get("/v1/ready") == {"ready": True}
        assert process.stderr is not None
        (aside,) = machine.state.parent.glob("state.db.broken-*")
        aside.unlink()


async def test_documents_that_make_no_sense_begin_their_topic_anew(machine: Machine) -> None:
    with machine.broker():
        epoch = machine.topic("events")["epoch"]
    store = Store.open(machine.state)
    await store.save([Whole(1, "events", epoch + 7, 0, {"name": "events", "framing": "event"})])
    await store.close()
    with machine.broker():
        assert machine.topic("events")["epoch"] == epoch + 8
        assert machine.get("/v1/ledger")["balanced"]
