"""Collectors come and go while many senders send: only those senders move that must, and nothing is lost.

A topic by port has a group whose collectors share the senders (`pick = "source-port"`) and one more that has
a copy of all. A collector after another is added or taken away by the control API, under traffic. Once it
is in force the next whole round (one datagram of each sender) says whose each sender is; datagrams on their
way meanwhile are its former or its new collector's. Counted are the senders that moved, and those among them
whose collector is in the group before and after: they had no reason.

How many senders have to move is not 1/n to the last one, of n collectors with the one that came or went:
1,024 slots fall to collectors by chance. So it is the mean over all changes that is held against it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from tempos import Path
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.collectors import Collectors
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, in_turn
from tempos_bench.runs.run import Run

#: What serves, and the mode of the fast path.
WAYS = {"slow path": "off", "native": "native", "generic": "generic"}
SHARED, COPY = "shared", "copy"
_TOPIC, _PORT, _FIRST_PORT, _COPY_PORT = "flows", 2055, 7001, 7900
#: Changes from one word of progress to the next.
_TOLD = 50


@dataclass(frozen=True, slots=True)
class Parameters:
    """``changes`` of a group that has from ``least`` to ``most`` collectors, under ``senders``' traffic.

    ``ways``: of :data:`WAYS`; ``seed``: of the order in which collectors come and go.
    """

    changes: int
    senders: int
    least: int
    most: int
    payload: int
    ways: tuple[str, ...]
    seed: int


@dataclass(slots=True)
class Moved:
    """Of each change the ``share`` of the senders that moved, how far it is ``beyond`` 1/n, and its seconds.

    Over all changes, ``idle``: senders that moved though their collector stayed; ``astray``: datagrams that
    came, while a change was on its way, to neither the former nor the new collector.
    """

    share: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    idle: int = 0
    astray: int = 0


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    variants = {way: partial(measure, p, way, progress) for way in p.ways}
    return [*chain.from_iterable(in_turn(variants, progress).values())]


def measure(p: Parameters, way: str, progress: Run) -> list[Figure]:
    """One way over a fresh topology."""
    ports = range(_FIRST_PORT, _FIRST_PORT + p.most)
    with ExitStack() as stack:
        topology = stack.enter_context(build("straight"))
        address = topology.subscriber.address
        broker = stack.enter_context(Broker(topology.broker, {}, mode=WAYS[way], cpu=cores()[1]))
        collectors = Collectors(
            topology, _PORT, p.senders, {SHARED: ports, COPY: [_COPY_PORT]}, whole=(SHARED, COPY),
            payload=p.payload,
        )  # fmt: skip
        stack.callback(collectors.close)

        def members(present: Sequence[int]) -> dict[str, Any]:
            shared = [{"ip": address, "port": ports[at], "group": SHARED} for at in present]
            return {"member": [*shared, {"ip": address, "port": _COPY_PORT, "group": COPY}]}

        first, *others = present_ones(p)
        topic = {"name": _TOPIC, "ports": [_PORT], "pick": "source-port", **members(first)}
        broker.ask("POST", "/v1/topics", topic)
        served = Path.SLOW if WAYS[way] == "off" else Path.FAST
        broker.wait_path(_TOPIC, served)
        with collectors.sending():
            moved = follow(
                collectors, first, others,
                lambda present: broker.ask("PATCH", f"/v1/topics/{_TOPIC}", members(present)),
                lambda done: progress(f"{way}: {done} of {p.changes} changes"),
            )  # fmt: skip
        broker.wait_received(_TOPIC, collectors.sent)
        entry = broker.entry(_TOPIC)
    return _figures(way, collectors, moved, entry, served)


def present_ones(p: Parameters) -> Iterator[tuple[int, ...]]:
    """Which collectors are there, by number: at first, and after each change, which is of one of them."""
    rng = random.Random(p.seed)
    present = set(range(p.least, p.most))
    yield tuple(sorted(present))
    for _ in range(p.changes):
        absent = set(range(p.most)) - present
        goes = len(present) > p.least and (not absent or rng.random() < 0.5)
        present ^= {rng.choice(sorted(present if goes else absent))}
        yield tuple(sorted(present))


def follow(
    collectors: Collectors,
    first: Sequence[int],
    others: Sequence[Sequence[int]],
    order: Callable[[Sequence[int]], object],
    told: Callable[[int], object],
) -> Moved:
    """Give the ``order`` for each of ``others``, and look who moved; ``told`` now and then how many."""
    moved, present = Moved(), first
    before = collectors.after()
    for done, wanted in enumerate(others, 1):
        began = time.monotonic()
        order(wanted)
        moved.took.append(time.monotonic() - began)
        after = collectors.after()
        _compare(collectors.got[SHARED][before : after + 1], present, wanted, moved)
        present, before = wanted, after
        if done % _TOLD == 0:
            told(done)
    return moved


def _compare(rounds: Sequence[bytearray], had: Sequence[int], has: Sequence[int], moved: Moved) -> None:
    """From the first of these rounds, before a change, to the last one, after it."""
    former, new = rounds[0], rounds[-1]
    gone = {number + 1 for number in {*had} - {*has}}
    come = {number + 1 for number in {*has} - {*had}}
    changed = [(was, now) for was, now in zip(former, new, strict=True) if was != now]
    moved.idle += sum(was not in gone and now not in come for was, now in changed)
    moved.share.append(len(changed) / len(new))
    moved.beyond.append(moved.share[-1] - 1 / max(len(had), len(has)))
    for each in rounds[1:-1]:
        moved.astray += sum(
            at not in (was, now) for at, was, now in zip(each, former, new, strict=True) if at
        )


def _figures(
    way: str, collectors: Collectors, moved: Moved, entry: dict[str, Any], served: Path
) -> list[Figure]:
    groups = {group["name"]: group for group in entry["groups"]}
    came = {name: collectors.came[name] - collectors.doubled[name] for name in (SHARED, COPY)}
    off = sum(
        abs(groups[name]["tickets"] - collectors.sent) + abs(groups[name]["unknown"] - count)
        for name, count in came.items()
    )
    mean = sum(moved.beyond) / len(moved.beyond)
    took = summarize([seconds * 1e3 for seconds in moved.took])
    return [
        Figure(f"{way}: changes", len(moved.share), "changes"),
        Figure(f"{way}: sent", collectors.sent, "datagrams"),
        Figure(f"{way}: lost", sum(map(collectors.lost, (SHARED, COPY))), "datagrams"),
        Figure(f"{way}: doubled", sum(collectors.doubled.values()), "datagrams"),
        Figure(f"{way}: damaged", collectors.damaged + collectors.strange, "datagrams"),
        Figure(f"{way}: at neither collector", moved.astray, "datagrams"),
        Figure(f"{way}: moved though their collector stayed", moved.idle, "senders"),
        Figure(f"{way}: senders that moved, mean", sum(moved.share) / len(moved.share), "of all"),
        Figure(f"{way}: the same beyond 1/n", mean, "of all", Better.LOWER),
        Figure(f"{way}: the same beyond 1/n, at worst", max(moved.beyond), "of all", Better.LOWER),
        median(f"{way}: a change takes", took, "ms", Better.LOWER),
        Figure(f"{way}: not on this path", entry["fast" if served is Path.SLOW else "slow"], "datagrams"),
        Figure(f"{way}: ledger, received", entry["received"] - collectors.sent, "datagrams off"),
        Figure(f"{way}: ledger, groups' accounts", off, "datagrams off"),
        Figure(f"{way}: ledger, faults", len(entry["problems"]), "faults"),
    ]
