"""Workflows from end to end: signal, trigger, topic, function, result topic, subscriber; several at once.

The source of the signals, the trigger and who takes the results are at A, the broker at B, the invoker at C:
every event crosses both links twice, and both ways through the broker may be the fast path's. Sources and
subscribers share the second core, for the invoker gives the first to its first strict worker; all else runs
where there is room.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Framing, PathPolicy, Quality, Topic
from tempos import Path as DataPath
from tempos_bench.calls import back, event
from tempos_bench.measure import samples
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.samples import Latency
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Node, Program, ProgramFailed
from tempos_bench.nodes.topology import Topology
from tempos_bench.runs.rounds import cores

TRIGGER_PORT, INVOKER_PORT = 9994, 9995
_FIRST_PORT = 7001
_LIMIT = 60.0
_LEAD = 0.05
#: Seconds without a result after which nothing is on its way any more.
_IDLE = 0.3
_KEEP = 200_000


@dataclass(frozen=True, slots=True)
class Workflow:
    """So many ``steps`` in a row, each a function of its own, all of one class."""

    name: str
    quality: Quality
    steps: int = 1

    def topics(self) -> list[str]:
        """From the signals' to the results'."""
        return [f"{self.name}/{number}" for number in range(self.steps)] + [f"{self.name}/result"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the signals of one workflow; ``offered``: signals/s that were really sent."""

    sent: int
    received: int
    repeated: int
    offered: float
    latest: float
    latency: Latency

    @property
    def lost(self) -> int:
        return self.sent - self.received

    @property
    def lost_share(self) -> float:
        return self.lost / self.sent if self.sent else 0.0


class System:
    """Broker, trigger and invoker with ``workflows``; ended by ``stack``."""

    def __init__(
        self, stack: ExitStack, topology: Topology, workflows: Sequence[Workflow], folder: str, mode: str
    ) -> None:
        """``mode``: of the fast path; ``folder``: an empty one, for what the daemons keep."""
        self._topology = topology
        self._run = 0
        topics = _topics(workflows, mode)
        self._broker = stack.enter_context(Broker(topology.broker, dict.fromkeys(topics, ()), mode=mode))
        ports = {each.name: _FIRST_PORT + at for at, each in enumerate(workflows)}
        self._invoker = _daemon(topology.subscriber, "invoker", _steps(topology, workflows, folder), stack)
        self._trigger = _daemon(topology.publisher, "trigger", _endpoints(topology, ports, folder), stack)
        self._sources = {
            name: self._end("publish", "udp", "127.0.0.1", port, name, stack) for name, port in ports.items()
        }
        self._subscribers = {
            each.name: self._end(
                "subscribe", "tempos", topology.broker.address, DATA_PORT, each.topics()[-1], stack
            )
            for each in workflows
        }
        for program in (*self._sources.values(), *self._subscribers.values()):
            program.wait_line("ready", _LIMIT)
        for topic in topics:
            self._broker.wait_path(topic.name, DataPath.SLOW if mode == "off" else DataPath.FAST)
        self._warm_up(workflows)

    def play(
        self, workflows: Sequence[Workflow], rate: float, seconds: float
    ) -> dict[str, tuple[Outcome, array[int]]]:
        """So many signals/s for each of these; their outcomes, and how long each took from its schedule."""
        self._run += 1
        names = [each.name for each in workflows]
        command = {"size": event.SIZE, "run": self._run}
        for name in names:
            self._subscribers[name].ask(
                {**command, "idle": _IDLE, "expect": math.ceil(rate * seconds) + 1, "room": _KEEP}
            )
        begin = self._topology.publisher.soon(_LEAD)
        for name in names:
            self._sources[name].tell(
                {**command, "seconds": seconds, "rate": rate, "full": False, "begin_ns": begin}
            )
        sent = {name: self._sources[name].answer(_LIMIT) for name in names}
        return {
            name: _outcome(sent[name], self._subscribers[name].ask("end", _LIMIT), seconds) for name in names
        }

    def faults(self) -> list[str]:
        """Accounts that are not exact, in words; none, if all is well."""
        faults = []
        total = self._ask(self._topology.subscriber, INVOKER_PORT)["total"]
        if total["drift"] or total["waiting"] or total["running"]:
            faults.append(f"the invoker's account: {total}")
        for each in self._ask(self._topology.publisher, TRIGGER_PORT)["endpoints"]:
            went = each["published"] + each["waiting"] + sum(each["dropped"].values())
            if each["received"] != went:
                faults.append(f"the trigger's account: {each}")
        for topic in self._broker.status()["topics"]:
            faults += [f"the broker's account of {topic['name']}: {fault}" for fault in topic["problems"]]
        return faults

    def failures(self) -> dict[str, int]:
        """What invocations have failed by so far, by condition."""
        failed: dict[str, int] = self._ask(self._topology.subscriber, INVOKER_PORT)["total"]["failed"]
        return {condition: count for condition, count in failed.items() if count}

    def scheduling(self) -> list[dict[str, Any]]:
        """What the invoker's workers really got."""
        found = self._ask(self._topology.subscriber, INVOKER_PORT)
        return [{"class": each["class"], "workers": each["workers"]} for each in found["functions"]]

    def _ask(self, node: Node, port: int) -> Any:
        return node.inquire("request", method="GET", path="/v1/status", port=port)

    def _end(self, do: str, client: str, address: str, port: int, topic: str, stack: ExitStack) -> Program:
        program = self._topology.publisher.role(
            "peers.library", "--do", do, "--client", client, "--connect", f"{address}:{port}",
            "--topic", topic, "--events", cpu=cores()[1], talk=True,
        )  # fmt: skip
        stack.callback(program.stop)
        return program

    def _warm_up(self, workflows: Sequence[Workflow]) -> None:
        """Until a result of each has come."""
        for each in workflows:
            if not self.play([each], 200.0, 0.2)[each.name][0].received:
                raise ProgramFailed(
                    f"no result of {each.name} came\n{self._trigger.output}\n{self._invoker.output}"
                )


def _outcome(sent: dict[str, Any], got: dict[str, Any], seconds: float) -> tuple[Outcome, array[int]]:
    latency = samples.unpack(got["latency"])
    took = max((sent["ended_ns"] - sent["began_ns"]) / 1e9, seconds)
    told = samples.summarize(latency)
    offered = sent["sent"] / took
    return Outcome(sent["sent"], got["received"], got["repeated"], offered, sent["latest"], told), latency


def _topics(workflows: Sequence[Workflow], mode: str) -> list[Topic]:
    policy = PathPolicy.SLOW if mode == "off" else PathPolicy.AUTO
    named = [(name, each.quality) for each in workflows for name in each.topics()]
    return [
        Topic(number, name, quality=quality, framing=Framing.EVENT, policy=policy)
        for number, (name, quality) in enumerate(named, start=1)
    ]


def _daemon(node: Node, command: str, text: str, stack: ExitStack) -> Program:
    program = node.start(
        (PYTHON, "-m", "tempos", command, "-c", TEXT_FILE), ready="ready", limit=_LIMIT, text=text
    )
    stack.callback(program.stop)
    return program


def _steps(topology: Topology, workflows: Sequence[Workflow], folder: str) -> str:
    lines = [
        "[invoker]",
        f"state = {json.dumps(f'{folder}/invoker')}",
        "[broker]",
        f'address = "{topology.facing_subscriber}"',
    ]
    for each in workflows:
        topics = each.topics()
        for number in range(each.steps):
            name = f"{each.name}-{number}"
            lines += [
                "[[function]]",
                f'name = "{name}"',
                'mode = "python"',
                f'entry = "{back.__name__}:back"',
            ]
            lines += ["[[step]]", f'workflow = "{each.name}"', f'name = "{number}"', f'function = "{name}"']
            lines += [
                f'class = "{each.quality.value}"',
                f'topic = "{topics[number]}"',
                f'result = "{topics[number + 1]}"',
            ]
    return "\n".join(lines) + "\n"


def _endpoints(topology: Topology, ports: dict[str, int], folder: str) -> str:
    lines = [
        "[trigger]",
        f"state = {json.dumps(f'{folder}/trigger')}",
        "[broker]",
        f'address = "{topology.broker.address}"',
    ]
    for name, port in ports.items():
        lines += [
            "[[endpoint]]",
            f'name = "{name}"',
            'kind = "udp"',
            f'topic = "{name}/0"',
            f'listen = "127.0.0.1:{port}"',
        ]
    return "\n".join(lines) + "\n"
