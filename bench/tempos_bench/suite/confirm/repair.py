"""Repair: what is lost before the broker and behind it comes all the same, once, and soon.

tc programs of the harness lose datagrams at random at the publisher's interface, at the members', or at both,
and as much of control and of what is sent again. Publisher and members are the Python library's, all on two
cores with the broker. Events travel some in a datagram, which is lost as a whole. How long a repair takes is
the time from sending to the member's program of events that were lost on that leg, less the median of those
that were not lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from tempos import Framing, Path, Quality, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lossy import MILLION, loses
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

#: What a broker does first that is to be given a core whenever it wants one.
_FIRST = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({priority}))"
_PATHS = {"fast": "native", "slow": "off"}
_LEGS = ("before", "behind", "both")
_WORDS = {"before": "before the broker", "behind": "behind it", "both": "on both legs"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``losses``: shares; ``rates``: events/s on the fast and the slow path, ``batch`` in a datagram.

    ``shapes``: groups, and members of each; those but the first are measured with the first loss on both
    legs. In one more variant, besides: of what is published so many come twice, ``doubled``, and so many are
    overtaken by others on either leg, ``mixed``. ``priority``: of SCHED_FIFO, for all of it; 0: none.
    """

    rounds: int
    seconds: float
    losses: tuple[float, ...]
    rates: tuple[float, float]
    shapes: tuple[tuple[int, int], ...]
    batch: int
    payload: int
    journal: int
    doubled: float
    mixed: float
    priority: int


@dataclass(frozen=True, slots=True)
class _Variant:
    path: str
    leg: str
    loss: float
    groups: int
    members: int
    doubled: float = 0.0
    mixed: float = 0.0

    def __str__(self) -> str:
        leg = _WORDS[self.leg]
        twice = f", {self.doubled:.0%} twice, {self.mixed:.0%} late" if self.doubled else ""
        return f"{self.path} path, {self.loss:.1%} lost {leg}{twice}, {self.groups} x {self.members} members"


@dataclass(frozen=True, slots=True)
class Played:
    """One play; times in ms. ``extra``: bytes on both legs beyond the events, in those of the events."""

    sent: int
    lost: int
    doubled: int
    unconfirmed: int
    given_up: int
    repaired: int
    p50: float
    p99: float
    undisturbed: float
    extra: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    first = p.shapes[0]
    variants = [_Variant(path, leg, loss, *first) for path in _PATHS for loss in p.losses for leg in _LEGS]
    variants += [_Variant(path, "both", p.losses[0], *shape) for path in _PATHS for shape in p.shapes[1:]]
    if p.doubled:
        variants += [_Variant(path, "both", p.losses[0], *first, p.doubled, p.mixed) for path in _PATHS]
    found = interleave(p.rounds, {str(each): partial(_play, p, each) for each in variants}, progress)
    progress.note(f"{p.batch} events in a datagram; the library's publisher and members, all on two cores")
    each = [figure for name, rows in found.items() for figure in _figures(name, rows)]
    return [*_sums(p, found), *each]


def _sums(p: Parameters, found: Mapping[str, Sequence[Played]]) -> list[Figure]:
    """What is held against targets: of all, and of the first loss with one member, round by round."""
    rows = [row for some in found.values() for row in some]
    figures = [
        Figure("lost", sum(row.lost for row in rows), "events", Better.LOWER),
        Figure("doubled", sum(row.doubled for row in rows), "events", Better.LOWER),
        Figure("not confirmed", sum(row.unconfirmed for row in rows), "events", Better.LOWER),
    ]
    for path in _PATHS:
        for leg in _LEGS:
            name = str(_Variant(path, leg, p.losses[0], *p.shapes[0]))
            told = f"{path} path, repair {_WORDS[leg]}"
            figures += [
                median(f"{told}, median", summarize([row.p50 for row in found[name]]), "ms"),
                median(f"{told}, p99", summarize([row.p99 for row in found[name]]), "ms"),
            ]
    return figures


def _figures(name: str, rows: Sequence[Played]) -> list[Figure]:
    return [
        Figure(f"{name}: lost", sum(row.lost for row in rows), "events", Better.LOWER),
        Figure(f"{name}: doubled", sum(row.doubled for row in rows), "events", Better.LOWER),
        Figure(f"{name}: not confirmed", sum(row.unconfirmed for row in rows), "events", Better.LOWER),
        Figure(f"{name}: repaired", sum(row.repaired for row in rows), "events"),
        median(f"{name}: repair, median", summarize([row.p50 for row in rows]), "ms"),
        median(f"{name}: repair, p99", summarize([row.p99 for row in rows]), "ms"),
        median(f"{name}: more bytes", summarize([100 * row.extra for row in rows]), "%", Better.LOWER),
    ]


def _play(p: Parameters, variant: _Variant) -> Played:
    core, other = cores()
    topic = Topic(
        id=1, name="events", quality=Quality.SQ, framing=Framing.EVENT, journal=p.journal, repair=True,
        journal_bytes=p.batch * (p.payload + 2) + 32,
    )  # fmt: skip
    rate = p.rates[0 if variant.path == "fast" else 1]
    count = round(rate * p.seconds / p.batch) * p.batch
    loss = round(variant.loss * MILLION)
    before, behind = (loss if variant.leg in (leg, "both") else 0 for leg in ("before", "behind"))
    with build() as topology:
        a, c = topology.publisher, topology.subscriber
        first = _FIRST.format(priority=p.priority) if p.priority else ""
        mode = _PATHS[variant.path]
        with Broker(topology.broker, {topic: ()}, mode=mode, cpu=other, first=first) as broker:
            members = c.role(
                "repaired", "--address", topology.facing_subscriber, "--topic", topic.name,
                "--groups", variant.groups, "--members", variant.members, "--count", count,
                "--batch", p.batch, "--before", before, "--behind", behind,
                "--fifo", p.priority, *(("--drop",) if variant.doubled else ()),
                ready=True, talk=True, cpu=core,
            )  # fmt: skip
            broker.wait_path(topic.name, Path.FAST if variant.path == "fast" else Path.SLOW)
            publisher = a.role(
                "resending", "--address", topology.broker.address, "--topic", topic.name, "--rate", rate,
                "--batch", p.batch, "--size", p.payload, "--seconds", p.seconds, "--fifo", p.priority,
                ready=True, talk=True, cpu=core,
            )  # fmt: skip
            mixed = round(variant.mixed * MILLION)
            if before or variant.doubled:
                loses(a, a.interfaces[0], before, round(variant.doubled * MILLION), mixed)
            if behind:
                loses(c, c.interfaces[0], behind, mix=mixed)
            began = _bytes(a), _bytes(c)
            sent = publisher.ask("begin", p.seconds + 90)
            got = members.ask({"sent": sent["sent"]}, 90)
            ended = _bytes(a), _bytes(c)
    return _played(variant, sent, got, [new - old for new, old in zip(ended, began, strict=True)])


def _played(variant: _Variant, sent: dict[str, Any], got: dict[str, Any], moved: list[int]) -> Played:
    took: dict[str, list[float]] = got["took"]
    base = took["none"][1]
    # 42 bytes of Ethernet, IPv4 and UDP stand in front of each.
    once = sent["bytes"] + 42 * sent["datagrams"]
    repaired, p50, p99, _ = took.get("any", (0, base, base, base))
    return Played(
        sent=sent["sent"],
        lost=sum(sent["sent"] - received for received in got["received"]),
        doubled=got["doubled"],
        unconfirmed=sent["unconfirmed"],
        given_up=got["given_up"],
        repaired=int(repaired),
        p50=(p50 - base) / 1000,
        p99=(p99 - base) / 1000,
        undisturbed=base / 1000,
        extra=sum(moved) / (once * (1 + variant.groups)) - 1,
    )


def _bytes(node: Node) -> int:
    """That its first interface has sent and received."""

    def read() -> int:
        for line in FilePath("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == node.interfaces[0]:
                fields = counts.split()
                return int(fields[0]) + int(fields[8])
        return 0

    return node.call(read)
