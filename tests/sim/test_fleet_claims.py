"""What is one topic's or client's alone is so in a fleet, whoever is asked at once, whatever interferes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from support.fleet_world import World, come_to, world
from support.ports import free_ports

from tempos_broker.broker import Broker
from tempos_broker.config.clients import document_of
from tempos_broker.config.model import Origin
from tempos_broker.fleet import claims, rows
from tempos_broker.fleet.registry import Away
from tempos_broker.topics.orders import Conflict, NotKept

Answers = list[Any]


def made(broker: Broker) -> dict[str, dict[str, Any]]:
    """What was made at run time, by name, as a file would have it."""
    return {each["options"]["name"]: each["options"] for each in broker.documents.options(Origin.RUN_TIME)}


def claimed(fleet: World) -> set[str]:
    """What is claimed in the store."""
    return {key for key in fleet.memory.entries if key.startswith(rows.CLAIMS)}


@pytest.fixture(autouse=True)
def _as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No claim ends by itself."""
    monkeypatch.setattr(claims, "LASTS", 1e6)


async def agree(fleet: World, *names: str) -> None:
    await fleet.agree_on(rows.TOPICS, made, *names)


async def at_once(fleet: World, order: Callable[[int, Broker], Awaitable[object]]) -> Answers:
    """Ask every broker so, and all at once."""
    orders = (order(at, each) for at, each in enumerate(fleet.brokers))
    return await asyncio.gather(*orders, return_exceptions=True)


def winner(answers: Answers, what: str) -> int:
    """Which one was not refused for that."""
    refused = [each for each in answers if isinstance(each, BaseException)]
    assert len(refused) == len(answers) - 1
    assert all(isinstance(each, Conflict) and what in str(each) for each in refused), refused
    (won,) = (at for at, each in enumerate(answers) if not isinstance(each, BaseException))
    return won


async def test_a_port_is_given_once_and_is_free_as_soon_as_its_topic_has_it_no_more() -> None:
    one, two, three = free_ports(3)
    async with world(3, delay=0.05) as fleet:
        came = await at_once(fleet, lambda at, each: each.add_topic({"name": f"p{at}", "ports": [one]}))
        won = winner(came, f"port {one}")
        await agree(fleet, f"p{won}")
        # By options that are changed, too; those who lose have what they had.
        for at, each in enumerate(fleet.brokers):
            await each.add_topic({"name": f"q{at}", "ports": [free_ports(1)[0]]})
        before = made(fleet.brokers[0])
        came = await at_once(fleet, lambda at, each: each.set_topic(f"q{at}", {"ports": [two, three]}))
        changed = f"q{winner(came, f'port {three}')}"
        await agree(fleet, f"p{won}", "q0", "q1", "q2")
        before[changed]["ports"] = [two, three]
        assert made(fleet.brokers[0]) == before
        await fleet.brokers[0].set_topic(changed, {"ports": [two]})
        await fleet.brokers[1].add_topic({"name": "next", "ports": [three]})
        await fleet.brokers[0].remove_topic(f"p{won}")
        await fleet.brokers[2].set_topic("next", {"ports": [one]})
        assert made(fleet.brokers[1])["next"]["ports"] == [one]


async def test_however_many_are_made_at_once_each_has_an_id() -> None:
    async with world(3, delay=0.02) as fleet:
        names = [[f"t{at}/{number}" for number in range(20)] for at in range(3)]
        await at_once(
            fleet, lambda at, each: asyncio.gather(*(each.add_topic({"name": name}) for name in names[at]))
        )
        await agree(fleet, *(name for some in names for name in some))
        ids = [each["id"] for each in made(fleet.brokers[0]).values()]
        assert len(set(ids)) == 60


async def test_a_key_is_one_clients() -> None:
    async with world(3, delay=0.05, share=("topics", "keys")) as fleet:
        key = bytes(range(16)).hex()
        came = await at_once(fleet, lambda at, each: each.add_client({"id": f"c{at}", "key": key}))
        won = winner(came, "the key was given to another client")

        def clients(broker: Broker) -> dict[str, dict[str, Any]]:
            return {client.id: document_of(client) for client in broker._clients.made()}

        await fleet.agree_on(rows.CLIENTS, clients, f"c{won}")
        assert not any(key in each for each in claimed(fleet))
        await fleet.brokers[won].set_client(f"c{won}", {"key": key[::-1]})
        await fleet.brokers[won - 1].add_client({"id": "next", "key": key})


async def test_who_loses_the_name_gives_back_what_it_had_claimed() -> None:
    ports = free_ports(3)
    async with world(3, delay=0.05) as fleet:
        came = await at_once(fleet, lambda at, each: each.add_topic({"name": "x", "ports": [ports[at]]}))
        won = winner(came, "topic 'x'")
        await agree(fleet, "x")
        assert not claimed(fleet)
        await fleet.brokers[won].add_topic({"name": "y", "ports": [ports[won - 1], ports[won - 2]]})
        await agree(fleet, "x", "y")


async def test_no_change_undoes_one_that_was_heard_of_and_is_not_in_force_yet() -> None:
    async with world(2, delay=0.01) as fleet:
        one, two = fleet.brokers
        await one.add_topic({"name": "x"})
        for rate in range(1, 9):
            assert two.fleet is not None
            heard = two.fleet.view.written[f"{rows.TOPICS}x"]
            change = asyncio.ensure_future(one.set_topic("x", {"rate": rate}))
            while two.fleet.view.written[f"{rows.TOPICS}x"] == heard:
                await asyncio.sleep(0)
            other = await asyncio.gather(two.set_topic("x", {"priority": rate % 8}), return_exceptions=True)
            await change
            if isinstance(other[0], BaseException):
                assert "changed at another broker" in str(other[0])
            await agree(fleet, "x")
            assert made(two)["x"]["rate"] == rate


async def test_who_gives_up_waiting_leaves_no_claim_behind() -> None:
    """Whatever the store is asked for just then: the lease, the claims, the topic itself."""
    ports = free_ports(3)
    async with world(2, delay=0.01) as fleet:
        one, two = fleet.brokers
        end: Any = fleet.ends[0]
        calls = {"grant": end.grant, "write": end.write}
        asked, at, late = 0, 0, False
        order: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def called(name: str, *arguments: Any, **more: Any) -> Any:
            nonlocal asked
            is_ours = name == "grant" or arguments[0][0].key.startswith((*rows.CLAIMS, rows.TOPICS))
            asked += is_ours
            if is_ours and asked == at:
                done = await calls[name](*arguments, **more) if late else None
                order.cancel()
                await asyncio.sleep(0)
                return done
            return await calls[name](*arguments, **more)

        for name in calls:
            setattr(end, name, partial(called, name))
        for at, late in itertools.product((1, 2, 3), (False, True)):
            asked = 0
            order = asyncio.ensure_future(one.add_topic({"name": "x", "ports": ports}))
            with pytest.raises(asyncio.CancelledError):
                await order
            at = 0
            await come_to(lambda: not claimed(fleet), lambda: claimed(fleet))
            # All have it, or nobody.
            made_at_all = asked == 3 and late
            await agree(fleet, *(["x"] if made_at_all else []))
            if made_at_all:
                await two.remove_topic("x")
            await two.add_topic({"name": "y", "ports": ports})
            await two.remove_topic("y")


async def test_what_could_not_be_given_back_for_the_store_was_away_is_once_it_is_back() -> None:
    (port,) = free_ports(1)
    async with world(2) as fleet:
        one, two = fleet.brokers
        end, write = fleet.ends[0], fleet.ends[0].write

        async def lost(*arguments: Any, **more: Any) -> Any:
            # It is done, and nobody is told.
            await write(*arguments, **more)
            if arguments[0][0].key.startswith(rows.CLAIMS):
                fleet.memory.down = True
                raise Away("just now")

        end.write = lost  # type: ignore[method-assign]
        with pytest.raises(NotKept, match="away"):
            await one.add_topic({"name": "x", "ports": [port]})
        end.write = write  # type: ignore[method-assign]
        assert len(claimed(fleet)) == 2
        fleet.memory.down = False
        await come_to(lambda: not claimed(fleet), lambda: claimed(fleet))
        await come_to(lambda: two.fleet is not None and two.fleet.away is None, lambda: "")
        await two.add_topic({"name": "y", "ports": [port]})
        await agree(fleet, "y")


async def test_whatever_becomes_of_the_store_nothing_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LASTS", 10.0)
    ports = free_ports(5)
    async with world(3, delay=0.02) as fleet:
        chance = random.Random(1)

        async def order(at: int, broker: Broker) -> None:
            name, wanted = f"t{at}", chance.sample(ports, chance.randrange(1, 3))
            if not made(broker).get(name):
                await broker.add_topic({"name": name, "id": 300 + chance.randrange(9), "ports": wanted})
            elif chance.randrange(4):
                await broker.set_topic(name, {"ports": wanted})
            else:
                await broker.remove_topic(name)

        given = 0
        for _ in range(20):
            orders = asyncio.ensure_future(at_once(fleet, order))
            while not orders.done():
                fleet.disturb(chance, 30)
                await asyncio.sleep(0.005)
            fleet.calm()
            await fleet.come_to_the_same(rows.TOPICS, made)
            there = made(fleet.brokers[0]).values()
            had = [port for each in there for port in each["ports"]]
            assert len(set(had)) == len(had), "no port is two topics'"
            assert len({each["id"] for each in there}) == len(there)
            given += len(had)
        assert given
