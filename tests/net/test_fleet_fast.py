"""A fleet on the fast path: what is published at any broker reaches members of others by XDP alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.fleet_net import BROKERS, Field, aside, field, publisher, seen, subscriber
from support.fleets import TOPICS
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import Subscriber

pytestmark = [pytest.mark.netns, pytest.mark.kernel]


@pytest.fixture(autouse=True)
def _needed() -> None:
    require_netns()
    require_kernel()


def on_fast_path(fleet: Field) -> bool:
    return all(fleet.get(name, "/v1/topics/a")["path"] == "fast" for name in BROKERS)


async def bodies(member: Subscriber, number: int) -> list[object]:
    return [(await member.next(LIMIT)).unpack() for _ in range(number)]


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_events_of_every_broker_reach_a_member_of_one_by_the_fast_path(mode: str, tmp_path: Path) -> None:
    with field(tmp_path, mode=mode) as fleet:

        async def clients() -> None:
            async with subscriber("one", group="g") as first, subscriber("two", group="g") as second:
                await seen(lambda: on_fast_path(fleet))
                for name in BROKERS:
                    async with publisher(name) as pub:
                        for number in range(100):
                            await pub.publish("a", [name, number])
                            await asyncio.sleep(0.001)
                got = [*await bodies(first, 150), *await bodies(second, 150)]
                wanted = [[name, number] for name in BROKERS for number in range(100)]
                assert sorted(got) == sorted(wanted)  # type: ignore[type-var]
                await first.drain()
                async with publisher("three") as pub:
                    for number in range(10):
                        await pub.publish("a", number)
                    assert await bodies(second, 10) == list(range(10))
                assert first.stats.missed == second.stats.missed == 0
                await second.drain()
            for name in BROKERS:
                told = await aside(fleet.get, name, "/v1/topics/a")
                assert told["fast"] > told["slow"], told
            assert fleet.account() == (310, 310, 0)

        fleet.play(clients)


@pytest.mark.parametrize("mode", ["off", "native"])
def test_members_of_the_brokers_zone_go_first_on_either_path(mode: str, tmp_path: Path) -> None:
    # Brokers one and two are in the north, three is in the south.
    topics = TOPICS.replace('name = "a"', 'name = "a"\nprefer = "zone"')
    with field(tmp_path, mode=mode, more=topics) as fleet:

        async def clients() -> None:
            async with subscriber("three", group="g") as south:
                async with subscriber("two", group="g") as north:
                    # Who is passed over knows of no route there; all have it in force nevertheless.
                    await seen(
                        lambda: passed(fleet, "one") == passed(fleet, "two") == passed(fleet, "three") == 1
                    )
                    if mode != "off":
                        await seen(lambda: on_fast_path(fleet))
                    for name in BROKERS:
                        async with publisher(name) as pub:
                            for number in range(20):
                                await pub.publish("a", [name, number])
                    got = await bodies(north, 40)
                    assert {name for name, _ in got} == {"one", "two"}  # type: ignore[misc]
                    assert await bodies(south, 20) == [["three", number] for number in range(20)]
                    await north.drain()
                # There is nobody nearer any more.
                async with publisher("one") as pub:
                    await pub.publish("a", "far")
                    assert await bodies(south, 1) == ["far"]
                assert passed(fleet, "one") == 0

        fleet.play(clients)


def passed(fleet: Field, name: str) -> int:
    """Members of the group that get nothing from a broker, for others are nearer."""
    return int(fleet.get(name, "/v1/topics/a")["passed_over"].get("g", 0))
