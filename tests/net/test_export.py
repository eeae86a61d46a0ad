"""`tempos export` to files and to a real JetStream: nothing is lost or doubled, whoever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from support.brokers import Node
from support.counterparts import NatsServer
from support.waiting import LIMIT

from tempos import Publisher
from tempos._awaitables import in_time

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="journals are for Linux")

TOPICS = """\
[[topic]]
id = 1
name = "plant/press 1"
journal = 64
[[topic]]
id = 2
name = "bare"
framing = "raw"
journal = 8
"""
TOPIC = "plant/press 1"


class JetStream(NatsServer):
    """With its streams on disk."""

    def command(self) -> list[str]:
        return [*super().command(), "-js", "-sd", str(self.folder / "streams")]


class Exported(Node):
    """A broker whose API asks for a token, and what exports its topics."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token, self.given = folder, folder / "token", folder / "given"
        for each in (self.token, self.given):
            each.write_text("of-the-tests-and-long-enough")
            each.chmod(0o600)
        super().__init__(folder, TOPICS, token=self.token)
        self._sent = 0

    @contextlib.contextmanager
    def broker(self, how: signal.Signals = signal.SIGKILL) -> Iterator[subprocess.Popen[str]]:
        with super().broker(how) as process:
            yield process

    def command(self, to: str | Path, *more: str, topic: str = TOPIC) -> list[str]:
        return [
            sys.executable, "-m", "tempos", "export", topic, "--to", str(to), *more,
            "--api", f"127.0.0.1:{self.api}", "--token-file", str(self.given),
        ]  # fmt: skip

    async def once(self, to: str | Path, *more: str, topic: str = TOPIC, code: int = 0) -> str:
        """What it says."""
        process = await asyncio.create_subprocess_exec(
            *self.command(to, "--once", *more, topic=topic),
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
        )
        _, said = await in_time(process.communicate(), LIMIT)
        assert process.returncode == code, said
        return said.decode()

    @contextlib.asynccontextmanager
    async def following(
        self, to: str | Path, how: signal.Signals = signal.SIGTERM
    ) -> AsyncIterator[asyncio.StreamReader]:
        process = await asyncio.create_subprocess_exec(
            *self.command(to), stderr=asyncio.subprocess.PIPE, env=self.environment()
        )
        assert process.stderr is not None
        try:
            yield process.stderr
        finally:
            process.send_signal(how)
            code = await in_time(process.wait(), LIMIT)
        assert code == (-how if how is signal.SIGKILL else 128 + how)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.folder / "state")}

    async def send(self, count: int, topic: str = TOPIC, publisher: Publisher | None = None) -> list[bytes]:
        """Each is with its member before the next one is sent."""
        bodies = [b"event %d" % (self._sent + number) for number in range(count)]
        self._sent += count
        async with self.publisher() as sender, self.subscriber(topic, group="g") as member:
            for body in bodies:
                await sender.publish(topic, body)
                assert (await in_time(anext(member), LIMIT)).body == body
        return bodies


@pytest.fixture
def node(tmp_path: Path) -> Exported:
    return Exported(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JetStream]:
    server = JetStream(tmp_path)
    server.start()
    yield server
    server.end()


@contextlib.asynccontextmanager
async def stream_of(server: JetStream) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def messages(server: JetStream, stream: str = "S") -> list[Any]:
    async with stream_of(server) as context:
        try:
            last = (await context.stream_info(stream)).state.last_seq
        except NotFoundError:
            return []
        return [await context.get_msg(stream, number) for number in range(1, last + 1)]


def rows(file: Path) -> list[dict[str, Any]]:
    """What stands in the file; a line that is just being written has no end yet."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


async def says(said: asyncio.StreamReader, text: str) -> None:
    async def look() -> None:
        while text not in (line := (await said.readline()).decode()):
            assert line, "it has ended"

    await in_time(look(), LIMIT)


async def eventually(count: int, found: Any) -> None:
    async def look() -> None:
        while True:
            there = found()
            if len(await there if asyncio.iscoroutine(there) else there) >= count:
                return
            await asyncio.sleep(0.02)

    await in_time(look(), LIMIT)


async def test_a_file_has_every_event_once_over_kills_of_export_and_broker(
    node: Exported, tmp_path: Path
) -> None:
    file = tmp_path / "out"
    bodies = []
    with node.broker():
        bodies += await node.send(10)
        said = await node.once(file)
        assert "10 datagrams exported, 0 were gone" in said
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            bodies += await node.send(15)
            async with node.following(file, how):
                bodies += await node.send(15)
                await eventually(len(bodies), lambda: rows(file))
        assert [row["body"].encode() for row in rows(file)] == bodies
        assert not any("missed" in row for row in rows(file))
    async with contextlib.AsyncExitStack() as stack:
        with node.broker():
            said = await node.once(file)
            assert "the journal is another one than before" in said
            following = await stack.enter_async_context(node.following(file))
            bodies += await node.send(5)
            await eventually(len(bodies), lambda: rows(file))
        await says(following, "it is tried again")
        with node.broker():
            bodies += await node.send(5)
            await eventually(len(bodies), lambda: rows(file))
    assert [row["body"].encode() for row in rows(file)] == bodies
    told = [(row["missed"], row["at_least"]) for row in rows(file) if "missed" in row]
    assert told == [(0, True), (0, True)], "what a journal had that is no more nobody knows"


async def test_what_was_overwritten_is_counted_over_epochs(node: Exported, tmp_path: Path) -> None:
    file = tmp_path / "out"
    with node.broker():
        await node.send(10)
        await node.once(file)
        for _ in range(4):
            await node.send(40)
        said = await node.once(file)
        written = rows(file)
        assert sum(row.get("missed", 0) for row in written) + len(written) == 170
        assert not any(row.get("at_least") for row in written)
        assert f"{170 - len(written)} were gone before" in said
        assert written[-1]["body"] == "event 169"
        assert len(written) >= 10 + 64 - 8 - 1


async def test_refusals_are_told_and_nothing_is_begun(node: Exported, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert "no answer" in await node.once(file, code=1)
    with node.broker():
        assert "no topic" in await node.once(file, topic="other", code=1)
        node.given.write_text("another-one-and-long-enough")
        assert "token" in await node.once(file, code=1)
        node.given.write_text(node.token.read_text())
        (tmp_path / "foreign").write_text("text\n")
        assert "is no export" in await node.once(tmp_path / "foreign", code=1)
        await node.send(1)
        assert "no answer" not in await node.once(file)


async def test_a_stream_has_every_event_once(node: Exported, server: JetStream, tmp_path: Path) -> None:
    to = f"nats://127.0.0.1:{server.port}/S"
    with node.broker():
        bodies = await node.send(5)
        assert "has no stream S" in await node.once(to, code=1)
        await node.once(to, "--create")
        for how in (signal.SIGKILL, signal.SIGTERM):
            async with node.following(to, how):
                bodies += await node.send(20)
                await eventually(len(bodies), lambda: messages(server))
        found = await messages(server)
        assert [each.data for each in found] == bodies
        assert {each.subject for each in found} == {"tempos.plant.press_1"}
        assert [int(each.headers["Tempos-Position"]) for each in found] == sorted(
            int(each.headers["Tempos-Position"]) for each in found
        )
        # As after a crash before the position was written: the server knows all of them.
        (position,) = (tmp_path / "state" / "tempos").glob("*.json")
        position.unlink()
        await node.once(to)
        assert [each.data for each in await messages(server)] == bodies
        # The server is away for a while.
        async with node.following(to) as said:
            await says(said, "is exported")
            await asyncio.to_thread(server.end, signal.SIGKILL)
            bodies += await node.send(20)
            await says(said, "it is tried again")
            await asyncio.to_thread(server.start)
            await eventually(len(bodies), lambda: messages(server))
        assert [each.data for each in await messages(server)] == bodies
        assert "are tokens" not in await node.once(to)
        # Where nobody takes the subject it is told.
        assert "does not take other" in await node.once(f"{to}/other", code=1)
        before = len(bodies)
        async with stream_of(server) as context:
            await context.add_stream(name="B", subjects=["bare"])
        await node.send(3, "bare")
        await node.once(f"nats://127.0.0.1:{server.port}/B/bare", topic="bare")
        bare = await messages(server, "B")
        assert [each.data for each in bare] == [b"event %d" % (before + number) for number in range(3)]
