"""What a scenario would run on which host, without running anything.

The scenario itself runs, over nodes that write down each command and answer as if all had gone well: so
the plan is what really would be done, and cannot differ from it. Its figures mean nothing and
are thrown away.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tempos import PathPolicy
from tempos_bench import scenario
from tempos_bench.hosts import Host, Hosts, RemoteNode, topology_of
from tempos_bench.node import Program
from tempos_bench.run import Run
from tempos_bench.topology import Topology

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: More datagrams than any scenario waits for.
_ENOUGH = 1 << 40


def _sent(options: Mapping[str, str]) -> dict[str, Any]:
    return {"sent": int(options["--count"]), "refused": 0, "began_ns": 0, "ended_ns": 1_000_000_000}


def _sunk(options: Mapping[str, str]) -> dict[str, Any]:
    counts = dict.fromkeys(("repeated", "damaged", "bad_checksums", "overrun"), 0)
    return {"received": int(options.get("--expect", "1")), **counts}


def _pinged(options: Mapping[str, str]) -> dict[str, Any]:
    return {"sent": int(options["--count"]), "lost": 0, "samples_ns": [1000]}


def _described(options: Mapping[str, str]) -> dict[str, Any]:
    return {}


#: What each program that gives a result would answer.
_ANSWERS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    "tempos_bench.blast": _sent,
    "tempos_bench.sink": _sunk,
    "tempos_bench.ping": _pinged,
    "tempos_bench.interfaces": _described,
}


class Planned(Program):
    """A program that was only written down."""

    def __init__(self, name: str, answer: Mapping[str, Any]) -> None:
        self.name = name
        self._answer = answer

    @property
    def running(self) -> bool:
        return False

    @property
    def output(self) -> str:
        return ""

    def wait_line(self, start: str = "", limit: float = 10.0) -> str:
        return start

    def wait(self, limit: float) -> int:
        return 0

    def result(self, limit: float) -> Any:
        return self._answer

    def terminate(self) -> None: ...

    def stop(self, limit: float = 0.0) -> int:
        return 0


class PlanNode(RemoteNode):
    """A host on which nothing is started."""

    def __init__(self, host: Host, hosts: Hosts, tell: Callable[[str, str, str | None], None]) -> None:
        super().__init__(host, hosts.runner)
        self._tell = tell
        self._topics: list[dict[str, Any]] = []
        self._mode = "none"

    def request(self, method: str, path: str, body: object = None) -> Any:
        return {"topics": self._topics, "paths": {"fast": {"mode": self._mode, "reason": "a plan"}}}

    def _begin(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, text: str | None
    ) -> Program:
        self._tell(self.name, self.line(command, cpu, text), text)
        if text is not None:
            self._configured(_toml.loads(text))
        module = command[command.index("-m") + 1]
        options = dict(pairwise(command))
        answer = _ANSWERS.get(module, _described)
        return Planned(name, answer(options))

    def _configured(self, config: Mapping[str, Any]) -> None:
        self._mode = config["fastpath"]["mode"]
        self._topics = [
            {
                "name": topic["name"],
                "path": "slow" if self._mode == "off" or topic["path"] == PathPolicy.SLOW.value else "fast",
                "reason": "a plan", "received": _ENOUGH, "fast": _ENOUGH, "slow": 0, "refused": {},
                "groups": [], "problems": [],
            }
            for topic in config["topic"]
        ]  # fmt: skip


class Plan:
    """Counts what would run where; a :class:`~tempos_bench.run.Place`."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.shapes = hosts.shapes
        #: How often each line, with the text it is given, would run on each host, in the order of the first.
        self.lines: dict[tuple[str, str, str | None], int] = {}

    @contextmanager
    def build(self, shape: str) -> Iterator[Topology]:
        """A topology of hosts on which nothing happens."""
        with topology_of(
            self._hosts, shape, lambda host: PlanNode(host, self._hosts, self._tell)
        ) as topology:
            yield topology

    def _tell(self, host: str, line: str, text: str | None) -> None:
        self.lines[host, line, text] = self.lines.get((host, line, text), 0) + 1


def plan(loaded: scenario.Scenario, hosts: Hosts) -> str:
    """What a scenario would run, a line for each different command."""
    place = Plan(hosts)
    scenario.run(loaded, Run(place=place))
    roles = zip(("publisher", "broker", "subscriber"), hosts.nodes, strict=True)
    told = [f"{role}: {host.name} ({' '.join((*hosts.runner, host.ssh))})" for role, host in roles]
    lines = [f"{loaded.name}, connected as {hosts.shape!r}", *told]
    texts: list[str] = []
    for (host, line, text), count in place.lines.items():
        if text is not None and text not in texts:
            texts.append(text)
        given = f", {{text}} is text {texts.index(text) + 1}" if text is not None else ""
        lines.append(f"{host}: {line}    # {count} x{given}")
    for number, text in enumerate(texts):
        lines += [f"text {number + 1}:", *(f"    {each}" for each in text.splitlines())]
    return "\n".join(lines)
