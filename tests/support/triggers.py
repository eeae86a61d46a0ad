"""A broker, a trigger and somebody who takes the events, on loopback, for the tests of triggers."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import forking
from support.ports import free_ports
from support.waiting import LIMIT
from tempos import Subscriber
from tempos_trigger import layout
from tempos_trigger.store import Store
from tempos_trigger.trigger import Trigger

TOPIC = "signals"
_CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "off"
name = "triggers-{data}"
[fastpath]
mode = "off"
[state]
file = "off"
[[topic]]
id = 200
name = "bare"
framing = "raw"
"""
_SIGNALS = """
[[topic]]
id = {number}
name = "signals"
class = "SQ"
"""


class BrokerBeside:
    """A broker's process that can be killed and started again, with another ``number`` for its topic."""

    def __init__(self, folder: Path) -> None:
        self.data, self.control = free_ports(2)
        self._file, self._log = folder / "broker.toml", folder / "broker.log"
        self._process: subprocess.Popen[str] | None = None

    @property
    def table(self) -> dict[str, Any]:
        """``[broker]`` of a trigger's document."""
        return {"data_port": self.data, "control_port": self.control}

    def start(self, number: int = 7) -> None:
        self._write(number)
        with self._log.open("a") as log:
            self._process = forking.start(
                [sys.executable, "-m", "tempos_broker", "-c", str(self._file)],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("ready"), self._log.read_text()

    def reload(self, number: int | None) -> None:
        """Have it read its file again, with another number for its topic; None: without it."""
        self._write(number)
        self.send(signal.SIGHUP)

    def send(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def _write(self, number: int | None) -> None:
        text = _CONFIG.format(data=self.data, control=self.control)
        self._file.write_text(text + (_SIGNALS.format(number=number) if number is not None else ""))

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            with self._process as process:
                process.send_signal(how)
                process.wait(LIMIT)
            self._process = None


@contextmanager
def broker_beside(folder: Path) -> Iterator[BrokerBeside]:
    """One that is ready."""
    broker = BrokerBeside(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.end()


class Daemon:
    """A trigger's process, and what one asks of its API."""

    def __init__(self, folder: Path, more: str = "", name: str = "trigger") -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        self.file = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        self.head = f'[trigger]\napi = "127.0.0.1:{self.port}"\nstate = "{folder / name}"\n'
        self.file.write_text(self.head + more)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        with self.log.open("a") as log:
            self.process = forking.start(
                [sys.executable, "-m", "tempos", "trigger", "-c", str(self.file)],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        return self.line()

    def line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if path.startswith("/v1") else content.decode()
        finally:
            connection.close()

    def endpoint(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = next(
            each for each in self.ask("GET", "/v1/status")[1]["endpoints"] if each["name"] == name
        )
        return told

    def kill(self) -> None:
        """It may have ended, or never begun."""
        if self.process is not None:
            self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Its exit code, and the seconds that it took."""
        assert self.process is not None
        began = time.monotonic()
        with self.process as process:
            process.send_signal(how)
            code = process.wait(LIMIT)
        self.process = None
        return code, time.monotonic() - began


@asynccontextmanager
async def trigger_here(folder: Path, document: dict[str, Any]) -> AsyncIterator[Trigger]:
    """A trigger on the test's own event loop, with this deployment in force."""
    trigger = Trigger("here", Store(folder / "here"))
    try:
        await trigger.apply(layout.parse(document, "deployment"), "test")
        yield trigger
    finally:
        await trigger.close()


@dataclass(frozen=True)
class Failure:
    """An answer that is an error."""

    body: bytes


class Taken:
    """Takes the events of the topic; ``answer`` gives what a request is answered with."""

    def __init__(self, subscriber: Subscriber, answer: Callable[[bytes], bytes | Failure | None]) -> None:
        self.bodies: Counter[bytes] = Counter()
        self.in_order: list[bytes] = []
        self._subscriber = subscriber
        self._answer = answer
        self._more = asyncio.Event()

    async def run(self) -> None:
        async for event in self._subscriber:
            self.bodies[event.body] += 1
            self.in_order.append(event.body)
            self._more.set()
            if event.is_request:
                answer = self._answer(event.body)
                if isinstance(answer, Failure):
                    await event.reply_error(answer.body)
                elif answer is not None:
                    await event.reply(answer)

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until it is so; asked whenever an event comes, and now and then."""
        end = time.monotonic() + LIMIT
        while not done():
            assert time.monotonic() < end, f"waited in vain; taken: {sum(self.bodies.values())}"
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), 0.05)
            except asyncio.TimeoutError:
                continue

    async def count(self, number: int) -> None:
        await self.until(lambda: sum(self.bodies.values()) >= number)


@asynccontextmanager
async def taking(
    broker: BrokerBeside, answer: Callable[[bytes], bytes | Failure | None] = lambda body: None
) -> AsyncIterator[Taken]:
    """Whoever takes the events of the topic."""
    async with Subscriber("127.0.0.1", TOPIC, control_port=broker.control, group="takers") as subscriber:
        taken = Taken(subscriber, answer)
        task = asyncio.get_running_loop().create_task(taken.run())
        try:
            yield taken
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def eventually(done: Callable[[], bool]) -> None:
    """Wait until it is so, which nobody tells."""
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)
