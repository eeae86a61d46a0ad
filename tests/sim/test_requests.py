"""Requests and their replies between real clients and a broker of the slow path, on loopback.

At the end of each story every request has become one thing, the broker has every reply under one name, and
the topic's account is balanced: replies that are sent on are no events, and are not in it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import (
    EventTooBig,
    Framing,
    LocalError,
    NoMember,
    NoReply,
    PathPolicy,
    Publisher,
    Quality,
    ReplyError,
    Subscriber,
    Topic,
    _abi,
    blocking,
    wire,
)
from tempos.cli import main
from tempos.requests import envelope
from tempos.subscriber import Request
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, StaticMember, TopicConfig
from tempos_broker.lives.store import Store

from .test_broker import FakeFastPath, until

ASKED = Topic(1, "asked", Quality.BQ, 0, Framing.EVENT, PathPolicy.SLOW)
STRICT = Topic(40_000, "strict", Quality.SQ, 0, Framing.EVENT, PathPolicy.SLOW)
PLAIN = Topic(300, "plain", Quality.BQ, 0, Framing.RAW, PathPolicy.SLOW)
FENCED = Topic(4, "fenced", Quality.BQ, 0, Framing.EVENT, PathPolicy.SLOW, sources=("127.0.0.1/32",))
GOOD = ["delivered", "dropped", "unconfirmed", "lost", "unknown"]

Serve = Callable[[Request], Awaitable[None]]


def config(**changes: Any) -> BrokerConfig:
    data, control, _ = free_ports(3)
    return BrokerConfig(
        tuple(map(TopicConfig, (ASKED, STRICT, PLAIN, FENCED))),
        **{
            "listen": ("127.0.0.1",),
            "data_port": data,
            "control_port": control,
            "control": ControlConfig(heartbeat=0.05),
            **changes,
        },
    )


@asynccontextmanager
async def running(portable: bool = False, **changes: Any) -> AsyncIterator[Broker]:
    async with Broker(config(**changes), FakeFastPath(), portable=portable) as broker:
        yield broker


def asker(broker: Broker, at: str = "127.0.0.1", **options: Any) -> Publisher:
    told = broker.config
    return Publisher(at, data_port=told.data_port, control_port=told.control_port, **options)


@asynccontextmanager
async def answering(
    broker: Broker, serve: Serve, topic: str = "asked", group: str = "g", **options: Any
) -> AsyncIterator[Subscriber]:
    """A member that lets ``serve`` have each event."""
    control = broker.config.control_port
    async with Subscriber("127.0.0.1", topic, group=group, control_port=control, **options) as sub:

        async def work() -> None:
            async for event in sub:
                assert isinstance(event, Request)
                await serve(event)

        task = asyncio.create_task(work())
        try:
            yield sub
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def echo(event: Request) -> None:
    await event.reply(event.body)


async def never(event: Request) -> None:
    """Answer nothing."""


def account(broker: Broker, topic: str = "asked") -> dict[str, Any]:
    """The topic's account, which must add up."""
    entry: dict[str, Any] = next(each for each in broker.ledger()["topics"] if each["name"] == topic)
    assert entry["balanced"], entry["problems"]
    assert entry["received"] == entry["fast"] + entry["slow"] + sum(entry["refused"].values())
    for group in entry["groups"]:
        assert group["tickets"] == sum(group[name] for name in GOOD)
    return entry


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("topic", ["asked", "strict", "fenced"])
async def test_a_request_is_answered_and_everything_is_counted_once(topic: str, portable: bool) -> None:
    seen: list[Request] = []

    async def serve(event: Request) -> None:
        seen.append(event)
        await event.reply({"twice": event.unpack() * 2})

    async with running(portable) as broker, asker(broker) as pub, answering(broker, serve, topic) as sub:
        replies = await asyncio.gather(*(pub.request(topic, number, LIMIT) for number in range(500)))
        assert [reply.unpack() for reply in replies] == [{"twice": 2 * number} for number in range(500)]
        assert all(reply.topic == topic and 0 < reply.seconds < LIMIT for reply in replies)
        assert {(event.publisher, event.sequence) for event in seen} == {(pub.id, n) for n in range(500)}
        assert pub.requests.requests == pub.requests.answered == 500
        assert pub.stats.events == pub.stats.datagrams == 500
        assert (sub.stats.requests, sub.stats.replies, sub.stats.replies_failed) == (500, 500, 0)
        with pytest.raises(LocalError, match="answered already"):
            seen[0].reply(b"again")
        entry = account(broker, topic)
        assert (entry["received"], entry["refused"], entry["replies"]) == (500, {}, 500)
        await until(lambda: account(broker, topic)["groups"][0]["delivered"] == 500)


async def test_nobody_there_is_told_at_once_an_error_raises_and_silence_ends_in_time() -> None:
    async with running() as broker, asker(broker) as pub:
        with pytest.raises(NoMember, match=r"'asked'.*no member"):
            await pub.request("asked", b"?", timeout=60)
        assert account(broker)["refused"] == {"no_member": 1}

        async def refuse(event: Request) -> None:
            await event.reply_error("no such sensor" if event.body == b"?" else {"code": 7})

        async with answering(broker, refuse):
            with pytest.raises(ReplyError, match="no such sensor") as told:
                await pub.request("asked", b"?")
            assert told.value.unpack() == "no such sensor"
            with pytest.raises(ReplyError) as told:
                await pub.request("asked", b"!")
            assert told.value.unpack() == {"code": 7}
        late: list[Request] = []

        async def keep(event: Request) -> None:
            late.append(event)

        async with answering(broker, keep):
            with pytest.raises(NoReply, match=r"within 0\.05 s.*tempos ledger asked"):
                await pub.request("asked", b"?", timeout=0.05)
            await until(lambda: bool(late))
            await late[0].reply(b"too late")
            await until(lambda: pub.requests.late == 1)
        stats = pub.requests
        assert (stats.refused, stats.timeouts, stats.requests) == (3, 1, 4)
        assert account(broker)["replies"] == 3


async def test_several_groups_answer_and_the_first_answer_is_the_one() -> None:
    async with running() as broker, asker(broker) as pub:
        second = asyncio.Event()

        async def one(event: Request) -> None:
            await event.reply(b"first")

        async def two(event: Request) -> None:
            await second.wait()
            await event.reply(b"second")

        async with answering(broker, one, group="one"), answering(broker, two, group="two"):
            assert (await pub.request("asked", b"?")).body == b"first"
            second.set()
            await until(lambda: pub.requests.further == 1)
        assert (pub.requests.answered, pub.requests.requests) == (1, 1)
        assert account(broker)["replies"] == 2


async def test_what_is_cancelled_leaves_nothing_and_a_close_ends_what_waits() -> None:
    async with running() as broker, answering(broker, never):
        pub = await asker(broker).__aenter__()
        await pub.learn("asked")
        tasks = [asyncio.create_task(pub.request("asked", b"?", timeout=60)) for _ in range(20)]
        await until(lambda: pub.requests.waiting == 20)
        for task in tasks[:10]:
            task.cancel()
        await asyncio.gather(*tasks[:10], return_exceptions=True)
        assert (pub.requests.cancelled, pub.requests.waiting) == (10, 10)
        await pub.close()
        for task in tasks[10:]:
            with pytest.raises(LocalError, match="closed before the reply"):
                await task
        assert (pub.requests.cancelled, pub.requests.requests, pub.requests.waiting) == (20, 20, 0)
        with pytest.raises(LocalError, match="not open"):
            await pub.request("asked", b"?")


async def test_a_request_waits_for_no_batch_and_keeps_the_order() -> None:
    bodies: list[bytes] = []

    async with running() as broker, asker(broker, linger=30) as pub:
        port = broker.config.control_port
        async with Subscriber("127.0.0.1", "asked", group="g", control_port=port) as sub:

            async def serve() -> None:
                async for event in sub:
                    bodies.append(event.body)
                    if event.is_request:
                        await event.reply(b"done")
                    else:
                        with pytest.raises(LocalError, match="no request"):
                            event.reply(b"nobody asked")

            task = asyncio.create_task(serve())
            await pub.publish("asked", b"1")
            await pub.publish("asked", b"2")
            assert (await pub.request("asked", b"3", timeout=10)).body == b"done"
            assert bodies == [b"1", b"2", b"3"]
            await pub.publish("asked", b"4")
            async with pub.batch():
                await pub.publish("asked", b"5")
                assert (await pub.request("asked", b"6", timeout=10)).body == b"done"
            assert bodies == [b"%d" % number for number in range(1, 7)]
            assert [sub.stats.events, sub.stats.missed, sub.stats.requests] == [6, 0, 2]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert account(broker)["balanced"]


async def test_what_cannot_be_asked_is_refused_with_a_reason() -> None:
    async with running() as broker, asker(broker) as pub, answering(broker, echo):
        with pytest.raises(LocalError, match=r"'plain' is raw.*framing event"):
            await pub.request("plain", b"?")
        with pytest.raises(LocalError, match="more than 0"):
            await pub.request("asked", b"?", timeout=0)
        await pub.request("asked", b"?")
        with pytest.raises(EventTooBig, match="event needs"):
            await pub.request("asked", bytes(65500 - 24))
        assert (pub.requests.requests, pub.requests.waiting) == (1, 0)
        # As large as a datagram can be, there and back.
        most = bytes(65507 - wire.HEADER_LEN - envelope.LENGTH)
        broker_takes = broker.config.limits.datagram - wire.HEADER_LEN - envelope.LENGTH
        body = most[:broker_takes]
        assert (await pub.request("asked", body)).body == body


async def test_a_reply_that_is_too_big_says_both_sizes_and_another_may_be_sent() -> None:
    async def serve(event: Request) -> None:
        with pytest.raises(EventTooBig, match="reply needs"):
            await event.reply(bytes(70_000))
        await event.reply(b"short")

    async with running() as broker, asker(broker) as pub, answering(broker, serve) as sub:
        assert (await pub.request("asked", b"?")).body == b"short"
        assert (sub.stats.replies, sub.stats.replies_failed) == (1, 1)


async def test_forged_replies_reach_nobody_and_are_counted() -> None:
    async with running() as broker, asker(broker) as pub:
        held: list[Request] = []

        async def hold(event: Request) -> None:
            held.append(event)

        async with answering(broker, hold):
            asked = asyncio.create_task(pub.request("asked", b"?", timeout=30))
            await until(lambda: bool(held))
            head = envelope.answer(held[0]._head, wire.HEADER_LEN, 0)
            port = broker.config.data_port
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                # Another port than the one that was granted, a broken seal, a time long over.
                for at in (_abi.ENVELOPE_PORT, _abi.ENVELOPE_SEAL, _abi.ENVELOPE_UNTIL):
                    forged = bytearray(head + b"forged")
                    forged[wire.HEADER_LEN + at] ^= 1
                    stranger.sendto(forged, ("127.0.0.1", port))
                # A good address, seen on the way, and a token that was not: the asker tells.
                guessed = head[:-1] + bytes((head[-1] ^ 1,))
                stranger.sendto(guessed + b"forged", ("127.0.0.1", port))
                await until(lambda: pub.requests.strays == 1)
                # Past the broker: the socket takes nothing from anybody else.
                stranger.sendto(head + b"forged", pub._socket.getsockname())
            await held[0].reply(b"true")
            assert (await asked).body == b"true"
        entry = account(broker)
        assert (entry["received"], entry["refused"], entry["replies"]) == (4, {"bad_return": 3}, 2)
        assert (pub.requests.answered, pub.requests.strays, pub.requests.malformed) == (1, 1, 0)


async def test_a_reply_is_not_bound_to_the_networks_that_events_come_from() -> None:
    async with running(listen=("127.0.0.1", "127.0.0.2")) as broker, asker(broker, at="127.0.0.2") as pub:
        host = broker.config
        async with Subscriber("127.0.0.1", "fenced", group="g", control_port=host.control_port) as sub:
            asked = asyncio.create_task(pub.request("fenced", b"?"))
            event = await sub.next(5)
            assert isinstance(event, Request)
            head = envelope.answer(event._head, event._at, 1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.bind(("127.0.0.9", 0))
                elsewhere.sendto(head + b"from elsewhere", ("127.0.0.1", host.data_port))
            # It leaves from the address that the asker knows, or its socket would not take it.
            assert (await asked).body == b"from elsewhere"
            assert account(broker, "fenced")["replies"] == 1


async def test_a_member_of_the_file_answers_by_what_the_request_tells_of_its_broker() -> None:
    data, control, port = free_ports(3)
    told = BrokerConfig(
        (TopicConfig(ASKED, (StaticMember("127.0.0.1", port),)),),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
    )
    async with (
        Broker(told, FakeFastPath()) as broker,
        asker(broker) as pub,
        Subscriber.listen("127.0.0.1", port, topics=[ASKED]) as sub,
    ):
        asked = asyncio.create_task(pub.request("asked", b"?"))
        event = await sub.next(5)
        await event.reply(b"!")
        assert (await asked).body == b"!"
        assert account(broker)["replies"] == 1


async def test_what_a_member_took_before_it_left_can_still_be_answered() -> None:
    async with running() as broker, asker(broker) as pub:
        port = broker.config.control_port
        async with Subscriber("127.0.0.1", "asked", group="g", control_port=port) as sub:
            asked = [asyncio.create_task(pub.request("asked", b"?", timeout=30)) for _ in range(3)]
            taken = [await sub.next(5) for _ in asked]
            await sub.drain()
            await taken[0].reply(b"after the drain")
            # As where another thread closes the socket meanwhile.
            sub._intake.replies._sock = sub._reader._sock
            await taken[1].reply(b"into a closed socket")
        await taken[2].reply_error(b"after all")
        assert [(await each).body for each in asked[:2]] == [b"after the drain", b"into a closed socket"]
        with pytest.raises(ReplyError, match="after all"):
            await asked[2]
        assert (sub.stats.replies, sub.stats.replies_failed, account(broker)["replies"]) == (3, 0, 3)


@pytest.mark.parametrize("step", [2 * 3600.0, -2 * 3600.0])
async def test_what_is_on_its_way_survives_a_restart_and_a_broker_without_memory_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    told, file = config(), tmp_path / "state"
    held: list[Request] = []
    clock = time.time

    async def hold(event: Request) -> None:
        held.append(event)

    broker = await Broker(told, FakeFastPath(), store=Store.open(file)).__aenter__()
    async with asker(broker) as pub, answering(broker, hold):
        asked = asyncio.create_task(pub.request("asked", b"?", timeout=60))
        await until(lambda: bool(held))
        # Whoever sets the clock takes no answer from who waits for it.
        monkeypatch.setattr(time, "time", lambda: clock() + step)
        await broker.close()
        broker = await Broker(told, FakeFastPath(), store=Store.open(file)).__aenter__()
        await held.pop().reply(b"over two lives")
        assert (await asked).body == b"over two lives"
        assert account(broker)["replies"] == 1
        await broker.close()
        # One that remembers nothing takes no address of the former ones: it costs one request.
        broker = await Broker(told, FakeFastPath()).__aenter__()
        pub._asking._granted -= 10
        await until(lambda: bool(broker.ledger()["topics"][0]["groups"]))
        first = asyncio.create_task(pub.request("asked", b"?", timeout=0.3))
        await until(lambda: bool(held))
        await held.pop().reply(b"to nobody")
        with pytest.raises(NoReply):
            await first
        assert account(broker)["refused"] == {"bad_return": 1}
        second = asyncio.create_task(pub.request("asked", b"?", timeout=30))
        await until(lambda: bool(held))
        await held.pop().reply(b"known again")
        assert (await second).body == b"known again"
    await broker.close()


async def test_threads_ask_and_answer_without_an_event_loop() -> None:
    async with running() as broker:
        told = broker.config
        ports = {"control_port": told.control_port}

        def serve(sub: blocking.Subscriber) -> None:
            for event in sub:
                if event.body == b"stop":
                    event.reply(b"stopped")
                    return
                event.reply(event.body.upper())

        def talk() -> list[bytes]:
            answers: list[bytes] = []
            with (
                blocking.Subscriber("127.0.0.1", "asked", group="g", **ports) as sub,
                blocking.Publisher("127.0.0.1", data_port=told.data_port, **ports) as pub,
            ):
                server = threading.Thread(target=serve, args=(sub,))
                askers = [
                    threading.Thread(target=lambda: answers.append(pub.request("asked", b"a").body))
                    for _ in range(8)
                ]
                for thread in (server, *askers):
                    thread.start()
                for thread in askers:
                    thread.join()
                with pytest.raises(LocalError, match="raw"):
                    pub.request("plain", b"a")
                answers.append(pub.request("asked", b"stop", timeout=10).body)
                server.join()
                assert (pub.requests.answered, sub.stats.replies) == (9, 9)
            return answers

        assert await asyncio.to_thread(talk) == [b"A"] * 8 + [b"stopped"]
        assert account(broker)["replies"] == 9


async def test_the_command_prints_the_answer_or_why_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(event: Request) -> None:
        if event.body == b"no":
            await event.reply_error("not today")
        else:
            await event.reply(event.unpack() * 2)

    async with running() as broker:
        told = broker.config
        ports = ["--data-port", str(told.data_port), "--control-port", str(told.control_port)]

        async def tempos(*words: str) -> int:
            return await asyncio.to_thread(main, ["request", *ports, *words])

        async with answering(broker, serve):
            assert await tempos("-t", "asked", "--json", "-m", "[1, {}]") == 0
            assert capsys.readouterr().out == "[1, {}, 1, {}]\n"
            assert await tempos("-t", "asked", "--json", "-m", "21", "--output", "json") == 0
            row = json.loads(capsys.readouterr().out)
            assert (row["topic"], row["encoding"], row["body"]) == ("asked", "text", "*")
            assert 0 < row["seconds"] < 5
            assert await tempos("-t", "asked", "-m", "no") == 1
            assert "answered with an error: not today" in capsys.readouterr().err
        assert await tempos("-t", "asked") == 1
        assert "it has no member" in capsys.readouterr().err
        assert await tempos("-t", "plain") == 1
        assert "is raw" in capsys.readouterr().err
        assert await tempos("-t", "asked", "--json") == 2
        assert "needs a body" in capsys.readouterr().err


async def test_a_broker_that_is_not_there_is_told_by_name() -> None:
    data, control, _ = free_ports(3)
    async with Publisher("127.0.0.1", data_port=data, control_port=control, topics=[ASKED]) as pub:
        with pytest.raises(NoReply, match="control port did not say"):
            await pub.request("asked", b"?", timeout=0.3)
        assert (pub.requests.timeouts, pub.requests.requests) == (1, 1)
