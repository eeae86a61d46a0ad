"""Brokers of one fleet in one process, over a store with delays that is cut off, away and compacted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from support.ports import free_ports
from support.waiting import LIMIT
from tempos import Framing, Quality, TemposError, Topic
from tempos._awaitables import in_time
from tempos_broker.account.accounts import Holder
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, FleetConfig, TopicConfig
from tempos_broker.fleet.memory import LocalRegistry, Memory
from tempos_broker.paths import NoFastPath

#: The options of what was made at run time.
Made = dict[str, Any]
TOPICS = (
    Topic(1, "plant/a", Quality.SQ, framing=Framing.EVENT),
    Topic(2, "plant/b", Quality.BQ, framing=Framing.EVENT),
)


def endpoint(number: int) -> tuple[str, int]:
    return f"10.0.{number // 200}.{number % 200 + 1}", 5000


def holder(number: int) -> Holder:
    return Holder(*endpoint(number), number + 1)


class World:
    """``brokers`` over one memory, each by an end of its own, which takes up to ``delay`` seconds."""

    def __init__(
        self, delay: float, topics: tuple[Topic, ...] = TOPICS, share: tuple[str, ...] = ("topics",)
    ) -> None:
        self._share = share
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
            fleet=FleetConfig(
                "sim",
                ("http://nowhere:1",),
                lease=5,
                zone="north" if number < 3 else "south",
                share=self._share,
            ),
        )
        end = LocalRegistry(self.memory, lambda: self.random.uniform(0, self._delay))
        broker = Broker(config, NoFastPath("a test"), registry=end)
        self.ends.append(end)
        self.brokers.append(broker)
        return broker

    def join(self, at: int, number: int, wanted: str = "plant/#") -> None:
        """A member that hears all brokers subscribes at one."""
        members, now, asked = self.brokers[at]._registry, self.now, f"127.0.78.{at + 1}"
        where = endpoint(number)
        if "#" in wanted:
            topics = members.subscribe_by(wanted, f"g{number % 8}", where, number + 1, now, asked)
            members.join(holder(number), topics, now)
        else:
            members.subscribe(wanted, f"g{number % 8}", where, number + 1, now, asked, follows=True)
        lease = members.lease_of(holder(number))
        assert lease is not None
        lease.hears = tuple(each.fleet.me.number for each in self.brokers if each.fleet is not None)
        members.holdings.wants.touch(lease.holder)

    def disturb(self, chance: random.Random, of: int) -> bool:
        """Cut a broker off or join it again, take the store away or give it back, or compact it.

        One time of ``of`` each; whether it was done.
        """
        match chance.randrange(of):
            case 0:
                end = chance.choice(self.ends)
                end.cut = not end.cut
            case 1:
                self.memory.down = not self.memory.down
            case 2:
                self.memory.compact()
            case _:
                return False
        return True

    def calm(self) -> None:
        """All reach the store."""
        self.memory.down = False
        for end in self.ends:
            end.cut = False

    async def disturbed(
        self, chance: random.Random, order: Callable[[Broker, int], Awaitable[object]]
    ) -> None:
        """Have brokers carry out such orders about one of six, while the store comes and goes; then calm."""
        done = 0

        async def carry_out(broker: Broker) -> None:
            nonlocal done
            with contextlib.suppress(TemposError):
                await order(broker, chance.randrange(6))
                done += 1

        orders: set[asyncio.Task[None]] = set()
        turns = 0
        while turns < 200 or done < 20:
            turns += 1
            if not self.disturb(chance, 60):
                orders.add(asyncio.create_task(carry_out(chance.choice(self.brokers))))
            await asyncio.sleep(0.01)
        self.calm()
        await asyncio.gather(*orders)

    async def come_to_the_same(self, kind: str, made: Callable[[Broker], dict[str, Made]]) -> None:
        """Wait until all have the same of a kind that is made at run time, and nothing is left to be done."""

        def alike() -> bool:
            first, *others = map(made, self.brokers)
            return all(each == first for each in others) and all(
                each.fleet is not None
                and each.fleet.away is None
                and not each.fleet.view.made[kind].changed
                # What is as told is said to be lacking until its order has ended.
                and not lacking(each, kind)
                for each in self.brokers
            )

        await come_to(alike, lambda: [(made(each), lacking(each, kind)) for each in self.brokers])

    async def agree_on(self, kind: str, made: Callable[[Broker], dict[str, Made]], *names: str) -> None:
        """Wait until all have these of a kind, and alike."""

        def had() -> list[dict[str, Made]]:
            return [made(each) for each in self.brokers]

        await come_to(
            lambda: all(each == had()[0] and each.keys() == set(names) for each in had()),
            lambda: (had(), [lacking(each, kind) for each in self.brokers]),
        )

    def heartbeat(self, at: int, number: int, wanted: str) -> None:
        """A member says where it is at home, and is one again if its broker thinks otherwise."""
        lease = self.brokers[at]._registry.lease_of(holder(number))
        if lease is None or lease.home:
            self.join(at, number, wanted)

    def leave(self, at: int, number: int) -> None:
        self.brokers[at]._registry.goodbye(endpoint(number), number + 1)

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


def lacking(broker: Broker, kind: str) -> dict[str, str]:
    """What of the fleet is not at a broker as it is elsewhere, and why."""
    assert broker.fleet is not None
    return dict(broker.fleet.shares[kind].lacking)


async def come_to(is_so: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait until it is so; ``what`` is said if it does not come to that."""

    async def wait() -> None:
        while not is_so():
            await asyncio.sleep(0.01)

    try:
        await in_time(wait(), LIMIT)
    except asyncio.TimeoutError:
        pytest.fail(str(what()))


@asynccontextmanager
async def world(
    brokers: int,
    delay: float = 0.01,
    topics: tuple[Topic, ...] = TOPICS,
    *,
    revision: int = 1,
    share: tuple[str, ...] = ("topics",),
) -> AsyncIterator[World]:
    """``revision``: where that of the store stands at first; ``share``: see :class:`FleetConfig`."""
    made = World(delay, topics, share)
    made.memory.revision = revision
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        for number in range(1, brokers + 1):
            await stack.enter_async_context(made.broker(number, ports))

        async def wait() -> None:
            while any(each.fleet is None or len(each.fleet.view.brokers) < brokers for each in made.brokers):
                await asyncio.sleep(0.01)

        await in_time(wait(), LIMIT)
        yield made
