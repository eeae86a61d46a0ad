"""Datagrams, streams and timers become events, through the death of the broker, and each is accounted for."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.triggers import TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here
from support.waiting import LIMIT

from tempos import ConfigError, Subscriber, TopicKeys
from tempos_trigger import layout
from tempos_trigger.sources import udp as udp_kind
from tempos_trigger.sources.tcp import Lengths, Lines
from tempos_trigger.trigger import Trigger


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


def document(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"broker": broker.table, "endpoint": [{"topic": TOPIC, **each} for each in endpoints]}


def told(trigger: Trigger, name: str) -> dict[str, Any]:
    status = trigger.endpoints[name].status()
    assert status["balanced"], status
    return status


async def test_what_the_last_burst_lost_is_counted_though_nothing_follows(
    broker: BrokerBeside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_kind, "RECEIVE_BUFFER", 65_536)
    (port,) = free_ports(1)
    endpoint = {"name": "u", "kind": "udp", "listen": f"127.0.0.1:{port}"}
    async with trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            # All before the trigger has its turn.
            for _ in range(2000):
                sender.sendto(b"burst", ("127.0.0.1", port))
        await eventually(lambda: told(trigger, "u")["received"] == 2000)
        assert told(trigger, "u")["dropped"]["overrun"] > 1000


def stream(port: int, content: bytes) -> None:
    """Send all of it and wait until the other end has closed."""
    with (
        socket.create_connection(("127.0.0.1", port), LIMIT) as sock,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        sock.sendall(content)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


async def test_datagrams(broker: BrokerBeside, tmp_path: Path) -> None:
    port, other = free_ports(2)
    udp = {
        "name": "u",
        "kind": "udp",
        "listen": f"127.0.0.1:{port}",
        "limit": 100,
        "max_age": 0.5,
        "buffer": 50,
    }
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        stranger.bind(("127.0.0.2", 0))
        sender.connect(("127.0.0.1", port))
        limited = {**udp, "sources": ["127.0.0.1/32"]}
        async with trigger_here(tmp_path, document(broker, limited)) as trigger, taking(broker) as taken:
            sender.send(b"first")
            sender.send(b"")
            sender.send(b"x" * 101)
            stranger.sendto(b"who", ("127.0.0.1", port))
            await taken.count(2)
            await eventually(lambda: told(trigger, "u")["received"] == 4)
            assert told(trigger, "u")["dropped"] == {"too_large": 1, "source": 1}
            # The endpoint gets another name, and another one its port: what is in the socket goes to either.
            for number in range(40):
                sender.send(b"moved %d" % number)
            renamed = document(
                broker, {**udp, "name": "v"}, {**udp, "name": "w", "listen": f"127.0.0.1:{other}"}
            )
            assert await trigger.apply(layout.parse(renamed, "d"), "test") == [
                "removed 'u'", "added 'v'", "added 'w'",
            ]  # fmt: skip
            for number in range(40, 80):
                sender.send(b"moved %d" % number)
                await asyncio.sleep(0)
            await taken.count(82)
            assert all(taken.bodies[b"moved %d" % number] == 1 for number in range(80))
            before = told(trigger, "v")["received"]

            await asyncio.to_thread(broker.end)
            # Fifty wait, ten find no room; none is replayed when it is too old.
            for number in range(60):
                sender.send(b"away %d" % number)
            await eventually(lambda: told(trigger, "v")["received"] == before + 60)
            await eventually(lambda: told(trigger, "v")["dropped"] == {"queue_full": 10, "too_old": 50})
            changed = document(broker, {**udp, "name": "v", "max_age": 30})
            await trigger.apply(layout.parse(changed, "d"), "test")
            sender.send(b"young")
            await eventually(lambda: told(trigger, "v")["waiting"] == 1)
            assert not told(trigger, "v")["publishes"]
            await asyncio.to_thread(broker.start, 9)
            await eventually(lambda: told(trigger, "v")["waiting"] == 0)
            assert told(trigger, "v")["published"] == before + 1


async def test_signals_become_encrypted_events(broker: BrokerBeside, tmp_path: Path) -> None:
    file, port = tmp_path / "keys", free_ports(1)[0]
    file.write_text(f"{TOPIC} {'5e' * 32}\n")
    file.chmod(0o600)
    wanted = document(broker, {"name": "u", "kind": "udp", "listen": f"127.0.0.1:{port}"})
    wanted["broker"] = {**wanted["broker"], "keys_file": str(file)}
    keys = TopicKeys.read(file)
    async with (
        trigger_here(tmp_path, wanted) as trigger,
        taking(broker) as stranger,
        Subscriber("127.0.0.1", TOPIC, control_port=broker.control, keys=keys) as sub,
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"a signal", ("127.0.0.1", port))
        assert (await sub.next(20)).body == b"a signal"
        await stranger.count(1)
        assert b"a signal" not in stranger.in_order[0]
        # The file tells another secret: so do events, once it is read again.
        file.write_text(f"{TOPIC} {'c4' * 32}\n")
        await trigger.apply(layout.parse(wanted, "d"), "test")
        await eventually(lambda: bool(trigger.status()["broker"]["there"]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"another", ("127.0.0.1", port))
        await eventually(lambda: sub.stats.malformed == {"unknown_key": 1})
    file.unlink()
    with pytest.raises(ConfigError, match=r"broker\.keys_file.*cannot be read"):
        layout.parse(wanted, "d")


async def test_streams(broker: BrokerBeside, tmp_path: Path) -> None:
    lines, lengths = free_ports(2)
    tcp = {"kind": "tcp", "limit": 10, "connections": 2}
    endpoints = (
        {**tcp, "name": "line", "listen": f"127.0.0.1:{lines}", "buffer": 20, "max_age": 30},
        {**tcp, "name": "length", "listen": f"127.0.0.1:{lengths}", "framing": "length"},
    )
    async with trigger_here(tmp_path, document(broker, *endpoints)) as trigger:
        async with taking(broker) as taken:
            await asyncio.to_thread(stream, lines, b"one\r\n\xff\x00\n\n" + b"x" * 5000 + b"\ntwo\nrest")
            await taken.count(4)
            assert taken.in_order == [b"one", b"\xff\x00", b"", b"two"]
            await eventually(lambda: told(trigger, "line")["dropped"] == {"too_large": 1, "incomplete": 1})
            packed = b"".join(struct.pack(">I", len(each)) + each for each in (b"a", b"", b"0123456789"))
            await asyncio.to_thread(stream, lengths, packed + b"\xff\xff\xff\xff" + b"never")
            await taken.count(7)
            await eventually(lambda: told(trigger, "length")["source"]["turned_away"] == {"too long": 1})
            assert told(trigger, "length")["dropped"] == {"too_large": 1}
            # More connections than are allowed are closed.
            held = [socket.create_connection(("127.0.0.1", lengths), 10) for _ in range(2)]
            await eventually(lambda: told(trigger, "length")["source"]["connections"] == 2)
            await asyncio.to_thread(stream, lengths, b"")
            assert told(trigger, "length")["source"]["turned_away"]["too many connections"] == 1
            for each in held:
                each.close()
        await asyncio.to_thread(broker.end)
        # A stream waits for the broker: whoever sends is held up, and nothing is lost.
        many = asyncio.create_task(
            asyncio.to_thread(stream, lines, b"".join(b"%d\n" % number for number in range(10_000)))
        )
        await eventually(lambda: told(trigger, "line")["source"]["paused"] == 1)
        assert told(trigger, "line")["waiting"] == 20
        await asyncio.to_thread(broker.start)
        async with taking(broker):
            await eventually(lambda: told(trigger, "line")["published"] == 10_004)
            await many
        assert told(trigger, "line")["dropped"] == {"too_large": 1, "incomplete": 1}


async def test_what_waits_goes_to_the_next_broker(broker: BrokerBeside, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "other").mkdir()
    udp = {"name": "u", "kind": "udp", "listen": f"127.0.0.1:{port}", "max_age": 60}
    await asyncio.to_thread(broker.end)
    async with trigger_here(tmp_path, document(broker, udp)) as trigger:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(200):
                sender.sendto(b"%d" % number, ("127.0.0.1", port))
        await eventually(lambda: told(trigger, "u")["waiting"] == 200)
        other = BrokerBeside(tmp_path / "other")
        await asyncio.to_thread(other.start)
        try:
            async with taking(other) as taken:
                changed = await trigger.apply(layout.parse(document(other, udp), "d"), "test")
                assert changed == ["another broker, 127.0.0.1"]
                await taken.count(200)
                assert taken.in_order == [b"%d" % number for number in range(200)]
                assert told(trigger, "u")["published"] == told(trigger, "u")["received"] == 200
        finally:
            await asyncio.to_thread(other.end)
    await asyncio.to_thread(broker.start)


async def test_timers(broker: BrokerBeside, tmp_path: Path) -> None:
    quick = {"name": "quick", "kind": "timer", "every": 0.02, "body": "quick"}
    second = {"name": "second", "kind": "timer", "cron": "* * * * * *", "body": "at {due}"}
    async with trigger_here(tmp_path, document(broker, quick, second)) as trigger, taking(broker) as taken:
        await taken.until(
            lambda: taken.bodies[b"quick"] > 2 and any(body.startswith(b"at ") for body in taken.bodies)
        )
        assert all(body.endswith(b".000Z") for body in taken.bodies if body.startswith(b"at"))
        received = told(trigger, "quick")["received"]
        # Another body changes no tick.
        changed = document(broker, {**quick, "body": "other"}, second)
        assert await trigger.apply(layout.parse(changed, "d"), "test") == ["changed 'quick'"]
        await taken.until(lambda: taken.bodies[b"other"] >= 3)
        assert told(trigger, "quick")["received"] >= received + 3
    assert set(taken.bodies) > {b"quick", b"other"}


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_are_the_same_however_they_are_cut(size: int) -> None:
    content = b"a\r\n\n" + b"x" * 11 + b"\nbb\n" + b"y" * 10 + b"\n" + b"z" * 30 + b"\nend\nhalf"
    lines, found = Lines(10), []
    for at in range(0, len(content), size):
        found += lines.feed(content[at : at + size])
    assert found == [b"a", b"", b"bb", b"y" * 10, b"end"]
    assert (lines.skipped, lines.begun) == (2, True)
    packed = (
        b"".join(struct.pack(">I", len(each)) + each for each in (b"a", b"", b"bb")) + b"\x00\x00\x01\x00ab"
    )
    lengths, found = Lengths(10), []
    for at in range(0, len(packed), size):
        if not lengths.failed:
            found += lengths.feed(packed[at : at + size])
    assert found == [b"a", b"", b"bb"]
    assert (lengths.skipped, lengths.failed, lengths.begun) == (1, True, False)
