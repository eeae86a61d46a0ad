"""A broker and an invoker as processes on loopback, and what one asks of them."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import brokers, forking
from support.ports import free_ports
from support.waiting import LIMIT
from tempos import Publisher, Subscriber
from tempos_bench.nodes.patience import patience

TOPICS = ("in", "mid", "out", "errors", "urgent")
_BROKER = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "127.0.0.1:{api}"
name = "invokers-{data}"
[fastpath]
mode = "off"
[state]
file = "{state}"
"""
_TOPIC = '[[topic]]\nid = {id}\nname = "{name}"\nclass = "{quality}"\n'

#: What the functions of the tests do is what the event says.
CODE = """
import json, os, sys, time
from tempos_invoker import Refused

def work(body, context):
    event = json.loads(body)
    do = event.get("do", "")
    if do == "raise":
        raise ValueError("as told")
    if do == "refuse":
        raise Refused("not this")
    if do == "hang":
        time.sleep(600)
    if do == "exit":
        os._exit(9)
    if do == "large":
        return bytes(100_000)
    if do == "none":
        return None
    while do == "until" and not os.path.exists(event["file"]):
        time.sleep(0.01)
    if do == "sleep":
        time.sleep(event["seconds"])
    return json.dumps({"n": event.get("n"), "id": context.id, "version": VERSION, "pid": os.getpid(),
                       "attempt": context.attempt, "step": context.step})

def twice(body):
    return body + body

def say(body):
    print("said", body.decode())
    return body

VERSION = 1
"""


class Broker:
    """A broker's process; its topics are :data:`TOPICS`."""

    def __init__(self, folder: Path, *, remembers: bool = False) -> None:
        self.data, self.control, self.api = free_ports(3)
        state = folder / "broker.db" if remembers else "off"
        self.file, self.log = folder / "broker.toml", folder / "broker.log"
        text = _BROKER.format(data=self.data, control=self.control, api=self.api, state=state)
        for number, name in enumerate(TOPICS):
            text += _TOPIC.format(id=number + 1, name=name, quality="SQ" if name == "urgent" else "BQ")
        self.file.write_text(text)

    @property
    def table(self) -> dict[str, Any]:
        return {"address": "127.0.0.1", "data_port": self.data, "control_port": self.control}

    def publisher(self) -> Publisher:
        return Publisher("127.0.0.1", data_port=self.data, control_port=self.control)

    def subscriber(self, topic: str) -> Subscriber:
        return Subscriber("127.0.0.1", topic, control_port=self.control)

    def balanced(self) -> bool:
        """Whether the broker's ledger adds up."""
        return bool(brokers.get(self.api, "/v1/ledger")["balanced"])


@contextmanager
def serving_broker(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    with brokers.serving(broker.file, broker.log):
        yield broker


class Daemon:
    """An invoker's process. ``settings``: more lines of [invoker]; ``more``: what follows."""

    def __init__(self, folder: Path, more: str = "", settings: str = "") -> None:
        (self.port,) = free_ports(1)
        self.file, self.log = folder / "invoker.toml", folder / "invoker.log"
        self.state = folder / "state"
        self.head = f'[invoker]\napi = "127.0.0.1:{self.port}"\nstate = "{self.state}"\n{settings}\n'
        self.write(more)
        self.process: subprocess.Popen[str] | None = None

    def write(self, more: str) -> None:
        self.file.write_text(self.head + more)

    def start(self) -> str:
        """Start it; gives its first line, "" if it ended without one."""
        with self.log.open("a") as log:
            self.process = forking.start(
                [sys.executable, "-m", "tempos", "invoker", "-c", str(self.file), "--log-level", "info"],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        with process:
            process.send_signal(how)
            return process.wait(LIMIT)

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience(40))
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, content = self.send(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(content)

    def status(self) -> dict[str, Any]:
        code, document = self.ask("GET", "/v1/status")
        assert code == 200
        return document  # type: ignore[no-any-return]

    def upload(self, text: str, name: str = "code.py") -> dict[str, str]:
        """Put code; gives how a deployment names it."""
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        assert self.send("PUT", f"/v1/code/{sha256}", text.encode())[0] == 200
        return {"sha256": sha256, "name": name}

    def until(self, true: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Ask for the status until it is so."""
        end = time.monotonic() + LIMIT
        while not true(status := self.status()):
            assert time.monotonic() < end, (what, status, self.log.read_text()[-3000:])
            time.sleep(0.02)
        return status

    async def settled(self, accepted: int) -> dict[str, Any]:
        """The total account, once so many events have come and all have ended."""

        def is_over(status: dict[str, Any]) -> bool:
            total = status["total"]
            assert total["drift"] == 0
            return bool(total["accepted"] >= accepted and not total["waiting"] and not total["running"])

        return await asyncio.to_thread(self.until, is_over, f"{accepted} events are over")

    async def comes_to(self, **account: int) -> None:
        """Return once these numbers of the total account are so."""

        def is_so(status: dict[str, Any]) -> bool:
            return all(status["total"][name] == value for name, value in account.items())

        await asyncio.to_thread(self.until, is_so, str(account))


@contextmanager
def serving_invoker(folder: Path, more: str = "", settings: str = "") -> Iterator[Daemon]:
    daemon = Daemon(folder, more, settings)
    try:
        first = daemon.start()
        assert first.startswith("ready"), daemon.log.read_text()
        yield daemon
    finally:
        daemon.end()


def function(name: str = "work", code: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "mode": "python", "code": code, "entry": f"code:{name}", **more}


def step(name: str = "s", takes: str = "work", **more: Any) -> dict[str, Any]:
    return {
        "workflow": "w", "name": name, "function": takes, "class": "BQ", "topic": "in", "result": "out",
        "error": "errors", **more,
    }  # fmt: skip
