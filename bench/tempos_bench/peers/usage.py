"""What processor time and memory a server takes while it serves, by the kernel's account."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tempos_bench.nodes.node import Node


@dataclass(slots=True)
class Usage:
    """Seconds of processor time, and the server's largest memory (bytes), while it was looked at.

    A process counts with all that it started. ``ends``: of each end, in their order, 0 for one that is the
    server itself. ``all``: of the server, of both ends, and of the kernel's own threads for packets: what a
    packet's way through the kernel takes is charged to whoever runs just then, on the fast path to the
    publisher.
    """

    server: float = 0.0
    all: float = 0.0
    peak: int = 0
    ends: tuple[float, ...] = ()


class Running(NamedTuple):
    """A process, and the node that it runs in."""

    node: Node
    pid: int


@contextmanager
def measured(server: Running, ends: Sequence[Running], machines: Sequence[Node]) -> Iterator[Usage]:
    """What processes use inside the block; complete after it. ``machines``: a node of each machine."""
    usage = Usage()
    server.node.inquire("forget peak", pid=server.pid)
    apart = [end for end in ends if end != server]
    mine, theirs, packets = _seconds(server), [_seconds(end) for end in apart], _packets(machines)
    yield usage
    took = {end: _seconds(end) - before for end, before in zip(apart, theirs, strict=True)}
    usage.ends = tuple(took.get(end, 0.0) for end in ends)
    usage.server = _seconds(server) - mine
    usage.all = usage.server + sum(usage.ends) + _packets(machines) - packets
    usage.peak = server.node.inquire("peak", pid=server.pid)


def _seconds(process: Running) -> float:
    used: list[float] = process.node.inquire("used", pids=[process.pid], families=True)
    return used[0]


def _packets(machines: Sequence[Node]) -> float:
    """Of the packet threads of the machines."""
    return sum(sum(node.inquire("used", pids=[], packets=True)) for node in machines)
