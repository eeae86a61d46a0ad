"""Losses between publisher and broker, over real sockets with a lossy way between them: told to the event."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.ports import free_ports

from tempos import (
    Framing,
    LocalError,
    PathPolicy,
    Publisher,
    PublisherAccount,
    Quality,
    Subscriber,
    Topic,
    blocking,
)
from tempos.cli import ledger as ledger_command
from tempos.cli import status as status_command
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig

from .test_broker import Client, FakeFastPath, until

EVENTS = Topic(1, "events", Quality.BQ, 0, Framing.EVENT, PathPolicy.SLOW)
PLAIN = Topic(2, "plain", Quality.BQ, 0, Framing.RAW, PathPolicy.SLOW)


class Lossy(asyncio.DatagramProtocol):
    """Hands datagrams on to a port; which of them, by number, is asked of ``passes``."""

    def __init__(self, port: int, passes: Callable[[int], bool]) -> None:
        self._to = ("127.0.0.1", port)
        self._passes = passes
        self.came = self.lost = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.came += 1
        if self._passes(self.came - 1):
            self._transport.sendto(data, self._to)
        else:
            self.lost += 1


@dataclass
class World:
    broker: Broker
    way: Lossy

    def publisher(self, **options: Any) -> Publisher:
        config = self.broker.config
        return Publisher("127.0.0.1", data_port=self.way.port, control_port=config.control_port, **options)

    def subscriber(self, group: str | None = None, topic: str = "events") -> Subscriber:
        port = self.broker.config.control_port
        return Subscriber("127.0.0.1", topic, group=group, control_port=port)

    def account(self, topic: str = "events") -> dict[str, Any]:
        found: dict[str, Any] = next(t for t in self.broker.ledger()["topics"] if t["name"] == topic)
        assert found["balanced"], found["problems"]
        return found

    def publishers(self) -> dict[int, dict[str, Any]]:
        return {row["publisher"]: row for row in self.account()["publishers"]}

    def sent(self, publisher: int) -> int | None:
        """What it says; None as long as it says nothing."""
        row = self.publishers().get(publisher)
        return row["sent"] if row is not None and row["tells"] else None

    def bounds(self, publisher: int) -> tuple[int, int | None] | None:
        """At least and at most, once both are the last word."""
        row = self.publishers().get(publisher)
        if row is None or (row["tells"] and row["at_most"] is not None and not row["settled"]):
            return None
        return row["at_least"], row["at_most"]


@asynccontextmanager
async def world(passes: Callable[[int], bool]) -> AsyncIterator[World]:
    data, control, _ = free_ports(3)
    config = BrokerConfig(
        (TopicConfig(EVENTS), TopicConfig(PLAIN)),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        control=ControlConfig(heartbeat=0.05),
    )
    async with Broker(config, FakeFastPath()) as broker:
        transport, way = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Lossy(data, passes), local_addr=("127.0.0.1", 0)
        )
        try:
            yield World(broker, way)
        finally:
            transport.close()


def dropping(*lost: int) -> Callable[[int], bool]:
    return lambda number: number not in lost


async def publish(pub: Publisher, count: int, topic: str = "events") -> None:
    for number in range(count):
        await pub.publish(topic, b"%d" % number)
        # Loopback has no flow control, and the way takes one a turn.
        await asyncio.sleep(0)


def of(sub: Subscriber, publisher: int) -> PublisherAccount:
    (found,) = [each for each in sub.publishers if each.publisher == publisher]
    return found


@pytest.mark.parametrize("ends", [(), (0, 1), (599, 598), (0, 599)])
async def test_25_of_600_are_told_by_the_broker_and_by_who_got_the_rest(ends: tuple[int, ...]) -> None:
    middle = random.Random(7).sample(range(2, 598), 25 - len(ends))
    async with world(dropping(*ends, *middle)) as here:
        async with here.subscriber() as own, here.subscriber("one") as one:
            async with here.subscriber("two") as a, here.subscriber("two") as b, here.publisher() as pub:
                await publish(pub, 600)
                await until(lambda: here.way.came == 600)
            await until(lambda: here.bounds(pub.id) == (25, 25))
            await until(lambda: list(here.publishers()[pub.id]["received"].values()) == [575] * 3)
            row = here.publishers()[pub.id]
            assert (row["sent"], row["datagrams"], row["final"], row["whole"]) == (600, 600, True, True)
            # What the publisher said comes with the next heartbeat.
            await until(lambda: of(own, pub.id).at_most == 25)
            assert (of(a, pub.id).at_most, of(b, pub.id).lost_before) == (None, None)
            assert of(a, pub.id).events + of(b, pub.id).events == 575
            lost = next(t for t in here.broker.status()["topics"] if t["name"] == "events")["lost_before"]
            assert (lost["sent"], lost["at_least"], lost["at_most"]) == (600, 25, 25)
            text = "\n".join(status_command.render(here.broker.status()))
            assert "of 600 events sent 25 never drew a ticket" in text
        # At the end nothing is on its way any more.
        assert (of(own, pub.id).events, of(own, pub.id).lost_before) == (575, 25)
        # Who named its group may have joined one that had members: of the ends it says nothing.
        inner = 25 - len(ends)
        assert of(one, pub.id).at_least <= inner + sum(end > 300 for end in ends)
        lines = list(ledger_command.render(here.broker.ledger()))
        at = next(number for number, line in enumerate(lines) if "never ticketed" in line)
        assert lines[at + 1].split() == [str(pub.id), "(127.0.0.1)", "600", "575", "25"]
        # The group is gone; what it knew is not.
        assert here.bounds(pub.id) == (25, 25)


async def test_batches_are_told_by_their_events() -> None:
    async with world(dropping(1, 3)) as here, here.subscriber() as own:
        async with here.publisher() as pub:
            for size in (10, 7, 1, 5, 4):
                async with pub.batch():
                    await publish(pub, size)
            await until(lambda: here.way.came == 5)
        await until(lambda: here.bounds(pub.id) == (12, 12))
        row = here.publishers()[pub.id]
        assert (row["sent"], row["datagrams"]) == (27, 5)
        await own.drain(5)
        assert (of(own, pub.id).events, of(own, pub.id).datagrams, of(own, pub.id).lost_before) == (15, 3, 12)


async def test_several_publishers_are_told_apart() -> None:
    chance = random.Random(3)
    async with world(lambda number: chance.random() >= 0.1) as here, here.subscriber() as own:
        pubs = [here.publisher() for _ in range(3)]
        async with here.subscriber("g"), here.subscriber("g"), pubs[0], pubs[1], pubs[2]:
            for number in range(200):
                for pub in pubs[: 1 + number % 3]:
                    await pub.publish("events", number)
                    await asyncio.sleep(0)
            await until(lambda: here.way.came == 200 + 133 + 66)
            for pub in pubs:
                await pub.close()
            await until(lambda: here.account()["lost_before"]["settled"])
            lost = here.account()["lost_before"]
            assert (lost["at_least"], lost["at_most"]) == (here.way.lost, here.way.lost)
            got = {pub.id: here.bounds(pub.id) for pub in pubs}
    assert {each.publisher: (each.at_least, each.at_most) for each in own.publishers} == got
    assert sum(each.at_least for each in own.publishers) == here.way.lost


async def test_while_events_flow_it_is_told_as_far_as_members_have_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(dropping(10, 20, 99)) as here, here.subscriber() as own:
        async with here.publisher() as pub:
            await publish(pub, 100)
            await until(lambda: here.bounds(pub.id) == (2, 2))
            assert not here.publishers()[pub.id]["tells"]
            assert of(own, pub.id).lost_before == 2
        # From its first word on, the broker says how often it wants to hear.
        monkeypatch.setattr("tempos.sending.telling.EVERY", 0.01)
        async with here.publisher() as pub:
            for total in (50, 100):
                await publish(pub, 50)
                await until(lambda total=total: here.sent(pub.id) == total)  # type: ignore[misc]
                await until(lambda: here.bounds(pub.id) == (0, 0))
            row = here.publishers()[pub.id]
            assert (row["tells"], row["final"], row["whole"]) == (True, False, True)


async def test_a_publisher_that_tells_nothing_is_known_by_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempos.sending.telling.Telling.begin", lambda self, link: None)
    async with world(dropping(0, 10, 99)) as here, here.subscriber() as own:
        async with here.publisher() as pub:
            await publish(pub, 100)
            await until(lambda: here.way.came == 100)
        # Of those it has been told of; heartbeats tell of more and more of them.
        await until(lambda: here.publishers().get(pub.id, {}).get("sent") == 98)
        assert here.bounds(pub.id) == (1, 1)
        row = here.publishers()[pub.id]
        assert (row["tells"], row["whole"], row["ip"]) == (False, False, None)
        assert here.account()["lost_before"]["at_most"] is None
        await own.drain(5)
        assert (of(own, pub.id).first, of(own, pub.id).next, of(own, pub.id).lost_before) == (1, 99, 1)


async def test_a_member_that_tells_nothing_of_publishers_is_served_and_says_nothing() -> None:
    async with world(dropping(3)) as here:
        client = Client(here.broker)
        client.ask("subscribe", topic="events", group="g", port=client.port)
        answer = await client.answer()
        async with here.publisher() as pub:
            await publish(pub, 10)
            for _ in range(9):
                await client.event()
            received = [(1, "g", answer["epoch"] & 0xFF, 9)]
            client.ask("heartbeat", port=client.port, received=received)
            assert await client.answer() == {}
        assert here.account()["groups"][0]["delivered"] == 9
        # As many as came in are one less than were sent; more nobody can tell.
        await until(lambda: here.bounds(pub.id) == (1, None))
        client.close()


async def test_of_a_raw_topic_it_is_known_how_many_came_in() -> None:
    async with world(dropping(3, 4)) as here, here.subscriber(topic="plain") as own:
        async with here.publisher() as pub:
            await publish(pub, 10, "plain")
            await until(lambda: own.stats.datagrams == 8)
        account = here.account("plain")
        assert (account["lost_before"]["at_least"], account["lost_before"]["at_most"]) == (2, None)
        assert own.publishers == ()


async def test_what_a_publisher_could_not_send_is_not_lost_on_the_way() -> None:
    async with world(dropping(2)) as here, here.subscriber() as own:
        async with here.publisher() as pub:
            await publish(pub, 5)
            real, pub._socket = pub._socket, NoRoute(pub._socket)
            for _ in range(2):
                with pytest.raises(LocalError, match="No route to host"):
                    await pub.publish("events", b"x")
            pub._socket = real
            await publish(pub, 5)
            await until(lambda: here.way.came == 10)
            assert pub.stats.events == 10
        await until(lambda: here.bounds(pub.id) == (1, 1))
        row = here.publishers()[pub.id]
        assert (row["sent"], row["datagrams"]) == (10, 10)
        await own.drain(5)
        assert of(own, pub.id).lost_before == 1


class NoRoute:
    """A socket whose network is gone."""

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def send(self, datagram: bytes) -> int:
        raise OSError(113, "No route to host")


async def test_the_commands_and_the_blocking_clients_tell_the_same() -> None:
    async with world(dropping(5, 6, 7)) as here:
        control = ("--control-port", str(here.broker.config.control_port))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tempos", "sub", *control, "-t", "events", "--json", "--stats",
            "--count", "17", "--timeout", "60",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        await process.stderr.readline()
        sub = blocking.Subscriber("127.0.0.1", "events", control_port=here.broker.config.control_port)
        await asyncio.to_thread(sub.__enter__)
        publishing = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tempos", "pub", *control, "--data-port", str(here.way.port),
            "-t", "events", "-m", "x", "--count", "20",
        )  # fmt: skip
        assert await publishing.wait() == 0
        await until(lambda: sub.stats.datagrams == 17)
        await asyncio.to_thread(sub.close)
        (account,) = sub.publishers
        assert (account.events, account.lost_before) == (17, 3)
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert len(out.splitlines()) == 17
        (told,) = json.loads(err)["publishers"]
        assert (told["publisher"], told["events"], told["lost_before"]) == (account.publisher, 17, 3)
        assert here.bounds(account.publisher) == (3, 3)


async def test_a_closing_publisher_waits_for_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("tempos.sending.telling.CLOSING", 0.2)
    async with world(dropping()) as here:
        pub = here.publisher()
        await pub.__aenter__()
        await publish(pub, 5)
        for each in list(here.broker._port._sockets):
            each.close()
        began = loop.time()
        await pub.close()
        assert loop.time() - began < 2
        # One that has sent nothing, and one that was not told of its topic by the broker, tell nothing.
        quiet = here.publisher(topics=[EVENTS])
        async with quiet:
            await publish(quiet, 5)
        assert quiet._reach.link is None


@pytest.mark.parametrize("loss", [0.3])
async def test_words_that_get_lost_are_said_again(loss: float) -> None:
    chance = random.Random(9)
    async with world(dropping(1)) as here, here.subscriber():
        real = here.broker._control.receive_datagram

        def lossy(datagram: bytes, *where: Any) -> Any:
            return None if b"sent" in datagram and chance.random() < loss else real(datagram, *where)

        here.broker._control.receive_datagram = lossy  # type: ignore[method-assign]
        pubs = [here.publisher() for _ in range(8)]
        for pub in pubs:
            async with pub:
                await publish(pub, 4)
        # A last word has two tries; the others say what was said before.
        told = [pub for pub in pubs if here.publishers().get(pub.id, {}).get("tells")]
        assert len(told) >= 5
        await until(lambda: all((here.bounds(pub.id) or (0, 9))[1] is not None for pub in told))
        assert sum((here.bounds(pub.id) or (0, 0))[0] for pub in pubs) == 1
