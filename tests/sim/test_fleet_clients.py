"""Clients made at run time at one broker of a fleet are those of all, whatever becomes of the store."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support import fleet_world
from support.asking import outcome, signed
from support.fleet_world import World, come_to, world

from tempos import Key, auth
from tempos.control import Code
from tempos.doctor.serving import look
from tempos_broker.broker import Broker
from tempos_broker.config.clients import document_of
from tempos_broker.config.model import ClientConfig
from tempos_broker.fleet import rows
from tempos_broker.fleet.registry import Write
from tempos_broker.topics.orders import Conflict, NotKept

BOTH = ("topics", "keys")


def key(number: int) -> str:
    return bytes([number] * 16).hex()


def made(broker: Broker) -> dict[str, dict[str, Any]]:
    """What was made at run time, by id, keys and all."""
    return {client.id: document_of(client) for client in broker._clients.made()}


def lacking(broker: Broker) -> dict[str, str]:
    """Those of the fleet that are not at a broker as they are elsewhere, and why."""
    return fleet_world.lacking(broker, rows.CLIENTS)


def asks(broker: Broker, client: str, number: int) -> str:
    """What comes of a request that is signed with this key."""
    assert broker.fleet is not None
    signing = Key(client, bytes.fromhex(key(number)))
    request = signed(signing, auth.addressee_of(broker.fleet.name, broker.fleet.me.name))
    decision = broker._control.receive_datagram(request, "127.0.0.1", 0.0)
    answer = None if decision is None else broker._control.render(decision)
    assert answer is not None
    return outcome(signing, answer)


async def agree(fleet: World, *ids: str) -> None:
    """All have these, and alike."""
    await fleet.agree_on(rows.CLIENTS, made, *ids)


async def away(broker: Broker) -> None:
    await come_to(lambda: broker.fleet is not None and broker.fleet.away is not None, lambda: "not away")


async def test_what_is_ordered_at_one_broker_is_in_force_at_all_when_it_is_answered() -> None:
    async with world(3, share=BOTH) as fleet:
        one, two, three = fleet.brokers
        # Closed from the first moment on, before anybody has a key.
        assert all(each.documents.clients() == {"signed": True, "clients": []} for each in fleet.brokers)
        told = await one.add_client({"id": "a", "key": key(1), "publish": ["plant/#"]})
        assert told == {
            "id": "a", "origin": "run-time", "publish": ["plant/#"], "subscribe": [], "durable": False,
        }  # fmt: skip
        assert [asks(each, "a", 1) for each in fleet.brokers] == ["taken"] * 3
        await two.set_client("a", {"key": key(2), "publish": None, "subscribe": ["*"]})
        for each in fleet.brokers:
            assert (asks(each, "a", 1), asks(each, "a", 2)) == (Code.NOT_ALLOWED, "taken")
            assert made(each)["a"] == {"id": "a", "key": key(2), "publish": [], "subscribe": ["*"]}
        with pytest.raises(Conflict, match="the key is that of client 'a'"):
            await three.add_client({"id": "b", "key": key(2)})
        with pytest.raises(Conflict, match="always demand signatures"):
            await three.demand_signatures(signatures=False)
        await three.remove_client("a")
        assert [asks(each, "a", 2) for each in fleet.brokers] == [Code.NOT_ALLOWED] * 3
        assert all(each.documents.clients() == {"signed": True, "clients": []} for each in fleet.brokers)


async def test_who_was_away_brings_nobody_back_and_refuses_orders() -> None:
    async with world(2, share=BOTH) as fleet:
        one, two = fleet.brokers
        for number, client in enumerate(("stays", "goes"), 1):
            await one.add_client({"id": client, "key": key(number)})
        await agree(fleet, "stays", "goes")
        fleet.ends[1].cut = True
        await away(two)
        await one.remove_client("goes")
        await one.set_client("stays", {"key": key(3)})
        for order in (two.add_client({"id": "x", "key": key(9)}), two.remove_client("stays")):
            with pytest.raises(NotKept, match="away"):
                await order
        assert asks(two, "goes", 2) == "taken"
        fleet.ends[1].cut = False
        await agree(fleet, "stays")
        assert (asks(two, "goes", 2), asks(two, "stays", 3)) == (Code.NOT_ALLOWED, "taken")
        # Another one has its key meanwhile: it goes before that one comes.
        fleet.ends[1].cut = True
        await away(two)
        await one.remove_client("stays")
        await one.add_client({"id": "a", "key": key(3)})
        fleet.ends[1].cut = False
        await agree(fleet, "a")
        assert "is not here as" not in str(two.documents.changed())
        await one.remove_client("a")
        await agree(fleet)
        # No mark of a removed client goes with time.
        fleet_clients = one._client_orders
        fleet_clients._clock = lambda: 1e12  # type: ignore[union-attr]
        await one.add_client({"id": "z", "key": key(4)})
        await one.remove_client("z")
        assert {name for name in fleet.memory.entries if name.startswith(rows.CLIENTS)} == {
            f"{rows.CLIENTS}{name}" for name in ("stays", "goes", "a", "z")
        }


async def test_what_a_brokers_own_file_says_otherwise_is_told() -> None:
    async with world(2, share=BOTH) as fleet:
        one, two = fleet.brokers
        own = ClientConfig("own", bytes.fromhex(key(1)), publish=("a",))
        control = two.config.control
        await two.reload(replace(two.config, control=replace(control, clients=(own,))))
        with pytest.raises(Conflict, match="stands in the configuration file"):
            await two.remove_client("own")
        await one.add_client({"id": "own", "key": key(2), "publish": ["a"]})
        await come_to(lambda: "own" in lacking(two), lambda: lacking(two))
        assert lacking(two)["own"].startswith("the file has client 'own' with another key")
        assert key(1) not in lacking(two)["own"]
        assert key(2) not in lacking(two)["own"]
        assert two.fleet is not None
        assert two.fleet.document()["lacks_clients"][0]["name"] == "own"

        def lacks() -> int:
            assert one.fleet is not None
            brokers = {each["name"]: each for each in one.fleet.document()["brokers"]}
            return int(brokers["b2"]["lacks_clients"])

        await come_to(lambda: lacks() == 1, lacks)
        # Whichever is asked, the doctor says who lacks whom.
        for broker, subject in ((one, "b2"), (two, "b2 own")):
            told = look({**broker.documents.status_head(), "topics": []})
            # Who is behind for a moment may be told, too.
            assert [each.subject for each in told if each.check != "TD425"] == [subject]
            assert {each.check for each in told} <= {"TD423", "TD425"}
        # Both the same, and nothing is lacking; gone from the file it is the fleet's.
        both = replace(own, key=bytes.fromhex(key(2)))
        await two.reload(replace(two.config, control=replace(control, clients=(both,))))
        await come_to(lambda: lacks() == 0, lacks)
        assert made(two) == {}
        await two.reload(replace(two.config, control=control))
        await come_to(lambda: made(two) == made(one), lambda: made(two))
        assert lacking(two) == {}


async def test_a_value_in_the_store_that_makes_no_sense_makes_nobody() -> None:
    async with world(2, share=BOTH) as fleet:
        one, two = fleet.brokers
        await one.add_client({"id": "a", "key": key(1)})
        end = fleet.ends[0]
        for name, value in (
            ("b", b"no json"), ("c", b'{"options": {"id": "other"}}'), ("d", b'{"removed": true}'),
            ("e", b'{"options": {"id": "e", "key": "ab"}}'), ("*", b'{"options": {"id": "*"}}'),
        ):  # fmt: skip
            await end.write([Write(rows.CLIENTS + name, value)])
        await come_to(lambda: lacking(two).keys() == {"e", "*"}, lambda: lacking(two))
        assert "not shown: a secret" in lacking(two)["e"]
        await agree(fleet, "a")


async def test_keys_stay_at_their_broker_unless_they_are_shared() -> None:
    async with world(2) as fleet:
        one, two = fleet.brokers
        with pytest.raises(Conflict, match="keeps no state"):
            await one.add_client({"id": "a", "key": key(1)})
        await one.demand_signatures(signatures=True)
        await one.add_client({"id": "a", "key": key(1)})
        await one.add_topic({"name": "x"})
        assert (list(made(one)), list(made(two))) == (["a"], [])
        assert not [name for name in fleet.memory.entries if name.startswith(rows.CLIENTS)]
        assert two.documents.clients()["signed"] is False


async def test_whatever_becomes_of_the_store_all_have_the_same_clients_in_the_end() -> None:
    async with world(3, delay=0.02, share=BOTH) as fleet:
        chance = random.Random(6)

        async def order(broker: Broker, number: int) -> None:
            client = f"c{number}"
            match chance.randrange(3):
                case 0:
                    await broker.remove_client(client)
                case 1:
                    await broker.set_client(client, {"key": key(16 * number + chance.randrange(16))})
                case _:
                    await broker.add_client({"id": client, "key": key(16 * number)})

        await fleet.disturbed(chance, order)
        await fleet.come_to_the_same(rows.CLIENTS, made)
        row_of: Callable[[str], rows.MadeRow | None] = lambda name: rows.made_in(  # noqa: E731
            rows.CLIENTS, name, fleet.memory.entries[rows.CLIENTS + name].value
        )
        told = [
            name.removeprefix(rows.CLIENTS) for name in fleet.memory.entries if name.startswith(rows.CLIENTS)
        ]
        there = {name: row.document for name in told if (row := row_of(name)) and row.document is not None}
        await agree(fleet, *there)
        assert made(fleet.brokers[0]) == there
        assert not any(map(lacking, fleet.brokers))
