"""Three hosts of one's own instead of namespaces: the same programs, started over ssh.

A TOML file describes the hosts (see config/hosts.example.toml); which of them publishes, brokers and
subscribes is said when a scenario is run. What a program needs besides its command line reaches it over
standard input, through :mod:`tempos_bench.guard` on the other side: texts, commands, signals, and
our end, which is its end. Nothing is left on the hosts.

Interfaces, addresses and routes there are as the hosts' owner has set them; nothing of it is changed.
Clocks of different hosts are never compared.
"""

from __future__ import annotations

import importlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tempos import ConfigError, TemposError, Unavailable
from tempos_bench.node import PYTHON, Node, Program
from tempos_bench.rounds import cores
from tempos_bench.topology import SHAPES, Topology

T = TypeVar("T")

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: ssh must never ask: nobody watches.
_RUNNER = ("ssh", "-o", "BatchMode=yes")
_ROLES = ("the publisher", "the broker", "the subscriber")
_SIGNALLED = 128

#: The scenarios whose programs and figures know no clock, probe or link of this machine.
ON_HOSTS = ("blast", "source-loss", "source-rtt")
_ONE_CLOCK = "its figures compare times of two nodes, which hosts do not share"
_TEST_RUNS = "its load is frames that the kernel makes inside a namespace (BPF test runs)"
_OUR_LINKS = "it changes links and neighbours of its nodes"
#: Why the others stay on one machine.
_WHY_NOT = {
    "redirect": _TEST_RUNS, "program-time": _TEST_RUNS, "scale": _TEST_RUNS, "slowdown": _TEST_RUNS,
    "slow-path": _ONE_CLOCK, "slow-path-gso": _ONE_CLOCK, "loss": _ONE_CLOCK,
    "qos-slow": _ONE_CLOCK, "qos-fast": _ONE_CLOCK,
    "qos-workflows": _ONE_CLOCK, "qos-rate": _ONE_CLOCK, "round-trip": _OUR_LINKS, "source-ping": _OUR_LINKS,
    "peers-rate": _ONE_CLOCK, "peers-latency": _ONE_CLOCK,
    "source-time": "it reads the kernel's statistics of the broker's process",
    "broker-kill": "it reads what the broker's process holds, and kills it",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """A host: how ssh names it, its Python with tempos in it, its addresses and interfaces on the links.

    ``cpus``: what the two cores that scenarios pin to are there; empty: nothing is pinned.
    """

    name: str
    ssh: str
    python: str
    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hosts:
    """Publisher, broker and subscriber; ``runner`` is the command that runs a line of shell on a host."""

    shape: str
    runner: tuple[str, ...]
    nodes: tuple[Host, Host, Host]

    @property
    def shapes(self) -> tuple[str, ...]:
        return (self.shape,)

    @contextmanager
    def build(self, shape: str) -> Iterator[Topology]:
        """The topology; raises :class:`Unavailable` where the hosts are connected in another way."""
        with topology_of(self, shape, lambda host: RemoteNode(host, self.runner)) as topology:
            yield topology


def why_not(scenario: str) -> str | None:
    """Why a scenario cannot run on hosts, or None if it can."""
    if scenario in ON_HOSTS:
        return None
    return _WHY_NOT.get(scenario, "it was made for nodes inside one machine")


def read(path: Path, names: Sequence[str]) -> Hosts:
    """The hosts ``names`` of a file, in their roles; raises :class:`ConfigError` with every fault."""
    try:
        content = _toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    problems = [f"{key}: unknown, allowed: shape, runner, host" for key in content
                if key not in {"shape", "runner", "host"}]  # fmt: skip
    shape, runner = content.get("shape", SHAPES[0]), content.get("runner", list(_RUNNER))
    if shape not in SHAPES:
        problems.append(f"shape: {shape!r}, allowed: {', '.join(SHAPES)}")
    if not _list_of(str, runner):
        problems.append(f"runner: {runner!r}, allowed: a list of texts, a command and its arguments")
    described = content.get("host", {})
    if len(names) != len(_ROLES) or len(set(names)) != len(_ROLES):
        problems.append(f"{','.join(names)}: three different hosts are needed, {', '.join(_ROLES)}")
    nodes = []
    for name in names:
        if not isinstance(described, dict) or not isinstance(described.get(name), dict):
            there = ", ".join(described) if isinstance(described, dict) else "none"
            problems.append(f"host.{name}: missing; described are: {there}")
        else:
            nodes.append(_host(name, described[name], problems))
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return Hosts(shape, tuple(runner), (nodes[0], nodes[1], nodes[2]))


def _host(name: str, given: Mapping[str, Any], problems: list[str]) -> Host:
    kinds: dict[str, tuple[str, Callable[[object], bool]]] = {
        "ssh": ("a text as ssh takes it, user@host", lambda value: isinstance(value, str) and bool(value)),
        "python": ("the path of a Python with tempos", lambda value: isinstance(value, str) and bool(value)),
        "addresses": ("a list of IPv4 addresses, the broker's first the publisher's side's",
                      lambda value: _list_of(str, value)),
        "interfaces": ("a list of names, in the order of addresses", lambda value: _list_of(str, value)),
        "cpus": ("a list of numbers of CPUs", lambda value: value == [] or _list_of(int, value)),
    }  # fmt: skip
    values = {"python": "python3", "cpus": [], **given}
    for key, (allowed, fits) in kinds.items():
        if key not in values:
            problems.append(f"host.{name}.{key}: missing, {allowed}")
        elif not fits(values[key]):
            problems.append(f"host.{name}.{key}: {values[key]!r}, allowed: {allowed}")
    problems += [
        f"host.{name}.{key}: unknown, allowed: {', '.join(kinds)}" for key in given if key not in kinds
    ]
    lists = {
        key: tuple(value) if isinstance(value := values.get(key), list) else ()
        for key in ("addresses", "interfaces", "cpus")
    }
    return Host(name, str(values.get("ssh")), str(values["python"]), **lists)


def _list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)


class RemoteProgram(Program):
    """A program on a host, held through the guard that runs it there."""

    def __init__(self, name: str, command: Sequence[str], text: str | None) -> None:
        super().__init__(name, command, cpu=None, talk=True, fds=())
        if text is not None:
            super()._send(json.dumps(text))

    @property
    def pid(self) -> int:
        raise Unavailable(f"{self.name}: a process of another host has no number here")

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.stop()

    def wait(self, limit: float) -> int:
        code = super().wait(limit)
        return _SIGNALLED - code if _SIGNALLED < code < _SIGNALLED + signal.NSIG else code

    def _send(self, line: str) -> None:
        super()._send(f"={line}")

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            try:
                super()._send(f"!{int(number)}")
            except TemposError:
                # It ended between the question and the command, as it was to.
                return


class RemoteNode(Node):
    """A host as a node."""

    def __init__(self, host: Host, runner: Sequence[str]) -> None:
        super().__init__(host.name, None, host.addresses, host.interfaces)
        self._host = host
        self._runner = tuple(runner)
        self._asking: Program | None = None

    def request(self, method: str, path: str, body: object = None) -> Any:
        if self._asking is None or not self._asking.running:
            self._asking = self.role("ask", ready=True, talk=True)
        answer = self._asking.ask({"method": method, "path": path, "body": body})
        if "error" in answer:
            raise TemposError(f"{self.name}: {answer['error']}")
        return answer["answer"]

    def facts(self, interface: str) -> dict[str, Any]:
        found: dict[str, Any] = self.role("interfaces", interface).result(30)
        return found

    def call(self, work: Callable[[], T]) -> T:
        raise Unavailable(f"{self.name} is another host: this needs a node inside this machine")

    def line(self, command: Sequence[str], cpu: int | None, text: str | None) -> str:
        """The line of shell that runs ``command`` there."""
        theirs = [self._host.python if part == PYTHON else part for part in command]
        options = [*self._pinned(cpu), *(("--text",) if text is not None else ())]
        return shlex.join([self._host.python, "-m", "tempos_bench.guard", *options, "--", *theirs])

    def _begin(
        self, name: str, command: Sequence[str], cpu: int | None, talk: bool, text: str | None
    ) -> Program:
        line = self.line(command, cpu, text)
        bound = ("setpriv", "--pdeathsig", "TERM")
        return RemoteProgram(name, (*bound, *self._runner, self._host.ssh, line), text)

    def _pinned(self, cpu: int | None) -> tuple[str, ...]:
        if cpu is None or not self._host.cpus:
            return ()
        # Scenarios name cores of this machine: the first or the other one.
        return ("--cpu", str(self._host.cpus[(cpu != cores()[0]) % len(self._host.cpus)]))


@contextmanager
def topology_of(hosts: Hosts, shape: str, node: Callable[[Host], Node]) -> Iterator[Topology]:
    """A topology of nodes that ``node`` makes; their programs end with it."""
    if shape != hosts.shape:
        raise Unavailable(f"this needs the topology {shape!r}, the hosts are connected as {hosts.shape!r}")
    with ExitStack() as stack:
        nodes = [node(host) for host in hosts.nodes]
        for each in nodes:
            stack.callback(each.close)
        yield Topology(shape, *nodes)
