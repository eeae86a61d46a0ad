"""What a scenario would run on which host, without running anything.

The scenario itself runs, over nodes that write down each command and answer as if all had gone well: so
the plan is what really would be done, and cannot differ from it. What depends on figures (the next rate of a
search) is what would be done if nothing were lost. Its figures mean nothing and are thrown away.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tempos import PathPolicy
from tempos_bench.measure import probe
from tempos_bench.nodes import ask
from tempos_bench.nodes.hosts import Hosts
from tempos_bench.nodes.node import Program, ProgramFailed
from tempos_bench.nodes.remote import Host, RemoteNode
from tempos_bench.nodes.topology import LEFT_OUT, Topology
from tempos_bench.programs.rehearsal import Asked
from tempos_bench.runs import scenario
from tempos_bench.runs.run import Run
from tempos_bench.suite.fanout_exact import KERNEL_GROUPS

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: More datagrams than any scenario waits for.
_ENOUGH = 1 << 40
#: Programs of other packages; ours answer in their own modules (see :mod:`tempos_bench.programs.rehearsal`).
_ELSEWHERE = {"tempos_fastpath.measure": probe.planned}
_MEMBERS = "tempos_bench.programs.members"


class Planned(Program):
    """A program that was only written down."""

    def __init__(self, name: str, command: Sequence[str], plan: Plan) -> None:
        self.name = name
        self.ended = False
        self.module = command[command.index("-m") + 1] if "-m" in command else ""
        self.options = Asked(command, (), 0).options
        self._command = tuple(command)
        self._plan = plan
        self._told: list[Any] = []

    @property
    def pid(self) -> int:
        return 1

    @property
    def running(self) -> bool:
        return not self.ended

    @property
    def output(self) -> str:
        return ""

    def wait_line(self, start: str = "", limit: float = 30.0) -> str:
        return start

    def wait(self, limit: float) -> int:
        return 0

    def tell(self, message: object) -> None:
        self._told.append(message)

    def answer(self, limit: float = 30.0) -> Any:
        return self._answered(tuple(self._told))

    def result(self, limit: float) -> Any:
        return self._answered(())

    def terminate(self) -> None: ...

    def kill(self) -> None:
        self.ended = True

    def stop(self, limit: float = 0.0) -> int:
        self.ended = True
        return 0

    def _answered(self, told: tuple[Any, ...]) -> Any:
        answers = _ELSEWHERE.get(self.module)
        if answers is None and self.module.startswith("tempos_bench."):
            answers = getattr(importlib.import_module(self.module), "planned", None)
        if answers is None:
            raise ProgramFailed(f"{self.name}: what it would answer is not known to a plan")
        answer = answers(Asked(self._command, told, self._plan.sent))
        self._plan.sent = answer.get("sent", self._plan.sent)
        return answer


class PlanNode(RemoteNode):
    """A host on which nothing is started."""

    def __init__(self, host: Host, runner: Sequence[str], plan: Plan) -> None:
        super().__init__(host, runner)
        self._plan = plan
        self._config: dict[str, Any] = {}

    def inquire(self, question: str, **given: Any) -> Any:
        if self._asking is None:
            self._asking = self.role("nodes.ask", ready=True, talk=True)
        return self._status() if question == "request" else ask.QUESTIONS[question].planned(**given)

    def _begin(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, text: str | None
    ) -> Program:
        self._plan.lines[self.name, self.line(command, cpu, text), text] += 1
        program = Planned(name, command, self._plan)
        self._plan.programs.append(program)
        if program.module == "tempos_broker" and text is not None:
            self._config = _toml.loads(text)
        return program

    def _status(self) -> dict[str, Any]:
        """What a broker with the last configuration would say, of all topics alike."""
        mode = self._config["fastpath"]["mode"]
        return {
            "topics": [self._topic(topic, mode) for topic in self._config["topic"]],
            "paths": {"fast": {"mode": mode, "reason": "a plan"}},
            "quality": {"worker": {"state": "serving", "reason": "a plan"}, "sockets": "a plan",
                        "reason": "a plan"},
        }  # fmt: skip

    def _topic(self, topic: Mapping[str, Any], mode: str) -> dict[str, Any]:
        members = Counter(member["group"] for member in topic.get("member", ()))
        slow = mode == "off" or topic["path"] == PathPolicy.SLOW.value or len(members) > KERNEL_GROUPS
        for program in self._plan.programs:
            options = program.options
            if program.module == _MEMBERS and program.running and options["--topic"] == topic["name"]:
                members[options["--group"]] += int(options["--members"])
        counts = dict.fromkeys(("dropped", "unconfirmed", "lost", "unknown", "unsent"), 0)
        counts |= {"tickets": _ENOUGH, "delivered": _ENOUGH}
        return {
            "name": topic["name"], "path": "slow" if slow else "fast", "reason": "a plan", "epoch": 1,
            "received": _ENOUGH, "fast": 0 if slow else _ENOUGH, "slow": _ENOUGH if slow else 0,
            "refused": {}, "passed": {}, "problems": [],
            "lost_before": {"sent": _ENOUGH, "at_least": 0, "at_most": 0, "settled": True},
            "groups": [{"name": name, "members": [{}] * count, **counts} for name, count in members.items()],
        }  # fmt: skip


class Plan:
    """Counts what would run where; a :class:`~tempos_bench.runs.run.Place`."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = dataclasses.replace(hosts, node=lambda host, runner: PlanNode(host, runner, self))
        self.shapes = hosts.shapes
        #: How often each line, with the text it is given, would run on each host, in the order of the first.
        self.lines: Counter[tuple[str, str, str | None]] = Counter()
        #: Those of the topology that is built now.
        self.programs: list[Planned] = []
        #: Datagrams that the last sender would have sent.
        self.sent = 0

    @contextmanager
    def build(self, shape: str) -> Iterator[Topology]:
        """A topology of hosts on which nothing happens."""
        with self._hosts.build(shape) as topology:
            yield topology
        self.programs.clear()


def plan(loaded: scenario.Scenario, hosts: Hosts) -> str:
    """What a scenario would run, a line for each different command."""
    place = Plan(hosts)
    run = Run(place=place, sleep=lambda seconds: None)
    scenario.run(loaded, run)
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
    return "\n".join((*lines, *(f"note: {note}" for note in run.notes if note.startswith(LEFT_OUT))))
