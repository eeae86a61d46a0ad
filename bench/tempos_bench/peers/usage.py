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

    ``all``: of the server, of both ends, and of the kernel's own threads for packets: what a packet's way
    through the kernel takes is charged to whoever runs just then, on the fast path to the publisher.
    """

    server: float = 0.0
    all: float = 0.0
    peak: int = 0


class Running(NamedTuple):
    """A process, and the node that it runs in."""

    node: Node
    pid: int


@contextmanager
def measured(server: Running, ends: Sequence[Running], machines: Sequence[Node]) -> Iterator[Usage]:
    """What processes use inside the block; complete after it. ``machines``: a node of each machine."""
    usage = Usage()
    server.node.inquire("forget peak", pid=server.pid)
    mine, theirs = _seconds([server]), _seconds(ends, machines)
    yield usage
    usage.server = _seconds([server]) - mine
    usage.all = usage.server + _seconds(ends, machines) - theirs
    usage.peak = server.node.inquire("peak", pid=server.pid)


def _seconds(processes: Sequence[Running], machines: Sequence[Node] = ()) -> float:
    """Of the processes, and of the packet threads of the machines."""
    nodes = dict.fromkeys((*(process.node for process in processes), *machines))
    return sum(
        sum(node.inquire("used", pids=[p.pid for p in processes if p.node is node], packets=node in machines))
        for node in nodes
    )
