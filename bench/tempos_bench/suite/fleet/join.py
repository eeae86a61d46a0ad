"""How long it takes from `subscribe` at one broker until every broker of the fleet has the route in force.

First one after the other, as the client library does it, sockets for each broker included; then many at
once. Each knows by its broker's answer: how many have confirmed it. What etcd needs for it is told.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tempos import Subscriber, Topic
from tempos_bench.fleet.ground import Ground, ground
from tempos_bench.fleet.light import LightMember, others
from tempos_bench.measure.stats import percentile
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="news")
#: Seconds: members that say nothing to other brokers than their home stay for so long.
_LEASE = 10.0
#: Seconds between two joins: epochs of one topic follow each other no faster than members tell them apart.
_APART = 0.2
#: That the many are in.
_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Parameters:
    """``joins`` one after the other, then ``members`` at once, over ``brokers`` and ``nodes`` of etcd."""

    joins: int
    members: int
    brokers: int
    nodes: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    # Those before are in a group of their own; they may be there still when the others come.
    each = max(p.joins, p.members // _GROUPS + 1)
    with ground([_TOPIC], brokers=p.brokers, nodes=p.nodes, lease=_LEASE, members=each) as made:
        return asyncio.run(_measure(p, made, progress))


async def _measure(p: Parameters, made: Ground, progress: Run) -> list[Figure]:
    progress(f"{p.joins} joins, one after the other")
    whole: list[float] = []
    for number in range(p.joins):
        await asyncio.sleep(_APART)
        subscriber = Subscriber(
            made.addresses[number % p.brokers], _TOPIC.name, group="g", control_port=made.control
        )
        began = time.monotonic()
        async with subscriber:
            whole.append((time.monotonic() - began) * 1e3)
            assert subscriber.fleet == (p.brokers, p.brokers), subscriber.fleet
    home = made.addresses[0]
    hears = await others(home, made.control)
    alone: list[float] = []
    for _ in range(p.joins):
        await asyncio.sleep(_APART)
        member = LightMember(home, made.control, hears)
        alone.append(await member.join(_TOPIC.name, "g") * 1e3)
        await member.leave()
    progress(f"{p.members} members at once")
    crowd = [LightMember(home, made.control, hears) for _ in range(p.members)]
    for each in crowd:
        await each.open()
    brokers, etcd = made.cpu()
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(each.join(_TOPIC.name, f"g{at % _GROUPS}") for at, each in enumerate(crowd)))
    took = max(each.in_force for each in crowd) - began
    brokers_after, etcd_after = made.cpu()
    there = [sum(len(group["members"]) for group in made.get(at, f"/v1/topics/{_TOPIC.name}")["groups"])
             for at in range(p.brokers)]  # fmt: skip
    await asyncio.gather(*(each.leave() for each in crowd))
    return [
        Figure("join, median", percentile(alone, 50), "ms"),
        Figure("join, p99", percentile(alone, 99), "ms"),
        Figure("join by the library, median", percentile(whole, 50), "ms"),
        Figure("join by the library, p99", percentile(whole, 99), "ms"),
        Figure("all at once in force everywhere after", took, "s"),
        Figure("members less, at any broker", p.members - min(there), "members"),
        Figure("etcd for all at once", etcd_after - etcd, "s"),
        Figure("brokers for all at once", brokers_after - brokers, "s"),
    ]
