"""Brokers and nodes of etcd are killed at random under traffic: what is lost was on its way in a dead broker.

Twice: events as they come, and then out of journals, with a publisher that keeps what is not confirmed and
sends it again. Members find homes as they can; whoever was killed is started again before the next one is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tempos import Publisher, Quality, Subscriber, Topic, Unconfirmed
from tempos._awaitables import in_time
from tempos_bench.fleet.ground import Ground, ground
from tempos_bench.nodes.patience import patience
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_LIMIT = 60.0
#: Seconds between two lots that are published, and before a kill in which what was sent may still be in the
#: broker's sockets.
_LOT, _IN_SOCKETS = 0.002, 0.25
#: Bytes that a publisher keeps of what is not confirmed; events that a journal holds.
_WINDOW, _JOURNAL = 32 << 20, 1 << 18
#: Room for marks of events, at a time.
_MORE = 1 << 20


@dataclass(frozen=True, slots=True)
class Parameters:
    """``kills`` of brokers and ``etcd_kills`` of its nodes, at ``rate`` events/s, over ``brokers``."""

    kills: int
    etcd_kills: int
    confirmed_kills: int
    rate: float
    brokers: int
    nodes: int
    seed: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    figures = []
    for name, journal, kills in (("as it comes", 0, p.kills), ("confirmed", _JOURNAL, p.confirmed_kills)):
        topic = Topic(
            id=1, name="orders", quality=Quality.SQ, journal=journal, journal_bytes=64 if journal else 0
        )
        with ground([topic], brokers=p.brokers, nodes=p.nodes, lease=4.0) as made:
            order = ["broker"] * kills + ["etcd"] * (p.etcd_kills * kills // max(p.kills, 1))
            random.Random(p.seed).shuffle(order)
            got = asyncio.run(_play(p, made, topic, order, progress, name))
        figures += [Figure(f"{name}: {what}", value, unit) for what, value, unit in got]
    return figures


@dataclass(slots=True)
class _Sent:
    """When lots went, to which broker, and how many events were sent by then."""

    lots: list[tuple[float, str, int]]
    count: int = 0
    going: bool = True


async def _play(
    p: Parameters, made: Ground, topic: Topic, order: list[str], progress: Run, name: str
) -> list[tuple[str, float, str]]:
    chance = random.Random(p.seed)
    got = bytearray()
    doubled = 0

    async def take(member: Subscriber) -> None:
        nonlocal doubled
        async for event in member:
            number = event.unpack()
            assert isinstance(number, int)
            if number >= len(got):
                got.extend(bytes(max(_MORE, number)))
            doubled += got[number]
            got[number] = 1

    sent = _Sent([])
    moved: list[float] = []
    killed: list[tuple[float, str]] = []
    brokers = 0
    async with AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(
                Subscriber(address, topic.name, group="g", control_port=made.control, queue=1 << 20)
            )
            for address in made.addresses
        ]
        taking = [asyncio.ensure_future(take(member)) for member in members]
        publisher = await stack.enter_async_context(
            Publisher(
                made.addresses, data_port=made.data, control_port=made.control,
                window=_WINDOW if topic.journal else None,
            )
        )  # fmt: skip
        publishing = asyncio.ensure_future(_publish(p, publisher, topic, sent))
        for number, what in enumerate(order, 1):
            await asyncio.sleep(chance.uniform(1.0, 2.0))
            if what == "etcd":
                node = chance.randrange(p.nodes)
                await asyncio.to_thread(made.kill_etcd, node)
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                await asyncio.to_thread(made.start_etcd, node)
            else:
                broker = chance.randrange(p.brokers)
                before, when = publisher._reach.broker, time.monotonic()
                mine = before == made.addresses[broker]
                await asyncio.to_thread(made.kill, broker)
                brokers += 1
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                if mine:
                    while publisher._reach.broker == before:
                        await asyncio.sleep(_LOT)
                    killed.append((when, before))
                    moved.append(next(at for at, who, _ in sent.lots if at > when and who != before) - when)
                await asyncio.to_thread(made.start, broker)
            await asyncio.to_thread(made.agree)
            progress(f"{name}: {number} of {len(order)} killed")
        await asyncio.sleep(2.0)
        sent.going = False
        await publishing
        unconfirmed = 0
        if topic.journal:
            try:
                await publisher.confirmed(_LIMIT)
            except Unconfirmed as error:
                progress(str(error))
                unconfirmed = 1
        await in_time(_rest(got), patience(_LIMIT))
        for member in members:
            await member.drain()
        for task in taking:
            task.cancel()
        await asyncio.gather(*taking, return_exceptions=True)
        problems = (await asyncio.to_thread(made.account, topic.name))["problems"]
    got.extend(bytes(max(0, sent.count - len(got))))
    lost = sent.count - sum(got)
    at_risk = {number for when, who in killed for number in _at_risk(sent.lots, when, who)}
    beyond = sum(not got[number] for number in range(sent.count) if number not in at_risk)
    return [
        ("brokers killed", brokers, "kills"),
        ("etcd nodes killed", len(order) - brokers, "kills"),
        ("sent", sent.count, "events"),
        ("lost", lost, "events"),
        ("may have been in a dead broker", len(at_risk), "events"),
        ("lost beyond that", beyond, "events"),
        ("doubled", doubled, "events"),
        ("publisher moved on within, at most", max(moved, default=0.0), "s"),
        ("not confirmed", unconfirmed, "faults"),
        ("ledger of the fleet, faults", problems, "faults"),
    ]


async def _publish(p: Parameters, publisher: Publisher, topic: Topic, sent: _Sent) -> None:
    began = time.monotonic()
    while sent.going:
        due = round((time.monotonic() - began) * p.rate)
        # After a pause no more at once than a broker's socket takes.
        for _ in range(min(due - sent.count, round(p.rate * _LOT * 20))):
            await publisher.publish(topic.name, sent.count)
            sent.count += 1
        sent.lots.append((time.monotonic(), publisher._reach.broker, sent.count))
        await asyncio.sleep(_LOT)


def _at_risk(lots: Sequence[tuple[float, str, int]], when: float, who: str) -> range:
    """Events that went to a broker which was killed at that time, or shortly before."""
    first = last = 0
    for at, publisher, count in lots:
        if at <= when - _IN_SOCKETS:
            first = count
        last = count
        # It may have moved on in the middle of a lot.
        if at > when and publisher != who:
            break
    return range(first, last)


async def _rest(got: bytearray) -> None:
    """Nothing comes any more."""
    before, same = -1, 0
    while same < 3:
        now = sum(got)
        same = same + 1 if now == before else 0
        before = now
        await asyncio.sleep(1.0)
