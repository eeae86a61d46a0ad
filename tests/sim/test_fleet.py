"""Brokers of one fleet in one process, over a store with delays that is cut off, away and compacted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import Framing, Prefer, Quality, Topic
from tempos._awaitables import in_time
from tempos_broker.account.accounts import Holder
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, FleetConfig, TopicConfig
from tempos_broker.fleet import rows
from tempos_broker.fleet.memory import LocalRegistry, Memory
from tempos_broker.paths import NoFastPath

TOPICS = (
    Topic(1, "plant/a", Quality.SQ, framing=Framing.EVENT),
    Topic(2, "plant/b", Quality.BQ, framing=Framing.EVENT),
)


def _endpoint(number: int) -> tuple[str, int]:
    return f"10.0.{number // 200}.{number % 200 + 1}", 5000


def _holder(number: int) -> Holder:
    return Holder(*_endpoint(number), number + 1)


class World:
    """``brokers`` over one memory, each by an end of its own, which takes up to ``delay`` seconds."""

    def __init__(self, delay: float, topics: tuple[Topic, ...] = TOPICS) -> None:
        self.topics = topics
        self.memory = Memory()
        self.random = random.Random(7)
        self.ends: list[LocalRegistry] = []
        self.brokers: list[Broker] = []
        self._delay = delay

    def broker(self, number: int, ports: list[int]) -> Broker:
        config = BrokerConfig(
            tuple(map(TopicConfig, self.topics)),
            listen=(f"127.0.78.{number}",),
            data_port=ports[0],
            control_port=ports[1],
            api_port=0,
            name=f"b{number}",
            # These members say nothing to the brokers that are not their home.
            control=ControlConfig(lease=10 * LIMIT),
            fleet=FleetConfig("sim", ("http://nowhere:1",), lease=5, zone="north" if number < 3 else "south"),
        )
        end = LocalRegistry(self.memory, lambda: self.random.uniform(0, self._delay))
        broker = Broker(config, NoFastPath("a test"), registry=end)
        self.ends.append(end)
        self.brokers.append(broker)
        return broker

    def join(self, at: int, number: int, wanted: str = "plant/#") -> None:
        """A member that hears all brokers subscribes at one."""
        members, now, asked = self.brokers[at]._registry, self.now, f"127.0.78.{at + 1}"
        endpoint = _endpoint(number)
        if "#" in wanted:
            topics = members.subscribe_by(wanted, f"g{number % 8}", endpoint, number + 1, now, asked)
            members.join(_holder(number), topics, now)
        else:
            members.subscribe(wanted, f"g{number % 8}", endpoint, number + 1, now, asked, follows=True)
        lease = members.lease_of(_holder(number))
        assert lease is not None
        lease.hears = tuple(each.fleet.me.number for each in self.brokers if each.fleet is not None)
        members.holdings.wants.touch(lease.holder)

    def heartbeat(self, at: int, number: int, wanted: str) -> None:
        """A member says where it is at home, and is one again if its broker thinks otherwise."""
        lease = self.brokers[at]._registry.lease_of(_holder(number))
        if lease is None or lease.home:
            self.join(at, number, wanted)

    def leave(self, at: int, number: int) -> None:
        self.brokers[at]._registry.goodbye(_endpoint(number), number + 1)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def seen(self, at: int) -> set[tuple[str, str, Holder]]:
        """Who is a member of what at a broker."""
        members = self.brokers[at]._registry
        return {
            (topic.name, group, holder)
            for topic in self.topics
            for group, holders in members.holders(topic.id)
            for holder in holders
        }

    async def agree(self, number: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """All brokers come to see the same so many memberships."""

        async def wait() -> None:
            while (
                len({frozenset(self.seen(at)) for at in range(len(self.brokers))}) > 1
                or len(self.seen(0)) != number
            ):
                meanwhile()
                await asyncio.sleep(0.01)

        try:
            await in_time(wait(), LIMIT)
        except asyncio.TimeoutError:
            pytest.fail(str([len(self.seen(at)) for at in range(len(self.brokers))]))


@asynccontextmanager
async def world(
    brokers: int, delay: float = 0.01, topics: tuple[Topic, ...] = TOPICS
) -> AsyncIterator[World]:
    made = World(delay, topics)
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        for number in range(1, brokers + 1):
            await stack.enter_async_context(made.broker(number, ports))

        async def wait() -> None:
            while any(each.fleet is None or len(each.fleet.view.brokers) < brokers for each in made.brokers):
                await asyncio.sleep(0.01)

        await in_time(wait(), LIMIT)
        yield made


async def test_three_hundred_members_at_once_are_members_everywhere() -> None:
    async with world(3) as fleet:
        for number in range(300):
            fleet.join(number % 3, number)
        await fleet.agree(600)
        for number in range(0, 300, 2):
            fleet.leave(number % 3, number)
        await fleet.agree(300)


async def test_one_that_was_cut_off_goes_by_what_holds_then_compacted_or_not() -> None:
    async with world(2) as fleet:
        for number in range(20):
            fleet.join(0, number)
        await fleet.agree(40)
        for compact in (False, True):
            fleet.ends[1].cut = True
            for number in range(10):
                fleet.leave(0, number)
            await asyncio.sleep(0)
            if compact:
                fleet.memory.compact()
            fleet.ends[1].cut = False
            await fleet.agree(20)
            for number in range(10):
                fleet.join(0, number)
            await fleet.agree(40)


async def test_whatever_becomes_of_the_store_all_agree_in_the_end() -> None:
    async with world(3, delay=0.02) as fleet:
        chance = random.Random(11)
        there: dict[int, tuple[int, str]] = {}
        for _ in range(300):
            number = chance.randrange(60)
            match chance.randrange(12):
                case 0:
                    end = chance.choice(fleet.ends)
                    end.cut = not end.cut
                case 1:
                    fleet.memory.down = not fleet.memory.down
                case 2:
                    fleet.memory.compact()
                case _ if number in there:
                    fleet.leave(there.pop(number)[0], number)
                case _:
                    there[number] = chance.randrange(3), chance.choice(("plant/a", "plant/b"))
                    fleet.join(there[number][0], number, there[number][1])
            await asyncio.sleep(0.002)
        fleet.memory.down = False
        for end in fleet.ends:
            end.cut = False

        def heartbeats() -> None:
            for number, (at, wanted) in there.items():
                fleet.heartbeat(at, number, wanted)

        await fleet.agree(len(there), heartbeats)


async def test_who_leaves_as_soon_as_it_has_come_is_gone_everywhere() -> None:
    async with world(2, delay=0.05) as fleet:
        for number in range(20):
            fleet.join(0, number)
        await fleet.agree(40)
        for number in range(20):
            key = rows.key_of(_holder(number))
            before = fleet.memory.entries[key].revision
            fleet.join(1, number)

            async def is_written(key: str = key, before: int = before) -> None:
                while fleet.memory.entries[key].revision == before:
                    await asyncio.sleep(0)

            await in_time(is_written(), LIMIT)
            # Its broker has written that it is its home, and not heard of that itself.
            fleet.leave(1, number)
        await fleet.agree(0)


async def test_who_comes_to_another_broker_is_at_home_there_without_a_new_route() -> None:
    async with world(2) as fleet:
        fleet.join(0, 1, "plant/a")
        await fleet.agree(1)
        await asyncio.gather(*(each._routes.swap_all((1,)) for each in fleet.brokers))
        epochs = [each._routes.epoch(1) for each in fleet.brokers]
        fleet.join(1, 1, "plant/a")
        one = fleet.brokers[0]

        async def wait() -> None:
            while one._registry.lease_of(Holder("10.0.0.2", 5000, 2)).home != "b2":  # type: ignore[union-attr]
                await asyncio.sleep(0.01)

        await in_time(wait(), LIMIT)
        await fleet.agree(1)
        assert [each._routes.epoch(1) for each in fleet.brokers] == epochs


async def test_members_of_the_brokers_zone_go_first_as_long_as_there_are_any() -> None:
    topics = (replace(TOPICS[0], prefer=Prefer.ZONE), TOPICS[1])
    async with world(3, topics=topics) as fleet:

        async def served(topic: int, *wanted: tuple[int, ...]) -> None:
            """Each broker comes to send a topic to these members of the group, by number."""

            def now(broker: Broker) -> list[int]:
                await_swap = broker._routes.is_due(topic)
                groups = broker._routes.states[topic].route.groups
                return [-1] if await_swap else sorted(
                    int(member.ip.rpartition(".")[2]) - 1 for group in groups for member in group.members
                )  # fmt: skip

            async def wait() -> None:
                while [now(each) for each in fleet.brokers] != [list(each) for each in wanted]:
                    for each in fleet.brokers:
                        await each._routes.swap_all([topic])
                    await asyncio.sleep(0.01)

            try:
                await in_time(wait(), LIMIT)
            except asyncio.TimeoutError:
                pytest.fail(str([now(each) for each in fleet.brokers]))

        # Brokers 0 and 1 are in the north, 2 is in the south; members 8 and 16 are of one group.
        for number, at in ((8, 0), (16, 2)):
            for topic in topics:
                fleet.join(at, number, topic.name)
        await served(2, (8, 16), (8, 16), (8, 16))
        await served(1, (8,), (8,), (16,))
        assert fleet.brokers[0].topic("plant/a")["passed_over"] == {"g0": 1}
        assert fleet.brokers[0].topic("plant/b")["passed_over"] == {}
        # Its home is another one: so is its zone.
        fleet.join(2, 8, "plant/a")
        fleet.join(2, 8, "plant/b")
        await served(1, (8, 16), (8, 16), (8, 16))
        fleet.join(1, 8, "plant/a")
        await served(1, (8,), (8,), (16,))
        # There is nobody near.
        fleet.leave(1, 8)
        await served(1, (16,), (16,), (16,))
        assert fleet.brokers[0].topic("plant/a")["passed_over"] == {}
