"""Every event confirmed, end to end: tempos, JetStream in memory and Mosquitto with QoS 1 on the same nodes.

The rate is that of all events, from the first one published until the last one was both confirmed to its
publisher and received by the subscriber; at most a window of them waits for that. Latency is that of events
on a schedule, until the subscribing program has them. All through the Python libraries; publisher and
subscriber on a core, servers on both; all under SCHED_FIFO, so that nobody else takes their turn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath

from tempos import Framing, Path, Quality, Topic, Unavailable
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.node import Node, Program
from tempos_bench.nodes.topology import build
from tempos_bench.peers.servers import Server, server
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

#: What a broker does first that is to be given a core whenever it wants one.
_FIRST = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({priority}))"
_TOPIC = Topic(id=1, name="events", quality=Quality.SQ, framing=Framing.EVENT, journal=65536, repair=True)
_TEMPOS, _BATCHED = "tempos", "tempos, batches"
_SYSTEMS = {_TEMPOS: "tempos", _BATCHED: "tempos", "JetStream": "JetStream", "Mosquitto": "Mosquitto"}
_PEERS = ("JetStream", "Mosquitto")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``events`` as fast as they are confirmed, ``window`` at a time; ``paced`` events at ``rate`` a second.

    Bodies of ``payload`` bytes; with batches events wait for at most ``linger`` seconds. ``priority``: of
    SCHED_FIFO of both ends, half of it that of servers, which have the other core; 0: none.
    """

    rounds: int
    events: int
    paced: int
    rate: float
    window: int
    payload: int
    linger: float
    priority: int


@dataclass(frozen=True, slots=True)
class Played:
    """Of one play: events/s and, in us, how long events took; how many did not come, or twice."""

    rate: float
    p50: float
    p99: float
    lost: int
    doubled: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with build() as topology:
        missing = [why for each in _servers() if (why := each.missing(topology.broker))]
    if missing:
        raise Unavailable("; ".join(missing))
    variants = {}
    for name in _SYSTEMS:
        variants[f"{name}, at once"] = partial(_play, p, name, p.events, 0.0)
        variants[f"{name}, {p.rate:,.0f}/s"] = partial(_play, p, name, p.paced, p.rate)
    found = interleave(p.rounds, variants, progress)
    progress.note(
        "JetStream: a stream in memory, a push consumer that acknowledges each; Mosquitto: QoS 1 at both ends"
    )
    rates = {name: [row.rate for row in found[f"{name}, at once"]] for name in _SYSTEMS}
    p99 = {name: [row.p99 for row in found[f"{name}, {p.rate:,.0f}/s"]] for name in _SYSTEMS}
    best = [min(values) for values in zip(*(p99[name] for name in _PEERS), strict=True)]
    ours = [
        row
        for name in (_TEMPOS, _BATCHED)
        for kind in variants
        if kind.startswith(name)
        for row in found[kind]
    ]
    return [
        *(
            median(f"rate of {ours} to {peer}", ratios(rates[ours], rates[peer]), "x", Better.HIGHER)
            for ours in (_TEMPOS, _BATCHED)
            for peer in _PEERS
        ),
        median("p99 of tempos to the better peer", ratios(p99[_TEMPOS], best), "x", Better.LOWER),
        Figure("tempos, lost", sum(row.lost for row in ours), "events", Better.LOWER),
        Figure("tempos, doubled", sum(row.doubled for row in ours), "events", Better.LOWER),
        *(figure for name, rows in found.items() for figure in _figures(name, rows)),
    ]


def _figures(name: str, rows: Sequence[Played]) -> list[Figure]:
    if name.endswith("at once"):
        return [median(f"{name}, confirmed", summarize([row.rate for row in rows]), "events/s")]
    return [
        median(f"{name}, p50", summarize([row.p50 for row in rows]), "us"),
        median(f"{name}, p99", summarize([row.p99 for row in rows]), "us"),
    ]


def _play(p: Parameters, name: str, count: int, rate: float) -> Played:
    core, other = cores()
    system = _SYSTEMS[name]
    with build() as topology, ExitStack() as stack:
        b = topology.broker
        if system == "tempos":
            first = _FIRST.format(priority=p.priority // 2) if p.priority else ""
            broker = stack.enter_context(Broker(b, {_TOPIC: ()}, mode="native", first=first))
        else:
            folder = stack.enter_context(b.folder())
            found = _jetstream(folder) if system == "JetStream" else server("Mosquitto")
            program = found.start(b)
            stack.callback(program.stop)
            if p.priority:
                _at_once(program.pid, p.priority // 2)
        options: tuple[object, ...] = (
            "--system",
            system,
            "--topic",
            _TOPIC.name,
            "--count",
            count,
            "--size",
            p.payload,
            "--fifo",
            p.priority,
        )
        subscriber = _end(topology.subscriber, "subscribe", topology.facing_subscriber, options, other)
        if system == "tempos":
            broker.wait_path(_TOPIC.name, Path.FAST)
        options += ("--rate", rate, "--window", p.window, "--linger", p.linger if name == _BATCHED else 0)
        publisher = _end(topology.publisher, "publish", b.address, options, core)
        subscriber.tell("begin")
        sent = publisher.ask("begin", 120)
        got = subscriber.answer(120)
    took = (max(sent["confirmed_ns"], got["last_ns"]) - sent["began_ns"]) / 1e9
    return Played(count / took, got["p50"], got["p99"], count - got["received"], got["doubled"])


def _at_once(pid: int, priority: int) -> None:
    """Have a process run whenever it wants to, with all of its threads."""
    for thread in FilePath(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(priority))


def _end(node: Node, do: str, address: str, options: Sequence[object], cpu: int) -> Program:
    return node.role(
        "peers.confirmed", "--do", do, "--address", address, *options, ready=True, talk=True, cpu=cpu
    )


def _servers() -> tuple[Server, ...]:
    return server("NATS"), server("Mosquitto")


def _jetstream(folder: str) -> Server:
    def config(address: str, port: int) -> str:
        return (
            f'listen: "{address}:{port}"\nlogfile: "/dev/null"\nmax_pending: 1073741824\n'
            f'jetstream {{ store_dir: "{folder}", max_memory_store: 1073741824 }}\n'
        )

    return replace(server("NATS"), name="JetStream", config=config)
