"""Workflows from end to end: signal, trigger, topic, function, result topic, subscriber; several at once.

The sources of the signals, the triggers and who takes the results are at A, the broker at B, the invokers at
C: every event crosses both links twice, and both ways through the broker may be the fast path's. Each class
has a trigger and an invoker of its own, and the broker a process for SQ, all of SQ under real time as far as
the kernel gives it. Sources and subscribers stand for devices and for whoever acts by the results. They share
the second core, for the invoker gives the first to its first strict worker; those of SQ have real time, too,
or what is measured would be how long they wait for a core.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from collections import Counter
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
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology
from tempos_bench.runs.rounds import cores

_PORTS = {"trigger": 9994, "invoker": 9995}
_FIRST_PORT = 7001
#: Seconds in which a program is ready, and the first result of each workflow comes.
_LIMIT, _WARM = 60.0, 20.0
_LEAD = 0.05
#: Seconds without a result after which nothing is on its way any more.
_IDLE = 0.3
_KEEP = 200_000
_LOOK_EVERY = 0.1


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
    """Broker, triggers and invokers with ``workflows``; ended by ``stack``."""

    def __init__(
        self,
        stack: ExitStack,
        topology: Topology,
        workflows: Sequence[Workflow],
        folder: str,
        mode: str,
        *,
        priority: int = 0,
    ) -> None:
        """``mode``: of the fast path; ``folder``: an empty one, for what the daemons keep.

        ``priority``: of SCHED_FIFO for the daemons of SQ, and for who sends and takes what is SQ; 0: none.
        """
        self._topology = topology
        self._qualities = _classes(workflows)
        self._run = 0
        topics = _topics(workflows, mode)
        quality = {"worker_sq": True, "priority_sq": priority} if priority else {}
        self._broker = stack.enter_context(
            Broker(topology.broker, dict.fromkeys(topics, ()), mode=mode, quality=quality)
        )
        ports = {each.name: _FIRST_PORT + at for at, each in enumerate(workflows)}
        self._daemons: list[Program] = []
        for quality_class in _classes(workflows):
            own = [each for each in workflows if each.quality is quality_class]
            what = _Daemon(quality_class, folder, priority if quality_class is Quality.SQ else 0)
            mine = {each.name: ports[each.name] for each in own}
            self._daemons += [
                _daemon(topology.subscriber, "invoker", _steps(topology, own, what), stack),
                _daemon(topology.publisher, "trigger", _endpoints(topology, mine, what), stack),
            ]
        self._sources = {
            each.name: self._end(
                "publish",
                "udp",
                "127.0.0.1",
                ports[each.name],
                each.name,
                stack,
                priority if each.quality is Quality.SQ else 0,
            )
            for each in workflows
        }
        self._subscribers = {
            each.name: self._end(
                "subscribe",
                "tempos",
                topology.broker.address,
                DATA_PORT,
                each.topics()[-1],
                stack,
                priority if each.quality is Quality.SQ else 0,
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
        end = time.monotonic() + patience(_LIMIT)
        while unfinished := [
            told["total"]
            for told in self._of_all(self._topology.subscriber, "invoker")
            if told["total"]["drift"] or told["total"]["waiting"] or told["total"]["running"]
        ]:
            # Best effort may have had no core so far.
            if time.monotonic() > end or any(total["drift"] for total in unfinished):
                faults += [f"an invoker's account: {total}" for total in unfinished]
                break
            time.sleep(_LOOK_EVERY)
        endpoints = [
            each for told in self._of_all(self._topology.publisher, "trigger") for each in told["endpoints"]
        ]
        for each in endpoints:
            went = each["published"] + each["waiting"] + sum(each["dropped"].values())
            if each["received"] != went:
                faults.append(f"the trigger's account: {each}")
        for topic in self._broker.status()["topics"]:
            faults += [f"the broker's account of {topic['name']}: {fault}" for fault in topic["problems"]]
        return faults

    def failures(self) -> dict[str, int]:
        """What invocations have failed by so far, by condition."""
        failed: Counter[str] = Counter()
        for told in self._of_all(self._topology.subscriber, "invoker"):
            failed.update(told["total"]["failed"])
        return {condition: count for condition, count in failed.items() if count}

    def scheduling(self) -> list[dict[str, Any]]:
        """What the invokers' workers really got, and the invokers themselves."""
        return [
            {"class": each["class"], "workers": each["workers"], "invoker": found["scheduling"]}
            for found in self._of_all(self._topology.subscriber, "invoker")
            for each in found["functions"]
        ]

    def _of_all(self, node: Node, sort: str) -> list[Any]:
        """The status of each daemon of a sort."""
        return [
            node.inquire("request", method="GET", path="/v1/status", port=_port(sort, quality))
            for quality in self._qualities
        ]

    def _end(
        self, do: str, client: str, address: str, port: int, topic: str, stack: ExitStack, priority: int
    ) -> Program:
        program = self._topology.publisher.role(
            "peers.library", "--do", do, "--client", client, "--connect", f"{address}:{port}",
            "--topic", topic, "--events", "--real-time", priority, cpu=cores()[1], talk=True,
        )  # fmt: skip
        stack.callback(program.stop)
        return program

    def _warm_up(self, workflows: Sequence[Workflow]) -> None:
        """Until a result of each has come."""
        until = time.monotonic() + patience(_WARM)
        for each in workflows:
            while not self.play([each], 200.0, 0.2)[each.name][0].received:
                if time.monotonic() < until:
                    continue
                told = "\n".join(program.output for program in self._daemons)
                raise ProgramFailed(f"no result of {each.name} came\n{told}")


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


@dataclass(frozen=True, slots=True)
class _Daemon:
    """Trigger and invoker of one class."""

    quality: Quality
    folder: str
    priority: int

    def table(self, sort: str) -> list[str]:
        """The daemon's own table."""
        state = f"{self.folder}/{sort}-{self.quality.value}"
        return [
            f"[{sort}]",
            f"state = {json.dumps(state)}",
            f'api = "127.0.0.1:{_port(sort, self.quality)}"',
            f"priority = {self.priority}",
        ]


def _classes(workflows: Sequence[Workflow]) -> list[Quality]:
    """Those that there are, SQ first."""
    return [quality for quality in Quality if any(each.quality is quality for each in workflows)]


def _port(sort: str, quality: Quality) -> int:
    """Where a daemon's API is."""
    return _PORTS[sort] - (10 if quality is Quality.BQ else 0)


def _steps(topology: Topology, workflows: Sequence[Workflow], daemon: _Daemon) -> str:
    lines = [
        *daemon.table("invoker"),
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


def _endpoints(topology: Topology, ports: dict[str, int], daemon: _Daemon) -> str:
    lines = [
        *daemon.table("trigger"),
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
