"""What an event, a change of membership and a broker cost as members, topics, sizes and publishers grow.

Fast path: live frames through lanes that differ in one thing each, all standing at once and taken in
turn; the cost is the time of a frame on the one core that does all of the work, the generator's and the
far end's share included, so it is the growth that tells. Slow path: events of real sockets, from one
to many publishers. Groups have a scenario of their own, `fanout-rate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path as File

from tempos import DATA_PORT, Framing, Group, Member, PathPolicy, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lane import GROUP, Lane
from tempos_bench.measure.stats import rate_between, summarize
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run

_SLOW = Topic(id=1, name="events", framing=Framing.EVENT, policy=PathPolicy.SLOW)
_PORT = 9001
_JOINED = "other-2"
_MIB = 1 << 20
#: What is not counted at the begin of each blast, nanoseconds.
_START_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` per round and lane of the fast path, ``seconds`` per round and variant of the slow path.

    ``payload``: bytes where the size is not what grows. ``joins`` per size of group. What grows:
    ``members`` of a group, ``topics``, ``payloads`` (bytes), ``publishers``.
    """

    members: tuple[int, ...]
    topics: tuple[int, ...]
    payloads: tuple[int, ...]
    publishers: tuple[int, ...]
    rounds: int
    frames: int
    seconds: float
    payload: int
    joins: int


@dataclass(frozen=True, slots=True)
class _Load:
    """A lane's broker: members of each topic, topics, and the payload bytes of the frames."""

    members: int = 1
    topics: int = 1
    payload: int = 0


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    # The second topic is the one to join.
    loads = {_group(members): _Load(members=members, topics=2) for members in p.members}
    loads |= {f"{topics} topics": _Load(topics=topics) for topics in p.topics}
    loads |= {f"payload {payload} B": _Load(payload=payload) for payload in p.payloads}
    return [*_fast(p, loads, progress), *_slow(p, progress)]


def _fast(p: Parameters, loads: dict[str, _Load], progress: Run) -> list[Figure]:
    core, other = cores()
    figures = []
    with ExitStack() as stack:
        lanes: dict[str, Lane] = {}
        brokers: dict[str, Broker] = {}
        for name, load in loads.items():
            progress(f"building: {name}")
            lanes[name] = Lane(stack, core, load.payload or p.payload)
            brokers[name] = lanes[name].forward_by_broker(stack, other, load.members, load.topics)
        variants = {name: lambda lane=lane: lane.cross(p.frames).rate for name, lane in lanes.items()}
        warm_up(variants, progress)
        for name, rates in interleave(p.rounds, variants, progress).items():
            figures.append(Figure(f"fast path, {name}: time of a frame", 1e9 / summarize(rates).median, "ns"))
        for name, broker in brokers.items():
            if "payload" not in name:
                process, maps = _memory(broker.pid)
                figures += [
                    Figure(f"{name}: memory of the broker", process / _MIB, "MiB"),
                    Figure(f"{name}: memory of its maps in the kernel", maps / _MIB, "MiB"),
                ]
        for name in map(_group, p.members):
            progress(f"joins: {name}")
            topology = lanes[name].topology
            # At the far end everything is dropped, the broker's answers too.
            took = topology.publisher.role(
                "joins", "--broker", topology.broker.address, "--topic", _JOINED,
                "--group", GROUP, "--count", p.joins, cpu=core,
            ).result(120)["seconds"]  # fmt: skip
            figures.append(
                Figure(f"{name}: to join, swap of the route included", summarize(took).median * 1e3, "ms")
            )
    return figures


def _slow(p: Parameters, progress: Run) -> list[Figure]:
    core, other = cores()
    figures = []
    with ExitStack() as stack:
        variants: dict[str, Callable[[], float]] = {}
        for members in sorted({min(p.members), max(p.members)}):
            topology = stack.enter_context(build("straight"))
            group = Group("bench", tuple(_members(topology, members)))
            stack.enter_context(Broker(topology.broker, {_SLOW: (group,)}, mode="off", cpu=other))
            for publishers in p.publishers:
                name = f"{_group(members)}, {publishers} publishers"
                variants[name] = lambda topology=topology, members=members, publishers=publishers: _flood(  # type: ignore[misc]
                    topology, members, publishers, p, core
                )
        for name, rates in interleave(p.rounds, variants, progress).items():
            figures.append(Figure(f"slow path, {name}", summarize(rates).median, "datagrams/s"))
    return figures


def _group(members: int) -> str:
    return f"{members} member{'s' if members > 1 else ''}"


def _members(topology: Topology, count: int) -> list[Member]:
    return [Member(topology.subscriber.address, _PORT + i) for i in range(count)]


def _flood(topology: Topology, members: int, publishers: int, p: Parameters, core: int) -> float:
    """Datagrams/s delivered while ``publishers`` send without a pause."""
    binds = [part for member in _members(topology, members) for part in ("--bind", member)]
    sink = topology.subscriber.role(
        "sink", *binds, "--discard", "--idle", 0.2, ready=True, talk=True, cpu=core
    )
    senders = [
        topology.publisher.role(
            "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _SLOW.id,
            "--count", 1 << 40, "--limit", p.seconds, "--size", p.payload, cpu=core,
        )
        for _ in range(publishers)
    ]  # fmt: skip
    sent = [sender.result(p.seconds * 4 + 60) for sender in senders]
    marks = sink.ask("all is sent", 60)["marks"]
    # While all of them send.
    began, ended = max(each["began_ns"] for each in sent), min(each["ended_ns"] for each in sent)
    return rate_between(marks, began + _START_NS, ended)


def _memory(pid: int) -> tuple[int, int]:
    """Bytes: resident memory of a process, and of the BPF maps it holds."""
    status = File(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    maps: dict[str, int] = {}
    for entry in File(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        except FileNotFoundError:
            continue
        if "map_id" in fields:
            maps[fields["map_id"]] = int(fields["memlock"])
    return int(resident[1]) * 1024 if resident else 0, sum(maps.values())
