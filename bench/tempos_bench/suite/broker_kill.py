"""The broker is killed again and again under full rate: what the kernel carries goes on, to the event.

One topic on the fast path, three members, SIGKILL at a steady beat, a new broker each time. The new one
must adopt what it finds (same epoch, same tickets), the members must notice nothing, and at the end the
ledger, which has lived through all of it, must balance.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Framing, Path, Topic
from tempos_bench.measure import crowd
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.crowd import CrowdPlan
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_GROUP = "workers"


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate`` events/s of ``payload`` bytes to ``members`` members.

    ``kills``: one each ``beat`` seconds, counted from when the last broker was ready.
    """

    rate: float
    kills: int
    beat: float
    members: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    core, other = cores()
    # Restarts take time as well; the sender must not be done before the last one.
    count = round(p.rate * (p.kills + 1) * (p.beat + 2))
    with ExitStack() as stack:
        topology = stack.enter_context(build())
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        folder = stack.enter_context(b.folder())
        if b.trip():
            progress.note("an adoption contains the start of the new broker over ssh")

        def start() -> Broker:
            return Broker(b, {_TOPIC: ()}, mode="native", state=f"{folder}/state.db", cpu=other)

        broker = start()
        plan = CrowdPlan(_TOPIC.name, _GROUP, p.members, 0, count, p.payload)
        members = crowd.start(c, topology.facing_subscriber, plan, cpu=core)
        broker.wait_path(_TOPIC.name, Path.FAST)
        legs = Legs(topology)
        sender = a.role(
            "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id, "--count", count,
            "--rate", p.rate, "--size", p.payload, "--limit", (p.kills + 1) * (p.beat + 2), cpu=core,
        )  # fmt: skip
        epoch = _status(broker)["epoch"]
        adoptions, other_epochs = [], 0
        for number in range(p.kills):
            progress.pause(p.beat)
            progress(f"kill {number + 1} of {p.kills}")
            broker.program.kill()
            began = time.monotonic()
            broker = start()
            broker.wait_path(_TOPIC.name, Path.FAST)
            adoptions.append(time.monotonic() - began)
            other_epochs += _status(broker)["epoch"] != epoch
        progress("the sender ends")
        sender.terminate()
        sent = sender.result(30)["sent"]
        got = crowd.account(members, sent)
        status = _status(broker)
        dropped = legs.dropped()
        broker.stop()
    delivered = sum(group["delivered"] for group in status["groups"])
    came = got["received"] - got["repeated"]
    return [
        Figure("kills", len(adoptions), "kills"),
        Figure("sent", sent, "datagrams"),
        Figure("lost", beyond(sent - came, dropped.first + dropped.last), "datagrams"),
        Figure("dropped by links and receivers", dropped.first + dropped.last, "datagrams"),
        Figure("duplicated", got["repeated"], "datagrams"),
        Figure("not by the fast path", status["received"] - status["fast"], "datagrams"),
        Figure("restarts with another epoch", other_epochs, "restarts"),
        Figure("requests of members that failed", len(got["failures"]), "requests"),
        Figure("slowest adoption", max(adoptions), "s"),
        Figure("median adoption", sorted(adoptions)[len(adoptions) // 2], "s"),
        Figure("ledger, received", beyond(sent - status["received"], dropped.first), "datagrams off"),
        Figure("ledger, delivered", delivered - came, "datagrams off"),
        Figure("ledger, faults", len(status["problems"]), "faults"),
    ]


def _status(broker: Broker) -> dict[str, Any]:
    topics: list[dict[str, Any]] = broker.status()["topics"]
    return next(each for each in topics if each["name"] == _TOPIC.name)
