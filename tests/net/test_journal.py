"""Journals of a running broker, as `tempos tap` tells them: whoever writes, over kills and other sizes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.brokers import WAYS, Node, get, post
from support.waiting import LIMIT, until

from tempos import Admin, ApiRefused, Quality
from tempos._slots import JournalLayout

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

TOPICS = """\
[[topic]]
id = 1
name = "alarms"
class = "SQ"
journal = 64
journal_bytes = 100
[[topic]]
id = 2
name = "logs"
journal = 100
[[topic]]
id = 3
name = "plain"
"""


class Journalled(Node):
    """Its journals, and events of its topics."""

    def __init__(self, folder: Path, way: str) -> None:
        super().__init__(folder, TOPICS, way)

    def tap(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw_tap(*arguments, "--json").splitlines()]

    def raw_tap(self, *arguments: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "tempos", "tap", *arguments, "--api", f"127.0.0.1:{self.api}"],
            capture_output=True, check=True, timeout=LIMIT,
        )  # fmt: skip
        return done.stdout

    def admin(self) -> Admin:
        return Admin(f"http://127.0.0.1:{self.api}")

    async def send(self, topic: str, *bodies: bytes) -> None:
        """Each is with its member before the next one is sent."""
        async with self.publisher() as publisher, self.subscriber(topic, group="g") as member:
            for body in bodies:
                await publisher.publish(topic, body)
                assert (await anext(member)).body == body


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_sent_is_told_byte_for_byte(tmp_path: Path, way: str) -> None:
    node = Journalled(tmp_path, way)
    with node.broker():
        bodies = [b"event %d" % number for number in range(80)]
        for topic in ("alarms", "logs"):
            async with node.subscriber(topic, group="other") as other:
                await node.send(topic, *bodies, b"x" * 200)
                assert (await anext(other)).body == bodies[0]
            rows = node.tap(topic)
            kept = 64 if topic == "alarms" else 81
            shown = [row.get("body") for row in rows]
            last = ["x" * 200] if topic == "logs" else [None]
            assert shown == [each.decode() for each in bodies[81 - kept :]] + last
            assert [row["kept"] for row in rows[-2:]] == [True, topic == "logs"]
            assert rows[-1]["length"] == 224
            assert [row["sequence"] for row in rows[:-1]] == list(range(81 - kept, 80))
            first = rows[0]["tickets"]
            assert [row["tickets"] for row in rows] == [[each + at for each in first] for at in range(kept)]
            assert len(first) == 2
            assert [row["body"] for row in node.tap(topic, "--last", "11")[:10]] == shown[-11:-1]
        captured = node.raw_tap("logs", "--last", "1", "--pcap")
        assert struct.unpack_from("<I", captured, 20) == (101,)
        packet = captured[24 + 16 :]
        assert len(packet) == 20 + 8 + 24 + 200
        assert packet[28:29] == b"\x02"
        assert packet.endswith(b"x" * 200)
        document = get(node.api, "/v1/topics/alarms")
        assert document["journal"] == {
            "events": 64,
            "bytes": 100,
            "memory": JournalLayout.of(64, 100).size,
            "replays": 0,
            "replayed": 0,
            "aside": 0,
            "reason": "",
        }
        assert get(node.api, "/v1/topics/plain")["journal"] is None
        with pytest.raises(subprocess.CalledProcessError) as refused:
            node.tap("plain")
        assert b"has no journal" in refused.value.stderr
        assert b"tempos ctl topic set" in refused.value.stderr


@pytest.mark.parametrize("way", WAYS)
async def test_options_change_while_it_runs_and_what_fits_stays(tmp_path: Path, way: str) -> None:
    node = Journalled(tmp_path, way)
    with node.broker():
        admin = node.admin()
        await admin.add_topic("made", quality=Quality.SQ, journal=16)
        await node.send("made", *(b"%d" % number for number in range(20)))
        assert [row["body"] for row in node.tap("made")] == [str(each) for each in range(4, 20)]
        changed = await admin.set_topic("made", journal=64)
        assert changed.topic.journal == 64
        assert [row["body"] for row in node.tap("made")] == [str(each) for each in range(4, 20)]
        await node.send("made", b"20", b"21")
        assert [row["body"] for row in node.tap("made")] == [str(each) for each in range(4, 22)]
        await admin.set_topic("made", journal=8, journal_bytes=40)
        numbers = [int(row["body"]) for row in node.tap("made")]
        assert numbers[-2:] == [20, 21]
        assert numbers == sorted(set(numbers))
        assert 6 <= len(numbers) <= 8
        await admin.set_topic("made", journal=None, journal_bytes=None)
        with pytest.raises(subprocess.CalledProcessError):
            node.tap("made")
        with pytest.raises(ApiRefused, match="without a journal"):
            await admin.set_topic("made", journal_bytes=40)
        with pytest.raises(ApiRefused, match="allowed: at most 1,024 MB"):
            await admin.set_topic("made", journal=1 << 20, journal_bytes=9000)
        # By the file, too.
        text = node.file.read_text()
        node.file.write_text(text.replace('name = "plain"', 'name = "plain"\njournal = 8'))
        await asyncio.to_thread(post, node.api, "/v1/reload")
        await node.send("plain", b"by reload")
        assert [row["body"] for row in node.tap("plain")] == ["by reload"]


async def test_a_worker_that_is_killed_leaves_what_it_wrote(tmp_path: Path) -> None:
    node = Journalled(tmp_path, "worker")
    with node.broker():
        await node.admin().add_topic("made", quality=Quality.SQ, journal=16)
        for topic in ("alarms", "made"):
            await node.send(topic, b"before")
        worker = get(node.api, "/v1/status")["quality"]["worker"]
        os.kill(worker["pid"], signal.SIGKILL)

        def is_back() -> bool:
            now = get(node.api, "/v1/status")["quality"]["worker"]
            return bool(now["state"] == "serving" and now["pid"] != worker["pid"])

        await asyncio.to_thread(until, is_back)
        for topic in ("alarms", "made"):
            await node.send(topic, b"after")
            assert [row["body"] for row in node.tap(topic)] == ["before", "after"]


async def test_who_follows_gets_all_that_comes_once(tmp_path: Path) -> None:
    node = Journalled(tmp_path, "batches")
    with node.broker():
        await node.send("logs", b"before")
        command = [sys.executable, "-u", "-m", "tempos", "tap", "logs", "--follow", "--last", "1", "--json"]
        following = await asyncio.create_subprocess_exec(
            *command, "--api", f"127.0.0.1:{node.api}", stdout=asyncio.subprocess.PIPE
        )
        try:
            assert following.stdout is not None
            assert json.loads(await following.stdout.readline())["body"] == "before"
            await node.send("logs", *(b"%d" % number for number in range(90)))
            lines = [await following.stdout.readline() for _ in range(90)]
            assert [json.loads(line)["body"] for line in lines] == [str(each) for each in range(90)]
        finally:
            following.send_signal(signal.SIGINT)
            await following.wait()
