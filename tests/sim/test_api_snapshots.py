"""A snapshot says what the broker says itself, whatever happened since the last one; the rest is kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tempos import Framing, PathPolicy, Quality, Topic
from tempos_broker.api.snapshot import Resting, Snapshots
from tempos_broker.broker import Broker
from tempos_broker.config.model import StaticMember, TopicConfig

from .test_broker import running


def without_clocks(topic: dict[str, Any]) -> dict[str, Any]:
    """Leases run while two tell of them one after the other."""
    groups = [
        {**group, "members": [{**member, "lease_s": None} for member in group["members"]]}
        for group in topic["groups"]
    ]
    return {**topic, "groups": groups}


async def agree(broker: Broker, snapshots: Snapshots) -> int:
    """Status and ledger are the broker's own; how many topics were told anew for the status."""
    before = snapshots.kept_status.anew
    status, ledger = (await snapshots.status.ask()).value, (await snapshots.ledger.ask()).value
    told = [without_clocks(json.loads(each)) for each in status.topics]
    assert told == [without_clocks(each) for each in broker.status()["topics"]]
    assert [json.loads(each) for each in ledger.topics] == broker.ledger()["topics"]
    assert ledger.tail["balanced"] is broker.ledger()["balanced"]
    return snapshots.kept_status.anew - before


async def test_what_changed_is_told_anew_and_nothing_else() -> None:
    async with running() as (broker, _, client):
        snapshots = Snapshots(broker.documents)
        assert await agree(broker, snapshots) == 2
        assert await agree(broker, snapshots) == 0
        alpha, beta = (each.topic.name for each in broker.config.topics)
        await broker.move(alpha, PathPolicy.SLOW)
        assert await agree(broker, snapshots) == 1
        await broker.add_topic({"name": "made", "class": "BQ"})
        assert await agree(broker, snapshots) == 1
        await broker.set_topic("made", {"priority": 3})
        assert await agree(broker, snapshots) == 1
        await broker.remove_topic("made")
        assert await agree(broker, snapshots) == 0
        # One that is counted, though it has no member; it is told anew from now on.
        client.publish(bytes([broker.config.topics[1].topic.id]) + bytes(23))
        while not broker.topic(beta)["received"]:
            await asyncio.sleep(0)
        assert await agree(broker, snapshots) == 1
        client.ask("subscribe", topic=alpha, group="g", port=client.port)
        await client.answer()
        assert await agree(broker, snapshots) == 2
        assert broker.topic(alpha)["groups"]


def alike() -> tuple[TopicConfig, ...]:
    """Topics of four kinds, three of each, and two that rest and are like no other."""
    nobody, one = (), (StaticMember("127.0.0.1", 9, group="g"),)
    kinds = [
        (nobody, {}),
        (one, {}),
        (one, {"quality": Quality.SQ, "rate": 100}),
        (nobody, {"policy": PathPolicy.SLOW, "framing": Framing.RAW}),
    ]
    numbered = [
        TopicConfig(Topic(10 * kind + number, f'k{kind}/"{number}"ü', **options), members)
        for kind, (members, options) in enumerate(kinds, 1)
        for number in (1, 2, 300)
    ]
    both = (*one, StaticMember("127.0.0.1", 10, group="g"))
    return (*numbered, TopicConfig(Topic(99, "both"), both), TopicConfig(Topic(98, "kept", journal=8)))


async def test_topics_that_are_alike_are_told_as_each_is() -> None:
    """One of each kind is told in full; whoever comes to have something of its own is told by itself."""
    async with running(topics=alike()) as (broker, _, client):
        snapshots = Snapshots(broker.documents)
        assert await agree(broker, snapshots) == 4 + 2
        assert await agree(broker, snapshots) == 0
        # An event, a lease, a path and an option, each of one of three.
        client.publish(bytes([11, 0x10]) + bytes(22))
        while not broker.topic('k1/"1"ü')["received"]:
            await asyncio.sleep(0)
        client.ask("subscribe", topic='k2/"2"ü', group="g", port=client.port)
        await client.answer()
        await broker.move('k3/"1"ü', PathPolicy.SLOW)
        await broker.add_topic({"name": "made", "class": "BQ"})
        assert await agree(broker, snapshots) == 4, "what was made is not of the file"
        await broker.set_topic("made", {"priority": 3})
        await broker.remove_topic("made")
        # Of an event and a lease is told anew each time.
        assert await agree(broker, snapshots) == 2
        snapshots.kept_status.forget()
        assert await agree(broker, snapshots) == 4 + 2 + 3
        told = list(snapshots.kept_status.topics(0))
        assert told == [b""] * len(alike()), "what nobody reads is not made"


async def test_what_changes_while_it_is_told_is_told_anew_the_next_time() -> None:
    """What rests is told in slices, too, as long as nobody has it in full."""
    many = tuple(StaticMember("127.0.0.1", port, group="g") for port in range(1, 65))
    async with running(topics=(TopicConfig(Topic(1, "many"), many),)) as (broker, _, _client):
        snapshots = Snapshots(broker.documents)
        (resting,) = snapshots.kept_status.topics()
        assert isinstance(resting, Resting)
        await broker.move("many", PathPolicy.SLOW)
        resting.keep(b"as it was")
        assert await agree(broker, snapshots) == 1
        assert await agree(broker, snapshots) == 0
