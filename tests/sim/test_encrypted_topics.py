"""Topics with keys, between real clients and a broker of the slow path: it carries what it cannot read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.ports import free_ports

from tempos import (
    EventTooBig,
    Framing,
    LocalError,
    NoMember,
    Publisher,
    ReplyError,
    Subscriber,
    Topic,
    TopicKeys,
    wire,
)
from tempos.cli import main
from tempos.encryption import OVERHEAD
from tempos.subscriber import Request
from tempos_broker.broker import Broker
from tempos_broker.config.model import TopicConfig

from .test_broker import FakeFastPath, until
from .test_requests import account, asker, config

SECRET, OTHER = "5e" * 32, "c4" * 32
HEAT, PRESS = Topic(7, "plant/heat"), Topic(40_000, "plant/press")
OPEN, RAW = Topic(8, "open"), Topic(9, "plant/raw", framing=Framing.RAW)
KEYS = TopicKeys({"plant/heat": SECRET, "plant/press": OTHER})
WORDS = b"what nobody on the way reads"


@asynccontextmanager
async def running() -> AsyncIterator[Broker]:
    told = replace(config(), topics=tuple(map(TopicConfig, (HEAT, PRESS, OPEN, RAW))))
    async with Broker(told, FakeFastPath()) as broker:
        yield broker


def member(broker: Broker, *topics: str, keys: TopicKeys | None = KEYS) -> Subscriber:
    return Subscriber("127.0.0.1", *topics, control_port=broker.config.control_port, keys=keys)


async def taken(sub: Subscriber, count: int) -> list[bytes]:
    return [(await sub.next(5)).body for _ in range(count)]


@pytest.mark.parametrize("topic", [HEAT, PRESS], ids=["narrow", "wide"])
async def test_events_batches_and_answers_are_read_by_who_has_the_key(topic: Topic) -> None:
    async with (
        running() as broker,
        asker(broker, keys=KEYS) as pub,
        member(broker, topic.name, OPEN.name) as sub,
        member(broker, topic.name, keys=None) as stranger,
    ):
        for number in range(50):
            await pub.publish(topic.name, WORDS + bytes((number,)))
        async with pub.batch():
            for number in range(50, 200):
                await pub.publish(topic.name, WORDS + bytes((number,)))
        assert await taken(sub, 200) == [WORDS + bytes((number,)) for number in range(200)]
        await pub.publish(OPEN.name, b"in clear")
        assert await taken(sub, 1) == [b"in clear"]
        largest = pub._outlets[topic.name].limit - wire.header_len(topic.id, Framing.EVENT) - OVERHEAD
        await pub.publish(topic.name, bytes(largest))
        assert await taken(sub, 1) == [bytes(largest)]
        with pytest.raises(EventTooBig):
            await pub.publish(topic.name, bytes(largest + 1))

        async def serve(event: Request, kind: str) -> None:
            await (event.reply(event.body) if kind == "reply" else event.reply_error("secret reason"))

        for kind in ("reply", "error"):
            asked = asyncio.create_task(pub.request(topic.name, WORDS))
            event = await sub.next(5)
            assert isinstance(event, Request)
            assert event.body == WORDS
            # An answer without the key is none, however much of the request its sender has seen.
            other = await stranger.next(5)
            while not other.is_request:
                other = await stranger.next(5)
            await other.reply(b"forged")
            await until(lambda: bool(pub.requests.malformed))
            assert not asked.done()
            await serve(event, kind)
            if kind == "reply":
                assert (await asked).body == WORDS
            else:
                with pytest.raises(ReplyError, match="secret reason"):
                    await asked
        assert (sub.stats.missed, sub.stats.malformed) == (0, {})
        assert (pub.requests.answered, pub.requests.refused, pub.requests.malformed) == (1, 1, 2)
        told = account(broker, topic.name)
        assert told["groups"][0]["tickets"] == told["groups"][1]["tickets"] == told["received"]
        # A batch that a stranger cannot take apart has reached it, and not its program.
        await until(
            lambda: all(
                each["delivered"] + each["dropped"] == each["tickets"]
                for each in account(broker, topic.name)["groups"]
            )
        )


async def test_a_stranger_sees_nothing_and_is_heard_by_nobody() -> None:
    async with (
        running() as broker,
        asker(broker, keys=KEYS) as pub,
        asker(broker) as liar,
        asker(broker, keys=TopicKeys({"#": OTHER})) as other,
        member(broker, HEAT.name) as sub,
        member(broker, HEAT.name, keys=None) as eavesdropper,
    ):
        await pub.publish(HEAT.name, WORDS)
        seen = await eavesdropper.next(5)
        assert WORDS not in seen.body
        assert len(seen.body) == len(WORDS) + OVERHEAD
        assert await taken(sub, 1) == [WORDS]
        for forged in (b"plain", bytes(OVERHEAD), seen.body):
            await liar.publish(HEAT.name, forged)
        await other.publish(HEAT.name, WORDS)
        await until(lambda: sum(sub.stats.malformed.values()) == 4)
        assert sub.stats.malformed == {"not_encrypted": 2, "replayed": 1, "unknown_key": 1}
        await pub.publish(HEAT.name, b"the next")
        event = await sub.next(5)
        # What was no event of this topic is missing before the next one, as the broker handed it out.
        assert (event.body, event.missed) == (b"the next", 4)


async def test_what_cannot_be_encrypted_is_not_sent_in_clear() -> None:
    every = TopicKeys({"#": SECRET})
    async with running() as broker, asker(broker, keys=every) as pub:
        with pytest.raises(LocalError, match=r"'plant/raw' is raw.*framing event"):
            await pub.publish(RAW.name, WORDS)
        with pytest.raises(LocalError, match="is raw"):
            async with member(broker, RAW.name, keys=every):
                pass
        with pytest.raises(NoMember):
            await pub.request(HEAT.name, WORDS)


async def test_commands_take_keys_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"plant/heat {SECRET}\n")
    file.chmod(0o600)
    async with running() as broker, member(broker, HEAT.name) as sub:
        place = f"127.0.0.1:{broker.config.control_port}:{broker.config.data_port}"

        def command(*words: str) -> int:
            return main([words[0], "-b", place, "-t", HEAT.name, *words[1:]])

        monkeypatch.setenv("TEMPOS_KEYS", str(file))
        assert await asyncio.to_thread(command, "pub", "-m", "by variable") == 0
        monkeypatch.delenv("TEMPOS_KEYS")
        assert await asyncio.to_thread(command, "pub", "--keys-file", str(file), "-m", "by option") == 0
        assert await taken(sub, 2) == [b"by variable", b"by option"]
        file.chmod(0o666)
        assert await asyncio.to_thread(command, "pub", "--keys-file", str(file), "-m", "no") == 1
        assert "chmod 600" in capsys.readouterr().err


async def test_a_publisher_by_itself_encrypts_for_a_static_member() -> None:
    (port,) = free_ports(1)
    async with (
        Subscriber.listen("127.0.0.1", port, topics=[HEAT], keys=KEYS) as sub,
        Publisher("127.0.0.1", data_port=port, topics=[HEAT], keys=KEYS) as pub,
    ):
        await pub.publish(HEAT.name, WORDS)
        assert await taken(sub, 1) == [WORDS]
