"""Members of a work queue are killed one after the other: all is processed, and what is twice is flagged.

Some workers share a group; every now and then one is ended by SIGKILL under traffic and another one takes
its place; the next kill waits for two of the others only. What each has processed it marks in memory
that outlives it. In the end all leave in order, one that is new works off what was left, and the marks are
added up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Path, Quality, TemposError, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Node, Program
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import Run

_GROUP = "workers"
_LOOK_EVERY = 0.1
#: Seconds that a worker may take to be there, on a machine that is busy.
_STARTS = 120.0
#: Events that are kept: what comes within a lease and while others catch up.
_JOURNAL = 1_048_576


@dataclass(frozen=True, slots=True)
class Parameters:
    """``kills``, one ``every`` so many seconds, among ``workers``, at ``rate`` events/s of ``payload`` bytes.

    ``mode`` as in `fastpath.mode`; ``lease`` in seconds.
    """

    mode: str
    rate: float
    kills: int
    every: float
    workers: int
    lease: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    topic = Topic(id=1, name="orders", quality=Quality.SQ, journal=_JOURNAL, journal_bytes=64, redeliver=True)
    core, other = cores()
    seconds = (p.kills + 1) * p.every
    count = round(seconds * p.rate)
    control = {"lease": p.lease, "heartbeat": p.lease / 4}
    progress(f"{count:,} events, {p.kills} kills")
    with build() as topology:
        a, c = topology.publisher, topology.subscriber
        broker = Broker(topology.broker, {topic: ()}, mode=p.mode, control=control, cpu=other)
        with broker, c.folder() as folder:

            def worker(place: int) -> Program:
                return c.role(
                    "shifts", "--address", topology.broker.address, "--topic", topic.name,
                    "--group", _GROUP, "--count", count, "--folder", folder, "--place", place,
                )  # fmt: skip

            workers = [worker(place) for place in range(p.workers)]
            starting = set(range(p.workers))

            def came(places: Iterable[int]) -> None:
                for place in starting.intersection(places):
                    workers[place].wait_line("ready", _STARTS)
                    starting.remove(place)

            came(range(p.workers))
            broker.wait_path(topic.name, Path.SLOW if p.mode == "off" else Path.FAST)
            sender = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", topic.id,
                "--count", count, "--rate", p.rate, "--size", p.payload, cpu=core,
            )  # fmt: skip
            last = time.monotonic()
            for kill in range(p.kills):
                place = kill % p.workers
                # So that there always is one that stays.
                came((place, (place + 1) % p.workers))
                progress.pause(max(0.0, last + p.every - time.monotonic()))
                last = time.monotonic()
                workers[place].kill()
                workers[place] = worker(place)
                starting.add(place)
                if not (kill + 1) % 10:
                    progress(f"{kill + 1} kills")
            sent = sender.result(seconds * 2 + 30)["sent"]
            workers.append(worker(p.workers))
            starting.add(p.workers)
            came(range(p.workers + 1))
            _settled(broker, topic.name)
            for each in workers:
                each.stop(30.0)
            # What was lost on the way to the last one.
            workers.append(worker(p.workers + 1))
            starting.add(p.workers + 1)
            came([p.workers + 1])
            group = _settled(broker, topic.name)
            workers[-1].stop(30.0)
            got = _tally(c, folder, count)
            entry = broker.entry(topic.name)
    before = sent - entry["received"]
    return [
        Figure("sent", sent, "events"),
        Figure("never reached the broker", before, "events"),
        Figure("processed", got["processed"], "events"),
        Figure("never processed", got["never"] - before, "events"),
        Figure("came while nobody was a worker", entry["refused"].get("no_member", 0), "events"),
        Figure("doubled and not flagged", got["doubled unflagged"], "events"),
        Figure("processed flagged", got["flagged"], "events"),
        Figure("doubled", got["doubled"], "events"),
        Figure("left behind by the killed", group["orphaned"], "events"),
        Figure("not to be had any more", group["lapsed"], "events"),
        Figure("ledger, faults", len(entry["problems"]), "faults"),
    ]


def _tally(node: Node, folder: str, count: int) -> dict[str, Any]:
    program = node.role("shifts", "--tally", "--folder", folder, "--count", count)
    told: dict[str, Any] = program.result(120.0)
    return told


def _settled(broker: Broker, topic: str) -> dict[str, Any]:
    """The account of the group, once nothing is to be handed out and all leases of the killed are over."""
    until = time.monotonic() + patience(120.0)
    rested, before = 0, -1
    while True:
        groups: list[dict[str, Any]] = broker.entry(topic)["groups"]
        group = next(each for each in groups if each["name"] == _GROUP)
        rested = rested + 1 if group["orphaned"] == before and not group["pending"] else 0
        before = group["orphaned"]
        if rested * _LOOK_EVERY > 3:
            return group
        if time.monotonic() > until:
            raise TemposError(f"what was left behind is not worked off: {group}")
        time.sleep(_LOOK_EVERY)
