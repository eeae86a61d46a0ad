"""A platform in a namespace whose parts can be killed: Controller, broker, trigger, invoker, its workers.

The Controller starts the daemons and puts them right; it is started here. Whoever asks an API here asks as an
operator would, with the tokens that the Controller made.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tempos import TemposError
from tempos_bench.calls import unruly
from tempos_bench.nodes.node import PYTHON, Node, Program, ProgramFailed
from tempos_bench.nodes.patience import patience

HOME = "127.0.0.1"
#: Ports of the signals, by workflow; `asked` is an HTTP endpoint whose callers wait for the result.
PORTS = {"strict": 7001, "best": 7002, "asked": 8080}
#: How long an HTTP caller waits at most, and a function may take, seconds.
DEADLINE, TIMEOUT = 2.0, 0.3
#: Daemons by the names that the Controller has for them: how each is recognized, and its API.
DAEMONS = {
    "broker": ("broker", 9996),
    "invoker-local": ("invoker", 9995),
    "trigger-local": ("trigger", 9994),
}
CONTROLLER_PORT = 9993
_WORKER = b"tempos_invoker.worker"
_LIMIT = 60.0

_FILE = f"""
[broker]
fastpath = "off"

[[trigger]]
name = "strict"
kind = "udp"
listen = "{HOME}:{PORTS["strict"]}"

[[trigger]]
name = "best"
kind = "udp"
listen = "{HOME}:{PORTS["best"]}"

[[trigger]]
name = "asked"
kind = "http"
listen = "{HOME}:{PORTS["asked"]}"
path = "/work"
answer = true
deadline = {DEADLINE}

[[function]]
name = "work"
mode = "python"
code = {json.dumps(unruly.__file__)}
entry = "unruly:work"
timeout = {TIMEOUT}
concurrency = 2

[[workflow]]
name = "strict"
trigger = "strict"
topic = "strict"
class = "SQ"
error = "errors"
[[workflow.step]]
function = "work"
result = "strict/results"

[[workflow]]
name = "best"
trigger = "best"
topic = "best"
class = "BQ"
error = "errors"
[[workflow.step]]
name = "first"
function = "work"
result = "best/between"
[[workflow.step]]
name = "second"
function = "work"
result = "best/results"

[[workflow]]
name = "asked"
trigger = "asked"
topic = "asked"
class = "BQ"
error = "errors"
[[workflow.step]]
function = "work"
result = "asked/results"
"""


class Away(TemposError):
    """Who was asked is not there, or says no."""


class Living:
    """The platform; ``folder``: an empty one."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self._state = folder / "state"
        self._file = folder / "platform.toml"
        self._file.write_text(_FILE)
        self._controller: Program | None = None
        #: What Controllers that are gone said.
        self.said: list[str] = []

    # --- lives -------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start a Controller; with ``wait``, until all is in force."""
        command = (PYTHON, "-m", "tempos", "up", str(self._file), "--state", str(self._state))
        self._controller = self.node.start(command)
        if wait:
            self._controller.wait_line("ready", _LIMIT)

    def kill(self, name: str) -> bool:
        """Kill a daemon by its name, or the Controller; False if it is not there just now."""
        if name == "controller":
            assert self._controller is not None
            if not self._controller.running:
                return False
            self._controller.kill()
            self.said.append(self._controller.output)
            return True
        pid = self.pids().get(name)
        return pid is not None and _killed(pid, signal.SIGKILL)

    def end(self) -> int:
        """As an operator ends it: the Controller takes all with it. Gives its exit code."""
        assert self._controller is not None
        code = self._controller.stop(limit=40.0)
        self.said.append(self._controller.output)
        return code

    def close(self) -> None:
        """Whatever is left."""
        if self._controller is not None:
            self._controller.stop(limit=40.0)
        for pid in self.left():
            _killed(pid, signal.SIGKILL)

    @property
    def controlled(self) -> bool:
        """Whether a Controller is there."""
        return self._controller is not None and self._controller.running

    def pids(self) -> dict[str, int]:
        """The daemons that run now."""
        found = {}
        for pid, where, command in self._processes():
            for name, (word, _) in DAEMONS.items():
                if where == self._state / "parts" / name and f"\0{word}\0-c\0".encode() in command:
                    found[name] = pid
        return found

    def workers(self) -> set[int]:
        """Processes that run functions, whoever they belong to."""
        return {pid for pid, _, command in self._processes() if _WORKER in command}

    def left(self) -> list[int]:
        """Everything that was ever started there and still runs."""
        return [pid for pid, where, _ in self._processes() if self._state in (where, *where.parents)]

    def logs(self) -> Mapping[str, str]:
        """What each daemon has logged so far."""
        return {path.stem: path.read_text(errors="replace") for path in (self._state / "log").glob("*.log")}

    # --- what is asked -----------------------------------------------------------------------

    def ask(self, name: str, path: str = "/v1/status") -> Any:
        """GET of a daemon's API; raises :class:`Away`."""
        _, port = DAEMONS[name]
        headers = {}
        token = self._state / "tokens" / name
        if token.exists():
            headers["Authorization"] = f"Bearer {token.read_text().strip()}"
        status, content = self.request("GET", port, path, headers=headers)
        if status != http.HTTPStatus.OK:
            raise Away(f"{name}: GET {path}: {status} {content[:300]!r}")
        return json.loads(content)

    def request(
        self,
        method: str,
        port: int,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request inside the namespace; raises :class:`Away`."""

        def inside() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(HOME, port, timeout=patience(DEADLINE + 10))
            try:
                connection.request(method, path, body, dict(headers or {}))
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        try:
            return self.node.call(inside)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"port {port}: {error!r}") from error

    def lacking(self) -> str:
        """Why not all is well yet, in words; "" if it is."""
        if not self.controlled:
            return "no Controller"
        assert self._controller is not None
        if "ready" not in self._controller.output:
            return "the Controller is not ready"
        gone = DAEMONS.keys() - self.pids().keys()
        if gone:
            return f"not there: {', '.join(sorted(gone))}"
        try:
            invoker, trigger = self.ask("invoker-local"), self.ask("trigger-local")
            self.ask("broker")
        except (Away, TimeoutError) as error:
            return str(error)
        joined = [step for step in invoker["steps"] if not step["source"]["joined"]]
        silent = [each["name"] for each in trigger["endpoints"] if not each["publishes"]]
        if len(invoker["steps"]) != 4 or joined:
            return f"steps without their topic: {joined or invoker['steps']}"
        if len(trigger["endpoints"]) != len(PORTS) or silent:
            return f"endpoints that publish nothing: {silent or trigger['endpoints']}"
        total = invoker["total"]
        if total["waiting"] or total["running"]:
            return f"the invoker has not finished: {total}"
        few = [
            each["name"]
            for each in invoker["functions"]
            if sum(worker["state"] == "serving" for worker in each["workers"]) < each["concurrency"]
        ]
        if few:
            return f"functions without all their workers: {few}"
        return self._dead_members(invoker["steps"])

    def _dead_members(self, steps: Sequence[Mapping[str, Any]]) -> str:
        """Who is in a step's group beside the invoker that is there now, in words."""
        for step in steps:
            try:
                route = self.ask("broker", f"/v1/topics/{quote(step['topic'], safe='')}/route")
            except (Away, TimeoutError) as error:
                return str(error)
            members = [group["members"] for group in route["groups"] if group["name"] == step["group"]]
            if [len(each) for each in members] != [1]:
                return f"members of group {step['group']}: {members}"
        return ""

    def _processes(self) -> Iterator[tuple[int, Path, bytes]]:
        """Each of ours: pid, folder, command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                where = (entry / "cwd").readlink()
                command = (entry / "cmdline").read_bytes()
                if self._state in where.parents and command:
                    yield int(entry.name), where, command


def until(condition: Any, limit: float) -> bool:
    """Whether it came to hold within so many seconds."""
    end = time.monotonic() + patience(limit)
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def kill_worker(pid: int, how: signal.Signals) -> bool:
    """Whether there still was one to kill."""
    return _killed(pid, how)


def _killed(pid: int, how: signal.Signals) -> bool:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True


__all__ = ["Away", "DAEMONS", "DEADLINE", "HOME", "Living", "PORTS", "ProgramFailed", "kill_worker", "until"]
