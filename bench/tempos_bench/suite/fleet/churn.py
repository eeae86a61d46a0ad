"""Members of a fleet come and go under traffic: nothing is lost, doubled, or sent to who has left.

Several groups over the homes of all brokers, some publishers at each broker. Every change is one of a member
that leaves in order, losing nothing, and another one that joins at the next broker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tempos import Drained, Publisher, Quality, Subscriber, Topic
from tempos._awaitables import in_time
from tempos_bench.fleet.ground import Ground, ground
from tempos_bench.nodes.patience import patience
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="orders", quality=Quality.SQ)
#: Members of each group that are there at first; seconds for what is on its way.
_MEMBERS, _LIMIT = 3, 60.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """``changes`` a second for ``seconds``, among ``groups``; ``publishers`` at ``rate`` events/s each."""

    seconds: float
    changes: float
    groups: int
    publishers: int
    rate: float
    brokers: int
    seed: int


@dataclass(slots=True)
class _Group:
    name: str
    got: Counter[tuple[int, int]] = field(default_factory=Counter)
    members: list[tuple[Subscriber, asyncio.Task[None]]] = field(default_factory=list)
    #: Of those that have left: what they had missed, and what came to them after their leave.
    missed: int = 0
    lost: int = 0


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with ground([_TOPIC], brokers=p.brokers, nodes=1, lease=10.0) as made:
        return asyncio.run(_measure(p, made, progress))


async def _measure(p: Parameters, made: Ground, progress: Run) -> list[Figure]:
    chance = random.Random(p.seed)
    groups = [_Group(f"g{number}") for number in range(p.groups)]
    joined = 0

    async def join(group: _Group) -> None:
        nonlocal joined
        address = made.addresses[joined % p.brokers]
        joined += 1
        member = Subscriber(address, _TOPIC.name, group=group.name, control_port=made.control, queue=1 << 20)
        await member.__aenter__()
        group.members.append((member, asyncio.ensure_future(_take(member, group.got))))

    async def leave(group: _Group, at: int) -> None:
        member, taking = group.members.pop(at)
        drained = await member.drain()
        await member.__aexit__(None, None, None)
        await in_time(asyncio.wait([taking]), patience(_LIMIT))
        group.missed += member.stats.missed
        group.lost += drained.lost if isinstance(drained, Drained) else 0

    async with AsyncExitStack() as stack:
        for group in groups:
            for _ in range(_MEMBERS):
                await join(group)
        publishers = [
            await stack.enter_async_context(
                Publisher(made.addresses[at % p.brokers], data_port=made.data, control_port=made.control)
            )
            for at in range(p.publishers)
        ]
        ends = time.monotonic() + p.seconds
        sent = [0] * p.publishers
        publishing = [
            asyncio.ensure_future(_publish(publisher, at, sent, p.rate, ends))
            for at, publisher in enumerate(publishers)
        ]
        progress(f"{p.changes:g} changes/s for {p.seconds:g} s")
        began, changed = time.monotonic(), 0
        leaving: set[asyncio.Task[None]] = set()
        while time.monotonic() < ends:
            await asyncio.sleep(max(0.0, began + changed / p.changes - time.monotonic()))
            group = chance.choice(groups)
            if len(group.members) > _MEMBERS:
                leaving.add(asyncio.ensure_future(leave(group, chance.randrange(len(group.members)))))
            else:
                await join(group)
            changed += 1
        await asyncio.gather(*publishing, *leaving)
        took = time.monotonic() - began
        every = sum(sent)
        progress("what is on its way")
        await in_time(_until(groups, every), patience(_LIMIT))
        for group in groups:
            while group.members:
                await leave(group, 0)
        sums = await asyncio.to_thread(made.account, _TOPIC.name)
    doubled = sum(sum(group.got.values()) - len(group.got) for group in groups)
    return [
        Figure("changes", changed / took, "changes/s"),
        Figure("sent", every, "events"),
        Figure("lost", sum(every - len(group.got) for group in groups), "events"),
        Figure("doubled", doubled, "events"),
        Figure("missed by who left", sum(group.missed + group.lost for group in groups), "events"),
        # Whoever had left confirmed all that it was ticketed, so none of it came later.
        Figure(
            "to the departed", sums["tickets"] - sum(sum(group.got.values()) for group in groups), "events"
        ),
        Figure("received less than sent", every - sums["received"], "events"),
        Figure(
            "ledger of the fleet, faults", sums["problems"] + sums["lost"] + sums["unconfirmed"], "faults"
        ),
    ]


async def _take(member: Subscriber, got: Counter[tuple[int, int]]) -> None:
    async for event in member:
        publisher, number = event.unpack()
        got[publisher, number] += 1


async def _publish(publisher: Publisher, at: int, sent: list[int], rate: float, ends: float) -> None:
    began = time.monotonic()
    while time.monotonic() < ends:
        await publisher.publish(_TOPIC.name, [at, sent[at]])
        sent[at] += 1
        await asyncio.sleep(max(0.0, began + sent[at] / rate - time.monotonic()))


async def _until(groups: list[_Group], every: int) -> None:
    """All has come, or nothing comes any more."""
    before = -1
    while any(len(group.got) < every for group in groups):
        now = sum(len(group.got) for group in groups)
        if now == before:
            return
        before = now
        await asyncio.sleep(2.0)
