"""A whole platform as a person starts it: `tempos up` with a file of its own, on ports that are free."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import forking
from support.ports import free_ports
from support.waiting import LIMIT, until

TOKEN = "0123456789abcdef"

COUNT = """\
import json


def count(body):
    asked = json.loads(body)
    return json.dumps({"count": asked["text"].count(asked["pattern"]), "by": "%s"}).encode()
"""

#: What is in force from the beginning: the README's workflow.
FILE = """\
[controller]
api = "127.0.0.1:{controller}"
api_token = "{token}"
[broker]
data_port = {data}
control_port = {control}
api = "127.0.0.1:{api}"
name = "up-{pid}"
fastpath = "off"
[[node]]
name = "local"
invoker = "127.0.0.1:{invoker}"
trigger = "127.0.0.1:{trigger}"
[[trigger]]
name = "http"
kind = "http"
listen = "127.0.0.1:{http}"
path = "/count"
answer = true
deadline = 5.0
[[function]]
name = "count"
mode = "python"
code = "count.py"
entry = "count:count"
[[workflow]]
name = "count"
trigger = "http"
topic = "texts"
class = "SQ"
error = "errors"
[[workflow.step]]
function = "count"
result = "counts"
"""
NAMES = ("controller", "data", "control", "api", "invoker", "trigger", "http")


class Up:
    """The platform, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.file = folder / "platform.toml"
        self.file.write_text(FILE.format(**self.ports, token=TOKEN, pid=os.getpid()))
        (folder / "count.py").write_text(COUNT % "one")
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    # --- lives ------------------------------------------------------------------------------

    def start(self, ready: str = "ready: ") -> list[str]:
        """Start a Controller; what it says when it is ready, which begins so."""
        log = (self.folder / "up.log").open("a")
        with log:
            self._process = forking.start(
                [sys.executable, "-m", "tempos", "up", str(self.file), "--state", str(self.state),
                 "--log-level", "info"],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(ready), line + self.log()
        return [line.rstrip("\n")]

    def told(self) -> str:
        """The next line that it says."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        """Kill the Controller, and it alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def stop(self) -> int:
        """Ctrl-C; gives the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()
        # Whatever a test came to, nothing stays.
        for pid in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def daemons(self) -> list[int]:
        """Processes that were started with a file in the state folder, workers not among them."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.state}/parts/".encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return sorted(found)

    def log(self) -> str:
        """All that was said."""
        logs = [self.folder / "up.log", *sorted((self.state / "log").glob("*.log"))]
        return "\n".join(f"== {each.name}\n{each.read_text()}" for each in logs if each.exists())

    def story(self) -> str:
        """What a call gets now, what all parts tell of it, and all that was said."""
        told: list[object] = []
        for each in (
            self.call,
            lambda: self.done("GET", "/v1/workflows/count"),
            lambda: get_topics(self.ports["api"]),
        ):
            try:
                told.append(each())
            except Exception as error:  # noqa: BLE001 - told as it is
                told.append(error)
        return "\n".join([*map(repr, told), self.log()])

    # --- asking -----------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The Controller's API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["controller"], timeout=LIMIT)
        with contextlib.closing(connection):
            content = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def done(self, method: str, path: str, body: object = None) -> Any:
        """The same where it must succeed."""
        status, answer = self.ask(method, path, body)
        assert status < 300, (answer, self.log())
        return answer

    def parts(self) -> dict[str, Any]:
        """The parts by name, as the status tells them."""
        return {each["name"]: each for each in self.done("GET", "/v1/status")["parts"]}

    def tempos(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command about this platform."""
        api = f"http://127.0.0.1:{self.ports['controller']}"
        env = {**os.environ, "TEMPOS_CONTROLLER": api, "TEMPOS_CONTROLLER_TOKEN": TOKEN}
        return subprocess.run(
            [sys.executable, "-m", "tempos", *words], capture_output=True, text=True, timeout=LIMIT, env=env
        )

    def call(self, path: str = "/count", limit: float = 10.0) -> tuple[int, Any]:
        """What a caller of the webhook gets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=limit)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps({"text": "abracadabra", "pattern": "ab"}))
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if response.status == 200 else content

    def works(self) -> bool:
        """Whether a call is answered as it should be."""
        try:
            status, answer = self.call()
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and answer["count"] == 2


class Callers:
    """Threads that call and call; every answer is kept, and everything that is none."""

    def __init__(self, up: Up, count: int = 2, path: str = "/count") -> None:
        self.answers: list[Any] = []
        self.failures: list[str] = []
        self._up = up
        self._path = path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Callers:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def more(self, count: int = 10) -> None:
        """Wait until so many more are answered."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted or bool(self.failures), lambda: self._up.log())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, answer = self._up.call(self._path)
                if status == 200:
                    self.answers.append(answer)
                else:
                    self.failures.append(f"{status} {answer!r}")
            except Exception as error:  # noqa: BLE001 - told by the test
                self.failures.append(repr(error))


def get_topics(api: int) -> object:
    """The topics as the broker tells them."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/topics")
        return json.load(connection.getresponse())


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Up]:
    """A platform that is up."""
    with Up(folder) as up:
        up.start()
        yield up
