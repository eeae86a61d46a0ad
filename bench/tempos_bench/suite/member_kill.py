"""A member dies without a word: it is out after its lease, and the ledger says exactly what it missed.

Three members share a group on the fast path; one is ended by SIGKILL under traffic. What the sender
sent and the survivors did not get is what was ticketed for the dead one: it had reported a part, the
rest must stand in the ledger as lost, to the event.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Framing, Path, TemposError, Topic
from tempos_bench.measure import crowd
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.crowd import CrowdPlan
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_GROUP = "workers"
_SURVIVORS = 2
_LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate`` events/s of ``payload`` bytes for ``seconds``; one dies after ``dies_after`` seconds."""

    seconds: float
    rate: float
    dies_after: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    count = round(p.seconds * p.rate)
    progress(f"{count:,} events, one of {_SURVIVORS + 1} members dies")
    with build() as topology:
        a, c = topology.publisher, topology.subscriber
        with Broker(topology.broker, {_TOPIC: ()}, mode="native", cpu=other) as broker:

            def members(number: int) -> CrowdPlan:
                return CrowdPlan(_TOPIC.name, _GROUP, number, 0, count, p.payload)

            survivors = crowd.start(c, topology.facing_subscriber, members(_SURVIVORS), cpu=other)
            victim = crowd.start(c, topology.facing_subscriber, members(1), cpu=other)
            broker.wait_path(_TOPIC.name, Path.FAST)
            sender = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
                "--count", count, "--rate", p.rate, "--size", p.payload, cpu=core,
            )  # fmt: skip
            progress.pause(p.dies_after)
            victim.kill()
            died = time.monotonic()
            out = _wait_members(broker, _SURVIVORS, died + p.seconds) - died
            sent = sender.result(p.seconds * 2 + 30)["sent"]
            got = crowd.account(survivors, sent)
            status = _status(broker)
    (group,) = status["groups"]
    missing = sent - (got["received"] - got["repeated"])
    told = group["delivered"] - got["received"]
    return [
        Figure("sent", sent, "datagrams"),
        Figure("received by the survivors", got["received"], "datagrams"),
        Figure("reported by the dead member", told, "datagrams"),
        Figure("lost, by the ledger", group["lost"], "datagrams"),
        Figure("ledger off by", missing - told - group["lost"], "datagrams"),
        Figure("ledger, faults", len(status["problems"]), "faults"),
        Figure("duplicated", got["repeated"], "datagrams"),
        Figure("out of the route after", out, "s"),
    ]


def _status(broker: Broker) -> dict[str, Any]:
    topics: list[dict[str, Any]] = broker.status()["topics"]
    return next(each for each in topics if each["name"] == _TOPIC.name)


def _wait_members(broker: Broker, number: int, until: float) -> float:
    """Wait until the group has so many members; the time then."""
    while True:
        (group,) = _status(broker)["groups"]
        now = time.monotonic()
        if len(group["members"]) == number:
            return now
        if now > until:
            raise TemposError(f"the dead member is still in the route: {group}")
        time.sleep(_LOOK_EVERY)
