"""As `churn`, with several groups: members of each join, leave and drain while events flow to all of them.

A broadcast in XDP, tc clones and the slow path in turn, each on a fresh topology. Every change makes a new
epoch for all groups; so each group's account is held against the sender's, to the event.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from tempos import DATA_PORT, Fanout, Framing, Path, Topic
from tempos_bench.measure import crowd
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.crowd import CrowdPlan
from tempos_bench.measure.legs import Dropped, Legs, beyond
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, in_turn
from tempos_bench.runs.run import Run

#: How the copies are made -> the fast path's mode, what the topic asks for, the path that must serve it.
WAYS = {
    "XDP": ("native", Fanout.XDP, Path.FAST),
    "tc": ("native", Fanout.TC, Path.FAST),
    "slow path": ("off", Fanout.AUTO, Path.SLOW),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``seconds`` of events for each way at ``fast_rate`` and ``slow_rate`` per second, of ``payload`` bytes.

    ``changes`` per second over at most ``members`` members, in each of ``groups`` groups.
    """

    seconds: float
    fast_rate: float
    slow_rate: float
    groups: int
    members: int
    changes: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    variants = {way: partial(measure, p, way) for way in WAYS}
    return [*chain.from_iterable(in_turn(variants, progress).values())]


def measure(p: Parameters, way: str, shape: str | None = None) -> list[Figure]:
    """One way over a fresh topology."""
    mode, fanout, path = WAYS[way]
    rate = p.slow_rate if path is Path.SLOW else p.fast_rate
    core, other = cores()
    count = round(p.seconds * rate)
    topic = Topic(id=1, name="events", framing=Framing.EVENT, fanout=fanout)
    with build(shape) as topology:
        a, c = topology.publisher, topology.subscriber
        with Broker(topology.broker, {topic: ()}, mode=mode, cpu=other) as broker:
            crowds = [
                crowd.start(
                    c,
                    topology.facing_subscriber,
                    CrowdPlan(topic.name, f"group-{number}", p.members, p.changes, count, p.payload),
                    cpu=other,
                )
                for number in range(p.groups)
            ]
            broker.wait_path(topic.name, path)
            legs = Legs(topology)
            sent = a.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", topic.id,
                "--count", count, "--rate", rate, "--size", p.payload, cpu=core,
            ).result(p.seconds * 2 + 30)  # fmt: skip
            accounts = crowd.accounts(crowds, sent["sent"])
            status = broker.entry(topic.name)
            dropped = legs.dropped()
    return [
        Figure(f"{way}: sent", sent["sent"], "datagrams"),
        Figure(f"{way}: rate", sent["sent"] / (sent["ended_ns"] - sent["began_ns"]) * 1e9, "datagrams/s"),
        *_changes(way, accounts, status),
        Figure(f"{way}: dropped by links and receivers", dropped.first + dropped.last, "datagrams"),
        *_faults(way, accounts, status, sent["sent"], path, dropped),
    ]


def _changes(way: str, accounts: list[dict[str, Any]], status: dict[str, Any]) -> list[Figure]:
    return [
        *(
            Figure(f"{way}: {word}", sum(each[key] for each in accounts), "changes")
            for key, word in (("joined", "joins"), ("left", "leaves"), ("drained", "drains"))
        ),
        Figure(f"{way}: epochs", status["epoch"], "epochs"),
    ]


def _faults(
    way: str,
    accounts: list[dict[str, Any]],
    status: dict[str, Any],
    sent: int,
    path: Path,
    dropped: Dropped,
) -> list[Figure]:
    """All of these must be 0; what is lost in one group must not be made up for in another."""
    groups = status["groups"]
    other_path = status["slow" if path is Path.FAST else "fast"]
    came = {f"group-{number}": each["received"] - each["repeated"] for number, each in enumerate(accounts)}
    off = sum(
        abs(group["tickets"] - status["received"]) + abs(group["delivered"] - came.get(group["name"], 0))
        for group in groups
    )
    # What did not reach the broker no group got.
    lost = [beyond(sent - count, dropped.first) for count in came.values()]
    unheard = sum(g["lost"] + g["unconfirmed"] for g in groups)
    return [
        Figure(f"{way}: lost", beyond(sum(map(abs, lost)), dropped.last), "datagrams"),
        Figure(f"{way}: duplicated", sum(each["repeated"] for each in accounts), "datagrams"),
        Figure(f"{way}: damaged", sum(each["damaged"] for each in accounts), "datagrams"),
        Figure(f"{way}: never told to the broker", sum(each["untold"] for each in accounts), "datagrams"),
        Figure(f"{way}: after leaving", sum(each["late"] for each in accounts), "datagrams"),
        Figure(
            f"{way}: lost by drains",
            beyond(sum(each["drain_lost"] for each in accounts), dropped.last),
            "datagrams",
        ),
        Figure(f"{way}: requests failed", sum(len(each["failures"]) for each in accounts), "requests"),
        Figure(f"{way}: not on this path", other_path, "datagrams"),
        Figure(f"{way}: ledger, groups", abs(len(groups) - len(accounts)), "groups off"),
        Figure(f"{way}: ledger, received", beyond(sent - status["received"], dropped.first), "datagrams off"),
        Figure(f"{way}: ledger, groups' accounts", off, "datagrams off"),
        Figure(f"{way}: ledger, lost", beyond(unheard, dropped.last), "datagrams"),
        Figure(f"{way}: ledger, faults", len(status["problems"]), "faults"),
    ]
