"""A deadline holds whatever a function waits in, in every mode: its event fails once, all else goes on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import functions
from support.invokers import LIMIT, Broker, Daemon, serving_broker, serving_invoker, step

#: Each waits for longer than anybody has patience, in another way, where the event is not an echo.
PYTHON = """
import asyncio, ctypes, os, time

def sync(body):
    if not body.startswith(b"echo"):
        time.sleep(600)
    return body

def keeps_the_lock(body):
    if not body.startswith(b"echo"):
        ctypes.PyDLL(None).sleep(600)
    return body

async def blocks(body):
    return sync(body)

async def is_not_cancelled(body):
    while not body.startswith(b"echo"):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
    return body

async def in_a_thread(body):
    return await asyncio.to_thread(sync, body)

def leaves_its_group(body):
    if not body.startswith(b"echo"):
        os.setpgid(0, os.getpgid(os.getppid()))
    return sync(body)
"""
WAYS = ("keeps_the_lock", "blocks", "is_not_cancelled", "leaves_its_group")
PROGRAM = """
import os, signal, sys, time
body = sys.stdin.buffer.read()
if not body.startswith(b"echo"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if body == b"away":
        os.setpgid(0, os.getpgid(os.getppid()))
    time.sleep(600)
sys.stdout.buffer.write(body)
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with serving_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with serving_invoker(tmp_path) as started:
        yield started


def put(daemon: Daemon, content: bytes, name: str) -> dict[str, str]:
    sha256 = hashlib.sha256(content).hexdigest()
    assert daemon.send("PUT", f"/v1/code/{sha256}", content)[0] == 200
    return {"sha256": sha256, "name": name}


def wasm(daemon: Daemon, folder: Path) -> dict[str, Any]:
    pytest.importorskip("wasmtime")
    os.mkfifo(folder / "fifo")
    module = functions.command(folder, "command")
    code = put(daemon, module.read_bytes(), module.name)
    return {"mode": "wasm", "code": code, "grants": [f"read:{folder}=/in"]}


def dlf(daemon: Daemon, folder: Path) -> dict[str, Any]:
    library = functions.library(folder, "hostile")
    return {"mode": "dlf", "code": put(daemon, library.read_bytes(), library.name)}


def spawn(daemon: Daemon, folder: Path) -> dict[str, Any]:
    code = put(daemon, PROGRAM.encode(), "program.py")
    return {"mode": "spawn", "code": code, "args": [sys.executable, "{code}"]}


def python(entry: str) -> Callable[[Daemon, Path], dict[str, Any]]:
    def make(daemon: Daemon, folder: Path) -> dict[str, Any]:
        return {"code": put(daemon, PYTHON.encode(), "code.py"), "entry": f"code:{entry}"}

    return make


def deploy(daemon: Daemon, broker: Broker, made: list[dict[str, Any]], *steps: dict[str, Any]) -> None:
    document = {"broker": broker.table, "function": made, "step": list(steps)}
    status, answer = daemon.ask("PUT", "/v1/deployment", document)
    assert status == 200, answer


class Ends(contextlib.AsyncExitStack):
    """Where events go in and what becomes of them comes out."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.pub, self.out, self.errors = (
            broker.publisher(), broker.subscriber("out"), broker.subscriber("errors"),
        )  # fmt: skip

    async def __aenter__(self) -> Ends:
        for each in (self.pub, self.out, self.errors):
            await self.enter_async_context(each)
        return self

    async def results(self, count: int) -> Counter[bytes]:
        return Counter([(await self.out.next(LIMIT)).body for _ in range(count)])

    async def failures(self, count: int) -> Counter[tuple[str, bytes]]:
        told = [(await self.errors.next(LIMIT)).unpack() for _ in range(count)]
        return Counter((each["condition"], each["body"]) for each in told)

    def are_empty(self) -> bool:
        return self.out.poll() is None and self.errors.poll() is None


@pytest.mark.parametrize(
    ("make", "deed"),
    [
        pytest.param(wasm, b"sleep", id="wasm-sleeps-in-the-host"),
        pytest.param(wasm, b"read /in/fifo", id="wasm-opens-what-nobody-writes"),
        pytest.param(dlf, b"sleep", id="dlf"),
        pytest.param(spawn, b"away", id="spawn-leaves-its-group"),
        *(pytest.param(python(each), b"sleep", id=f"python-{each}") for each in WAYS),
    ],
)
async def test_it_holds_whatever_a_function_waits_in(
    broker: Broker,
    daemon: Daemon,
    tmp_path: Path,
    make: Callable[[Daemon, Path], dict[str, Any]],
    deed: bytes,
) -> None:
    made = {"name": "work", "mode": "python", "timeout": 2.0, "concurrency": 2, **make(daemon, tmp_path)}
    other = {**python("sync")(daemon, tmp_path), "name": "other", "mode": "python"}
    deploy(daemon, broker, [made, other], step(), step("other", "other", topic="mid"))
    async with Ends(broker) as ends:
        echoes = [b"echo %d" % number for number in range(4)]
        await ends.pub.publish("in", deed)
        for topic in ("in", "mid"):
            for echo in echoes:
                await ends.pub.publish(topic, echo)
        assert await ends.results(8) == Counter(echoes * 2)
        assert await ends.failures(1) == Counter({("timeout", deed): 1})
        await ends.pub.publish("in", b"echo after")
        assert await ends.results(1) == Counter([b"echo after"])
        total = (await daemon.settled(10))["total"]
        assert (total["accepted"], total["succeeded"], total["failed"]) == (10, 9, {"timeout": 1})
        await ends.pub.publish("in", deed)
        await daemon.comes_to(running=1)
        assert await asyncio.to_thread(daemon.end) == 0
        (((condition, _), count),) = (await ends.failures(1)).items()
        assert (condition in ("stopped", "timeout"), count) == (True, 1)
        assert ends.are_empty(), "each is told once"
    assert broker.balanced()


@pytest.mark.parametrize("entry", ["sync", "in_a_thread"])
async def test_however_many_are_late_what_waits_behind_them_is_done(
    broker: Broker, daemon: Daemon, tmp_path: Path, entry: str
) -> None:
    """With one worker, which is replaced soon each time; more of them than a loop has threads."""
    late = min(32, (os.cpu_count() or 1) + 4) + 8
    made = {**python(entry)(daemon, tmp_path), "name": "work", "mode": "python", "timeout": 0.3}
    deploy(daemon, broker, [made], step())
    async with Ends(broker) as ends:
        for _ in range(late):
            await ends.pub.publish("in", b"sleep")
        await ends.pub.publish("in", b"echo")
        assert await ends.failures(late) == Counter({("timeout", b"sleep"): late})
        assert await ends.results(1) == Counter([b"echo"])
        total = (await daemon.settled(late + 1))["total"]
        assert (total["succeeded"], total["failed"]) == (1, {"timeout": late})
        assert ends.are_empty()
