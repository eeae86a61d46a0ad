"""Members join, leave and drain while events flow: nothing lost, nothing twice, nothing to the departed.

One group; the fast path and the slow path in turn, each on a fresh topology. The account of the
receivers is held against the sender's and against the broker's ledger, to the event. What the links or the
receivers' own sockets dropped is told apart (see :mod:`tempos_bench.measure.legs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain

from tempos import DATA_PORT, Framing, Path, Topic
from tempos_bench.measure import crowd
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.crowd import CrowdPlan
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, in_turn
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_GROUP = "workers"
#: The fast path's mode in the broker's configuration, for each path.
_MODES = {Path.FAST: "native", Path.SLOW: "off"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``seconds`` of events per path at ``fast_rate`` and ``slow_rate`` per second, of ``payload`` bytes.

    ``changes`` per second over at most ``members`` members of one group.
    """

    seconds: float
    fast_rate: float
    slow_rate: float
    members: int
    changes: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    rates = {Path.FAST: p.fast_rate, Path.SLOW: p.slow_rate}
    variants = {f"{path.value} path": partial(measure, p, path, rate) for path, rate in rates.items()}
    return [*chain.from_iterable(in_turn(variants, progress).values())]


def measure(p: Parameters, path: Path, rate: float, shape: str | None = None) -> list[Figure]:
    """One path over a fresh topology."""
    core, other = cores()
    count = round(p.seconds * rate)
    with build(shape) as topology:
        a, c = topology.publisher, topology.subscriber
        with Broker(topology.broker, {_TOPIC: ()}, mode=_MODES[path], cpu=other) as broker:
            plan = CrowdPlan(_TOPIC.name, _GROUP, p.members, p.changes, count, p.payload)
            members = crowd.start(c, topology.facing_subscriber, plan, cpu=other)
            broker.wait_path(_TOPIC.name, path)
            legs = Legs(topology)
            sent = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
                "--count", count, "--rate", rate, "--size", p.payload, cpu=core,
            ).result(p.seconds * 2 + 30)  # fmt: skip
            got = crowd.account(members, sent["sent"])
            status = next(each for each in broker.status()["topics"] if each["name"] == _TOPIC.name)
            dropped = legs.dropped()
    groups = status["groups"]
    elsewhere = dropped.first + dropped.last
    name = f"{path.value} path"
    other_path = status["slow" if path is Path.FAST else "fast"]
    return [
        Figure(f"{name}: sent", sent["sent"], "datagrams"),
        Figure(f"{name}: rate", sent["sent"] / (sent["ended_ns"] - sent["began_ns"]) * 1e9, "datagrams/s"),
        Figure(f"{name}: joins", got["joined"], "changes"),
        Figure(f"{name}: leaves", got["left"], "changes"),
        Figure(f"{name}: drains", got["drained"], "changes"),
        Figure(f"{name}: epochs", status["epoch"], "epochs"),
        Figure(
            f"{name}: lost", beyond(sent["sent"] - got["received"] + got["repeated"], elsewhere), "datagrams"
        ),
        Figure(f"{name}: dropped by links and receivers", elsewhere, "datagrams"),
        Figure(f"{name}: duplicated", got["repeated"], "datagrams"),
        Figure(f"{name}: damaged", got["damaged"], "datagrams"),
        Figure(f"{name}: after leaving", got["late"], "datagrams"),
        Figure(f"{name}: never told to the broker", got["untold"], "datagrams"),
        Figure(f"{name}: lost by drains", beyond(got["drain_lost"], dropped.last), "datagrams"),
        Figure(f"{name}: requests failed", len(got["failures"]), "requests"),
        Figure(f"{name}: not on this path", other_path, "datagrams"),
        Figure(
            f"{name}: ledger, received",
            beyond(sent["sent"] - status["received"], dropped.first),
            "datagrams off",
        ),
        Figure(
            f"{name}: ledger, delivered",
            sum(g["delivered"] for g in groups) - (got["received"] - got["repeated"] - got["damaged"]),
            "datagrams off",
        ),
        Figure(
            f"{name}: ledger, lost",
            beyond(sum(g["lost"] + g["unconfirmed"] for g in groups), dropped.last),
            "datagrams",
        ),
        Figure(f"{name}: ledger, faults", len(status["problems"]), "faults"),
    ]
