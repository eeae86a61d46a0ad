"""Topics made at run time at one broker of a fleet are those of all, whatever becomes of the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support import fleet_world
from support.fleet_world import TOPICS, World, come_to, world

from tempos import Topic
from tempos_broker.broker import Broker
from tempos_broker.config.model import Origin, TopicConfig
from tempos_broker.fleet import rows
from tempos_broker.fleet.registry import Away, Write
from tempos_broker.fleet.topics import SharedTopics
from tempos_broker.topics.orders import Conflict, NotKept


def made(broker: Broker) -> dict[str, dict[str, Any]]:
    """What was made at run time, by name, as a file would have it."""
    return {each["options"]["name"]: each["options"] for each in broker.documents.options(Origin.RUN_TIME)}


def lacking(broker: Broker) -> dict[str, str]:
    """Those of the fleet that are not at a broker as they are elsewhere, and why."""
    return fleet_world.lacking(broker, rows.TOPICS)


async def agree(fleet: World, *names: str) -> None:
    """All have these, and alike."""
    await fleet.agree_on(rows.TOPICS, made, *names)


async def test_what_is_ordered_at_one_broker_is_in_force_at_all_when_it_is_answered() -> None:
    async with world(3) as fleet:
        one, two, three = fleet.brokers
        fleet.join(1, 1, "plant/#")
        await fleet.agree(2)
        await one.add_topic({"name": "plant/new", "rate": 100})
        assert made(one) == made(two) == made(three)
        assert made(one)["plant/new"]["rate"] == 100
        (topic,) = (Topic(each["id"], each["name"]) for each in made(one).values())
        fleet.topics = (*TOPICS, topic)
        # A filter of before takes it in, at each.
        await fleet.agree(3)
        await two.set_topic("plant/new", {"rate": None, "priority": 3})
        assert made(one) == made(two) == made(three)
        assert made(one)["plant/new"]["priority"] == 3
        assert not made(one)["plant/new"].get("rate")
        with pytest.raises(Conflict, match="1 member"):
            await three.remove_topic("plant/new")
        removed = await three.remove_topic("plant/new", drain=True, patience=0)
        assert removed.members == 1
        await agree(fleet)
        # It is another one now.
        await one.add_topic({"name": "plant/new", "id": 77})
        assert made(one) == made(two) == made(three)
        assert made(three)["plant/new"]["id"] == 77


async def test_of_two_that_make_the_same_topic_at_once_one_does() -> None:
    async with world(3, delay=0.05) as fleet:
        orders = [each.add_topic({"name": "x", "priority": at}) for at, each in enumerate(fleet.brokers)]
        came = await asyncio.gather(*orders, return_exceptions=True)
        refused = [each for each in came if isinstance(each, BaseException)]
        assert len(refused) == 2
        assert all(isinstance(each, Conflict) for each in refused), refused
        await agree(fleet, "x")
        changes = [each.set_topic("x", {"rate": 10 + at}) for at, each in enumerate(fleet.brokers)]
        came = await asyncio.gather(*changes, return_exceptions=True)
        assert sum(isinstance(each, Conflict) for each in came) == 2
        await agree(fleet, "x")
        (rate,) = (each["rate"] for each in came if isinstance(each, dict))
        assert made(fleet.brokers[0])["x"]["rate"] == rate


async def test_topics_made_at_once_at_several_brokers_have_ids_of_their_own() -> None:
    async with world(3, delay=0.05) as fleet:
        for turn in range(5):
            orders = [each.add_topic({"name": f"t{turn}/{at}"}) for at, each in enumerate(fleet.brokers)]
            await asyncio.gather(*orders)
        names = [f"t{turn}/{at}" for turn in range(5) for at in range(3)]
        await agree(fleet, *names)
        assert len({each["id"] for each in made(fleet.brokers[0]).values()}) == len(names)
        # Of those that name one it is one's.
        orders = [each.add_topic({"name": f"n{at}", "id": 90}) for at, each in enumerate(fleet.brokers)]
        came = await asyncio.gather(*orders, return_exceptions=True)
        refused = [each for each in came if isinstance(each, BaseException)]
        assert len(refused) == 2
        assert all(isinstance(each, Conflict) and "id 90" in str(each) for each in refused), refused
        (winner,) = (f"n{at}" for at, each in enumerate(came) if not isinstance(each, BaseException))
        await agree(fleet, *names, winner)
        # And free at once where that one is removed.
        await fleet.brokers[0].remove_topic(winner)
        await agree(fleet, *names)
        await fleet.brokers[1].add_topic({"name": "after", "id": 90})
        await agree(fleet, *names, "after")


async def test_who_was_away_brings_nothing_back_and_what_the_store_forgot_is_told_again() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        for name in ("stays", "goes"):
            await one.add_topic({"name": name})
        await agree(fleet, "stays", "goes")
        fleet.ends[1].cut = True
        await come_to(lambda: two.fleet is not None and two.fleet.away is not None, lambda: "away")
        await one.remove_topic("goes")
        with pytest.raises(NotKept, match="away"):
            await two.add_topic({"name": "lonely"})
        assert made(two).keys() == {"stays", "goes"}
        fleet.ends[1].cut = False
        await agree(fleet, "stays")
        # All that the store had is gone, as if it had been made anew.
        fleet.memory.down = True
        await come_to(lambda: all(each.fleet and each.fleet.away for each in fleet.brokers), lambda: "")
        fleet.memory.entries.clear()
        fleet.memory.revision = 1
        fleet.memory.compact()
        fleet.memory.down = False
        await come_to(lambda: rows.TOPICS + "stays" in fleet.memory.entries, lambda: "")
        await come_to(lambda: not any(each.fleet and each.fleet.away for each in fleet.brokers), lambda: "")
        await agree(fleet, "stays")
        # Whoever told of it a moment later has to hear that the other one has.
        await come_to(
            lambda: all(
                each.fleet and rows.TOPICS + "stays" in each.fleet.view.written for each in fleet.brokers
            ),
            lambda: "",
        )
        await two.remove_topic("stays")
        await agree(fleet)


async def test_what_a_broker_cannot_have_is_told_and_had_once_it_can_be() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        await two._topic_orders._orders.add({"name": "own", "id": 50})  # type: ignore[union-attr]
        await one.add_topic({"name": "other", "id": 50})
        assert two.fleet is not None
        assert "id 50 is that of topic 'own'" in lacking(two)["other"]
        await come_to(lambda: _lacks(one, "b2") == 1, lambda: one.fleet and one.fleet.document())
        assert two.fleet.document()["lacks_topics"][0]["name"] == "other"
        await two._topic_orders._orders.remove("own")  # type: ignore[union-attr]
        await come_to(lambda: made(two).keys() == {"other"}, lambda: made(two))
        await come_to(lambda: _lacks(one, "b2") == 0, lambda: one.fleet and one.fleet.document())
        assert lacking(two) == {}


async def test_what_goes_from_a_brokers_file_is_the_fleets_still() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        await one.add_topic({"name": "x", "id": 50, "rate": 7})
        before, config = made(two), two.config
        own = TopicConfig(Topic(50, "x", rate=7))
        await two.reload(replace(config, topics=(*config.topics, own)))
        assert made(two) == {}
        await two.reload(config)
        await come_to(lambda: made(two) == before, lambda: made(two))
        # Nor is what was made elsewhere since anything that a file brings back.
        await two.reload(replace(config, topics=(*config.topics, own)))
        await one.remove_topic("x")
        assert [each["name"] for each in two.status()["topics"]] == ["plant/a", "plant/b", "x"]
        await two.reload(config)
        await agree(fleet)


def _lacks(broker: Broker, name: str) -> int:
    assert broker.fleet is not None
    (number,) = (each["lacks_topics"] for each in broker.fleet.document()["brokers"] if each["name"] == name)
    return int(number)


async def test_a_value_in_the_store_that_makes_no_sense_changes_nothing() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        await one.add_topic({"name": "a"})
        end = fleet.ends[0]
        for name, value in (
            ("b", b"no json"), ("c", b"[]"), ("d", b'{"options": {"name": "other"}}'),
            ("e", b'{"removed": true}'), ("f", b'{"options": {"name": "f", "rate": -1}}'), ("#", b"{}"),
        ):  # fmt: skip
            await end.write([Write(rows.TOPICS + name, value)])
        await come_to(lambda: "f" in lacking(two), lambda: made(two))
        await agree(fleet, "a")
        assert lacking(two).keys() == {"f"}
        assert "rate" in lacking(two)["f"]


async def test_what_is_broken_off_for_the_store_is_away_is_news_still() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        broken = 0

        def breaks_off(call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def called(*arguments: Any, **more: Any) -> None:
                nonlocal broken
                if ((two.fleet and two.fleet._changed) or arguments) and broken < 3:
                    broken += 1
                    raise Away("just now")
                await call(*arguments, **more)

            return called

        shared = two._topic_orders
        assert two.fleet is not None
        assert isinstance(shared, SharedTopics)
        shared.catch_up = breaks_off(shared.catch_up)  # type: ignore[method-assign]
        for number in range(100):
            fleet.join(0, number)
        await fleet.agree(200)
        assert broken == 3
        broken = 0
        shared._go_by = breaks_off(shared._go_by)  # type: ignore[method-assign]
        await one.add_topic({"name": "x"})
        await agree(fleet, "x")
        assert broken == 3


async def test_whatever_becomes_of_the_store_all_have_the_same_topics_in_the_end() -> None:
    async with world(3, delay=0.02) as fleet:
        chance = random.Random(5)

        async def order(broker: Broker, number: int) -> None:
            name = f"t{number}"
            match chance.randrange(3):
                case 0:
                    await broker.remove_topic(name, drain=True, patience=0)
                case 1:
                    await broker.set_topic(name, {"rate": chance.randrange(1, 1000)})
                case _:
                    await broker.add_topic({"name": name, "priority": chance.randrange(8)})

        await fleet.disturbed(chance, order)
        await fleet.come_to_the_same(rows.TOPICS, made)
        told = {
            key.removeprefix(rows.TOPICS)
            for key, entry in fleet.memory.entries.items()
            if key.startswith(rows.TOPICS)
            and (row := rows.made_in(rows.TOPICS, key.removeprefix(rows.TOPICS), entry.value)) is not None
            and row.document is not None
        }
        await agree(fleet, *told)
        assert not any(map(lacking, fleet.brokers))
