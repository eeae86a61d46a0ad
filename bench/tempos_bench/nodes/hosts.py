"""Three hosts of one's own instead of namespaces: who they are, and which scenarios run on them.

Hosts are given by address, `root@192.0.2.10`, or by the name under which a TOML file describes them (see
config/hosts.example.toml): an address is enough where a host has one interface and tempos in its `python3`.
Which of them publishes, brokers and subscribes is said when a scenario is run.
"""

from __future__ import annotations

import importlib
import ipaddress
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempos import ConfigError, Unavailable
from tempos_bench.nodes.remote import Host, RemoteNode, topology_of
from tempos_bench.nodes.topology import SHAPES, Topology

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: The file that describes hosts where none is named; there need not be one.
USUAL_FILE = Path("hosts.toml")
#: ssh must never ask: nobody watches.
_RUNNER = ("ssh", "-o", "BatchMode=yes")
_PYTHON = "python3"
#: Seconds that clocks may be apart for one-way latencies to be told.
_CLOCK_OFFSET = 0.0001
_ROLES = ("the publisher", "the broker", "the subscriber")
_KEYS = ("shape", "runner", "clock_offset", "host")
#: How many addresses publisher, broker and subscriber have in each shape.
_ADDRESSES = {"straight": (1, 2, 1), "forked": (1, 3, 2), "one-armed": (1, 1, 1)}

#: The scenarios whose load is real traffic.
ON_HOSTS = (
    "blast", "broker-kill", "churn", "fanout-churn", "fanout-exact", "loss", "member-kill", "path-moves",
    "peers-latency", "peers-rate", "qos-fast", "qos-rate", "qos-slow", "qos-workflows", "request",
    "round-trip", "slow-path", "slow-path-gso", "source-loss", "source-ping", "source-rtt", "source-time",
    "watching",
)  # fmt: skip
_TEST_RUNS = "its load is frames that the kernel makes inside a namespace (BPF test runs)"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Publisher, broker and subscriber; ``runner`` is the command that runs a line of shell on a host.

    ``clock_offset``: seconds that their clocks may be apart for times of one to be compared with the other's.
    """

    shape: str
    runner: tuple[str, ...]
    nodes: tuple[Host, Host, Host]
    clock_offset: float = _CLOCK_OFFSET
    #: What makes a node of a host and the runner.
    node: Callable[[Host, Sequence[str]], RemoteNode] = field(default=RemoteNode, compare=False)

    @property
    def shapes(self) -> tuple[str, ...]:
        return (self.shape,)

    @contextmanager
    def build(self, shape: str) -> Iterator[Topology]:
        """The topology; raises :class:`Unavailable` where the hosts are connected in another way."""
        if shape != self.shape:
            raise Unavailable(f"this needs the topology {shape!r}, the hosts are connected as {self.shape!r}")
        nodes = [self.node(host, self.runner) for host in self.nodes]
        with topology_of(nodes, shape, self.clock_offset) as topology:
            yield topology


_FLEET = "its brokers and their etcd are processes of this machine so far"
#: What others than test runs need of this machine.
_STAYS = {
    "collector-churn": "senders and collectors are looked at by one process of this machine",
    "confirmed-peers": "its peers are started and looked at only on this machine so far",
    "redelivery": "it looks on until what the killed left is worked off, which no plan can tell",
    "director": "its peers are started, and its collectors looked at, only on this machine so far",
    "fleet-churn": _FLEET,
    "fleet-join": _FLEET,
    "fleet-kill": _FLEET,
    "fleet-scale": _FLEET,
    "invoke": "it measures calls of functions, which cross no network",
    "invoke-chaos": "it kills what a Controller started, which is only done on this machine",
    "invoke-peers": "what ran a function writes down when it did, in files and sockets of this machine",
    "lives": "it fills a disk and takes ports, which is only done on this machine",
    "loop-free": "it gives a node many addresses, which is only done on this machine",
    "repair": "it has links lose datagrams, which is only done on this machine",
    "roaming": "it takes addresses and links away, which is only done on this machine",
    "soak": "it looks into the broker's process and kernel all the time, which is only done on this machine",
    "strangers": "it forges senders, which is only done on this machine",
    "topic-churn": "it looks into the broker's process and kernel, which is only done on this machine",
    "topics-scale": "it looks into the broker's process and kernel, which is only done on this machine",
    "webhooks": "it is about one machine: all is on the middle node",
    "workflows": "results are held against the schedule of their signals, in folders of this machine",
}


def why_not(scenario: str) -> str | None:
    """Why a scenario cannot run on hosts, or None if it can."""
    return None if scenario in ON_HOSTS else _STAYS.get(scenario, _TEST_RUNS)


def read(path: Path | None, names: Sequence[str]) -> Hosts:
    """The hosts ``names``, in their roles: those of a file, or given by address.

    Raises :class:`ConfigError` with every fault. Without ``path`` it is :data:`USUAL_FILE`, if there is one.
    """
    file = path or USUAL_FILE
    content: dict[str, Any] = {}
    if path is not None or file.exists() or not all(map(_address_of, names)):
        try:
            content = _toml.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                [f"{file}: {error}; without such a file hosts are given as [user@]IPv4 address"]
            ) from error
    problems = [f"{key}: unknown, allowed: {', '.join(_KEYS)}" for key in content if key not in _KEYS]
    runner = content.get("runner", list(_RUNNER))
    if not _list_of(str, runner):
        problems.append(f"runner: {runner!r}, allowed: a list of texts, a command and its arguments")
    limit = content.get("clock_offset", _CLOCK_OFFSET)
    if type(limit) not in (int, float) or not limit > 0:
        problems.append(f"clock_offset: {limit!r}, allowed: seconds above 0")
    if len(names) != len(_ROLES) or len(set(names)) != len(_ROLES):
        problems.append(f"{','.join(names)}: three different hosts are needed, {', '.join(_ROLES)}")
    nodes = _nodes(content.get("host", {}), names, problems)
    shape = _shape(content.get("shape"), nodes, problems)
    if problems:
        raise ConfigError([f"{file}: {problem}" for problem in problems])
    return Hosts(shape, tuple(runner), (nodes[0], nodes[1], nodes[2]), float(limit))


def _nodes(described: object, names: Sequence[str], problems: list[str]) -> list[Host]:
    nodes = []
    known = described if isinstance(described, dict) else {}
    for name in names:
        if isinstance(known.get(name), dict):
            nodes.append(_host(name, known[name], problems))
        elif address := _address_of(name):
            nodes.append(Host(name, name, _PYTHON, (address,)))
        else:
            there = ", ".join(known) or "none"
            problems.append(f"host.{name}: missing; described are: {there}; allowed is also [user@]IPv4")
    return nodes


def _shape(given: object, nodes: Sequence[Host], problems: list[str]) -> str:
    """The shape that is given, or the one that the broker's number of addresses says."""
    if given is not None and given not in SHAPES:
        problems.append(f"shape: {given!r}, allowed: {', '.join(SHAPES)}")
    if len(nodes) != len(_ROLES) or problems:
        return SHAPES[0]
    by_number = {counts[1]: shape for shape, counts in _ADDRESSES.items()}
    shape = str(given or by_number.get(len(nodes[1].addresses), SHAPES[0]))
    for role, host, count in zip(_ROLES, nodes, _ADDRESSES[shape], strict=True):
        if len(host.addresses) != count:
            problems.append(
                f"host.{host.name}.addresses: {len(host.addresses)} given, {role} of {shape!r} has {count}"
            )
        if host.interfaces and len(host.interfaces) != len(host.addresses):
            problems.append(f"host.{host.name}.interfaces: as many as addresses are needed, or none")
    return shape


def _host(name: str, given: Mapping[str, Any], problems: list[str]) -> Host:
    kinds: dict[str, tuple[str, Callable[[object], bool]]] = {
        "ssh": ("a text as ssh takes it, user@host", lambda value: isinstance(value, str) and bool(value)),
        "python": ("the path of a Python with tempos", lambda value: isinstance(value, str) and bool(value)),
        "addresses": ("a list of IPv4 addresses, the broker's first the publisher's side's",
                      lambda value: _list_of(str, value) and all(map(_is_address, _strings(value)))),
        "interfaces": ("a list of names, in the order of addresses",
                       lambda value: value == [] or _list_of(str, value)),
        "cpus": ("a list of numbers of CPUs", lambda value: value == [] or _list_of(int, value)),
    }  # fmt: skip
    values = {"python": _PYTHON, "interfaces": [], "cpus": [], **given}
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


def _address_of(name: str) -> str | None:
    """The IPv4 address in `[user@]IPv4`; None in any other name."""
    address = name.rpartition("@")[2]
    return address if _is_address(address) else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)
