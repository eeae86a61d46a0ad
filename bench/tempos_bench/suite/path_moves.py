"""A topic is moved between the paths again and again under traffic: nothing is lost, nothing doubled.

Both paths draw from the same tickets, so a move changes who forwards and nothing else. What waits in the
slow path's queue when a topic goes fast is overtaken: that, and no more, is the reordering.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Framing, Path, Topic
from tempos_bench.measure import crowd
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.crowd import CrowdPlan
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_GROUP = "workers"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``moves`` from one path to the other, one each ``beat`` seconds, at ``rate`` events/s.

    Events have ``payload`` bytes and go to ``members`` members of one group.
    """

    rate: float
    moves: int
    beat: float
    members: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    # Moves take time as well; the sender is ended after the last one.
    count = round(p.rate * (p.moves + 1) * (p.beat + 0.5))
    with build() as topology:
        a, c = topology.publisher, topology.subscriber
        with Broker(topology.broker, {_TOPIC: ()}, mode="native", cpu=other) as broker:
            plan = CrowdPlan(_TOPIC.name, _GROUP, p.members, 0, count, p.payload)
            members = crowd.start(c, topology.facing_subscriber, plan, cpu=core)
            broker.wait_path(_TOPIC.name, Path.FAST)
            legs = Legs(topology)
            sender = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
                "--count", count, "--rate", p.rate, "--size", p.payload, cpu=core,
            )  # fmt: skip
            broker.wait_received(_TOPIC.name, 1)
            epoch = _status(broker)["epoch"]
            took = []
            for number in range(p.moves):
                progress.pause(p.beat)
                path = Path.SLOW if number % 2 == 0 else Path.FAST
                if number % 10 == 0:
                    progress(f"move {number + 1} of {p.moves}")
                began = time.monotonic()
                broker.ask("POST", f"/v1/topics/{_TOPIC.name}/path", {"policy": path.value})
                took.append((time.monotonic() - began) * 1e3)
            if trip := topology.broker.trip():
                progress.note(f"a move contains the way to the broker's host and back, {trip * 1e3:.1f} ms")
            progress.pause(p.beat)
            sender.terminate()
            sent = sender.result(30)["sent"]
            got = crowd.account(members, sent)
            status = _status(broker)
            dropped = legs.dropped()
    delivered = sum(group["delivered"] for group in status["groups"])
    came = got["received"] - got["repeated"]
    return [
        Figure("moves", len(took), "moves"),
        Figure("sent", sent, "datagrams"),
        Figure("by the fast path", status["fast"], "datagrams"),
        Figure("by the slow path", status["slow"], "datagrams"),
        Figure("lost", beyond(sent - came, dropped.first + dropped.last), "datagrams"),
        Figure("dropped by links and receivers", dropped.first + dropped.last, "datagrams"),
        Figure("duplicated", got["repeated"], "datagrams"),
        Figure("median move", percentile(took, 50), "ms"),
        Figure("ledger, received", beyond(sent - status["received"], dropped.first), "datagrams off"),
        Figure("ledger, delivered", delivered - came, "datagrams off"),
        Figure("ledger, faults", len(status["problems"]), "faults"),
        Figure("epochs used", status["epoch"] - epoch, "epochs"),
    ]


def _status(broker: Broker) -> dict[str, Any]:
    topics: list[dict[str, Any]] = broker.status()["topics"]
    return next(each for each in topics if each["name"] == _TOPIC.name)
