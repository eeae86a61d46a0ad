"""Several groups, to the byte: every group gets every event once, every member its share in its numbering.

Each way to make the copies (a broadcast in XDP; tc clones beside native XDP; tc clones in generic mode; the
slow path) over each topology (straight, one-armed, two interfaces towards the members), with every number of
groups and of members each. More groups than the kernel carries go by the slow path. Every case comes twice:
with UDP checksums that the publisher's link would have to complete, and with complete ones. The receivers
compare every byte, their kernel every checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tempos import DATA_PORT, Fanout, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import LEFT_OUT, Topology, build, complete_checksums, links_are_ours, shapes
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, in_turn
from tempos_bench.runs.run import Run

GROUPS = (1, 2, 4, 8, 16, 32)
MEMBERS = (1, 3, 7)
#: Of one topic, on the fast path.
KERNEL_GROUPS = 16
#: How the copies are made -> the fast path's mode, what the topic asks for.
WAYS = {
    "native": ("native", Fanout.AUTO),
    "native, tc": ("native", Fanout.TC),
    "generic": ("generic", Fanout.AUTO),
    "slow path": ("off", Fanout.AUTO),
}
_FIRST_PORT = 10_000
#: What the members must find nothing of.
_FAULTS = ("missing", "damaged", "repeated", "redelivered", "bad_checksums", "overrun")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``events`` of ``payload`` bytes at ``rate`` per second, for each case."""

    events: int
    rate: float
    payload: int


@dataclass(frozen=True, slots=True)
class Case:
    """One topic. ``complete``: its datagrams leave the publisher with complete UDP checksums; None: as set.

    ``segments``: so many are handed to the publisher's kernel as one (UDP GSO).
    """

    groups: int
    members: int
    complete: bool | None
    segments: int = 1

    @property
    def name(self) -> str:
        """The topic's."""
        checksums = {True: "-complete", False: "-partial", None: ""}[self.complete]
        return f"{self.groups}-groups-of-{self.members}{checksums}"


@dataclass(slots=True)
class Account:
    """What all cases of one way and shape add up to; ``faulty`` names those where something is wrong."""

    events: int = 0
    deliveries: int = 0
    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FAULTS, 0))
    elsewhere: int = 0
    by_tc: int = 0
    lost: int = 0
    off: int = 0
    problems: int = 0
    faulty: list[str] = field(default_factory=list)


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    # Who completes a checksum is a setting of the publisher's interface: it may not be ours.
    ways = (False, True) if links_are_ours() else (None,)
    if ways == (None,):
        progress.note(f"{LEFT_OUT}: whether the publisher's link completes checksums stays as it is set")
    cases = [Case(groups, members, complete) for complete in ways for groups in GROUPS for members in MEMBERS]
    variants = {
        f"{way}, {shape}": partial(measure, p, way, shape, cases) for way in WAYS for shape in shapes()
    }
    figures: list[Figure] = []
    for name, account in in_turn(variants, progress).items():
        for case in account.faulty:
            progress.note(f"{name}: {case} is not exact")
        figures += _figures(name, account)
    return figures


def measure(p: Parameters, way: str, shape: str, cases: Sequence[Case]) -> Account:
    """All cases in one way over a fresh topology."""
    mode, fanout = WAYS[way]
    core, other = cores()
    account = Account()
    with build(shape) as topology:
        topics = {
            Topic(number, case.name, framing=Framing.EVENT, fanout=fanout): _groups(case, topology)
            for number, case in enumerate(cases, 1)
        }
        with Broker(topology.broker, topics, mode=mode, cpu=other) as broker:
            for case, (topic, groups) in zip(cases, topics.items(), strict=True):
                slow = mode == "off" or case.groups > KERNEL_GROUPS
                path = Path.SLOW if slow else Path.FAST
                broker.wait_path(topic.name, path)
                if case.complete is not None:
                    complete_checksums(topology.publisher, case.complete)
                epoch = broker.entry(topic.name)["epoch"] & 0xFF
                got = _send(p, topology, topic, groups, (epoch, case.segments), (core, other))
                broker.wait_received(topic.name, p.events)
                status = broker.entry(topic.name)
                # In generic mode a burst is one buffer, which the fast path hands up.
                if case.segments == 1 or mode != "generic":
                    account.elsewhere += p.events - status[path.value]
                _add(account, case, p, got, status)
    return account


def _groups(case: Case, topology: Topology) -> tuple[Group, ...]:
    """Members are reached by the subscriber's addresses in turn, so by every interface there is."""
    addresses = topology.subscriber.addresses
    numbers = iter(range(case.groups * case.members))

    def members() -> Iterator[Member]:
        for _ in range(case.members):
            number = next(numbers)
            yield Member(addresses[number % len(addresses)], _FIRST_PORT + number)

    return tuple(Group(f"group-{index}", tuple(members())) for index in range(case.groups))


def _send(
    p: Parameters,
    topology: Topology,
    topic: Topic,
    groups: tuple[Group, ...],
    how: tuple[int, int],
    cpus: tuple[int, int],
) -> dict[str, int]:
    """Send the events of a case and let the members check them; ``how``: their epoch, segments."""
    epoch, segments = how
    members = [f"{index}@{member}" for index, group in enumerate(groups) for member in group.members]
    audit = topology.subscriber.role(
        "audit", *members, "--topic", topic.id, "--epoch", epoch, "--events", p.events,
        "--size", p.payload, ready=True, cpu=cpus[1],
    )  # fmt: skip
    topology.publisher.role(
        "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", topic.id,
        "--count", p.events, "--rate", p.rate, "--size", p.payload, "--segments", segments, cpu=cpus[0],
    ).result(p.events / p.rate + 30)  # fmt: skip
    got: dict[str, int] = audit.result(30)
    return got


def _add(account: Account, case: Case, p: Parameters, got: dict[str, int], status: dict[str, Any]) -> None:
    account.events += p.events
    account.deliveries += got["received"]
    for fault in _FAULTS:
        account.faults[fault] += got[fault]
    account.by_tc += status["passed"].get("by_clone", 0)
    lost = sum(group["lost"] + group["unsent"] for group in status["groups"])
    off = sum(abs(group["tickets"] - p.events) for group in status["groups"])
    account.lost += lost
    account.off += off + abs(status["received"] - p.events)
    account.problems += len(status["problems"])
    if any(got[fault] for fault in _FAULTS) or lost or off or status["problems"]:
        account.faulty.append(case.name)


def _figures(name: str, account: Account) -> list[Figure]:
    return [
        Figure(f"{name}: events", account.events, "datagrams"),
        Figure(f"{name}: deliveries", account.deliveries, "datagrams"),
        *(
            Figure(f"{name}: {fault.replace('_', ' ')}", count, "datagrams")
            for fault, count in account.faults.items()
        ),
        Figure(f"{name}: not by its path", account.elsewhere, "datagrams"),
        Figure(f"{name}: by tc", account.by_tc, "datagrams"),
        Figure(f"{name}: ledger, lost", account.lost, "datagrams"),
        Figure(f"{name}: ledger, off", account.off, "datagrams"),
        Figure(f"{name}: ledger, faults", account.problems, "faults"),
    ]
