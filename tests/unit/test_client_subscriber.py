"""The subscriber: events, gaps, queues, waiting, closing."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import sys
import time
from typing import Any

import pytest
from support.minibroker import MiniBrokerThread
from support.waiting import LIMIT

from tempos import (
    ControlRefused,
    Event,
    Framing,
    LocalError,
    NoAnswer,
    Publisher,
    Subscriber,
    Topic,
    WireError,
    control,
    wire,
)

HEAT = Topic(7, "heat")
RAW = Topic(8, "raw", framing=Framing.RAW)
BATCH = 1


def stamped(epoch: int, delivery: int, body: bytes = b"", sequence: int = 0, flags: int = 0) -> bytes:
    datagram = bytearray(wire.encode_event(7, 1, sequence, time.time_ns(), body, flags))
    wire.stamp(datagram, epoch, delivery)
    return bytes(datagram)


class Sender:
    """A bare socket that sends to one member."""

    def __init__(self, sub: Subscriber) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((sub.member.ip, sub.member.port))

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __call__(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self._socket.send(datagram)


def listening(**options: int) -> Subscriber:
    return Subscriber.listen("127.0.0.1", 0, topics=[HEAT, RAW], **options)


def no_task_is_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


async def test_events_come_through_a_broker_with_all_that_is_known_of_them() -> None:
    with MiniBrokerThread(HEAT, RAW) as broker:
        async with (
            Subscriber("127.0.0.1", "heat", "raw", group="g", control_port=broker.control_port) as sub,
            Publisher("127.0.0.1", data_port=broker.data_port, control_port=broker.control_port) as pub,
        ):
            await pub.publish("heat", {"c": 21.5})
            await pub.publish("raw", b"bytes")
            first, second = await sub.next(5), await sub.next(5)
            assert first[:2] == ("heat", 7)
            assert first.unpack() == {"c": 21.5}
            assert (first.publisher, first.sequence, first.delivery_sequence, first.epoch) == (
                pub.id,
                0,
                0,
                1,
            )
            assert first.latency is not None
            assert 0 <= first.latency < 5
            assert second == Event("raw", 8, b"bytes", None, None, None, None, None, second.received_ns, 0)
            assert second.latency is None
            with pytest.raises(WireError):
                second.unpack()
            with pytest.raises(AttributeError):
                first.body = b""  # type: ignore[misc]
            async with pub.batch():
                for number in range(10):
                    await pub.publish("heat", number)
            events = [await sub.next(5) for _ in range(10)]
            assert [event.unpack() for event in events] == list(range(10))
            assert [event.sequence for event in events] == list(range(1, 11))
            assert {event.delivery_sequence for event in events} == {1}
            assert (sub.stats.datagrams, sub.stats.events, sub.stats.missed) == (3, 12, 0)
        # The goodbye told what was received; of a raw topic, which carries no epoch, a total.
        assert broker.core.told == {(7, "g", 1): 2, (8, "g", 0): 1}
        assert broker.core.groups["heat", "g"] == broker.core.groups["raw", "g"] == []
    assert no_task_is_left()


async def test_a_group_shares_and_those_without_one_get_all() -> None:
    with MiniBrokerThread(HEAT) as broker:
        port = broker.control_port
        async with (
            Subscriber("127.0.0.1", "heat", group="g", control_port=port) as one,
            Subscriber("127.0.0.1", "heat", group="g", control_port=port) as two,
            Subscriber("127.0.0.1", "heat", control_port=port) as all_of_them,
            Publisher("127.0.0.1", data_port=broker.data_port, control_port=port) as pub,
        ):
            for number in range(100):
                await pub.publish("heat", number)
            got = [(await sub.next(5)).unpack() for sub in (one, two) for _ in range(50)]
            assert sorted(got) == list(range(100))
            assert [(await all_of_them.next(5)).unpack() for _ in range(100)] == list(range(100))


async def test_what_is_missed_shows_on_the_next_event() -> None:
    async with listening() as sub:
        with Sender(sub) as send:
            send(stamped(4, 2), stamped(4, 3), stamped(4, 7), stamped(4, 5), stamped(4, 5), stamped(5, 0))
            assert [(await sub.next(5)).missed for _ in range(6)] == [2, 0, 3, -1, 0, 0]
            stats = sub.stats
            assert (stats.missed, stats.late, stats.duplicates) == (4, 1, 1)


async def test_what_is_missed_sums_up_to_what_is_missing_however_the_network_has_mixed_it() -> None:
    order = list(range(600))
    chance = random.Random(11)
    # Delayed by up to forty places, one in fifty lost, one in twenty doubled.
    kept = [number for number in order if chance.random() >= 0.02]
    kept += [number for number in kept if chance.random() < 0.05]
    kept.sort(key=lambda number: number + chance.uniform(0, 40))
    async with listening(queue=100) as sub:
        missed = []
        with Sender(sub) as send:
            for number in kept[:300]:
                send(stamped(1, number))
                missed.append((await sub.next(5)).missed)
            # These find a queue that is full.
            send(*(stamped(1, number) for number in kept[300:]))
            await asyncio.wait_for(until_read(sub, len(kept)), 5)
            while (event := sub.poll()) is not None:
                missed.append(event.missed)
            send(stamped(1, 600))
            missed.append((await sub.next(5)).missed)
        stats = sub.stats
        assert stats.late > 100
        assert stats.queue_full == len(kept) - 400
        assert stats.missed == 600 - len(set(kept)) > 0
        handed_out = {*kept[:400], 600}
        assert sum(missed) == 601 - len(handed_out) > stats.missed


async def test_what_was_lost_at_the_very_end_is_told_by_the_drain() -> None:
    with MiniBrokerThread(HEAT) as broker:
        answer = broker.core.answer

        def lost_three(datagram: bytes, ip: str) -> bytes:
            request = control.decode_request(datagram)
            if request.op != "drain":
                return answer(datagram, ip)
            return control.encode_ok(request.id, ticketed=8, delivered=5, lost=3)

        broker.core.answer = lost_three  # type: ignore[method-assign]
        async with Subscriber("127.0.0.1", "heat", control_port=broker.control_port) as sub:
            for number in (0, 1, 2, 4, 5):
                broker.send(stamped(1, number), (sub.member.ip, sub.member.port))
            assert [(await sub.next(5)).missed for _ in range(5)] == [0, 0, 0, 1, 0]
        assert sub.stats.missed == 3


@pytest.mark.parametrize("duplicates", ["deliver", "drop"])
async def test_what_a_network_doubles_is_counted_and_handed_out_again_or_not(duplicates: Any) -> None:
    double = [
        stamped(1, 0, b"a"),
        stamped(1, 0, b"a"),
        stamped(1, 2, b"c"),
        stamped(1, 1, b"b"),
        stamped(1, 1, b"b"),
    ]
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT], duplicates=duplicates) as sub:
        with Sender(sub) as send:
            send(*double, stamped(1, 3, b"d"))
            got = [await sub.next(5)]
            while got[-1].body != b"d":
                got.append(await sub.next(5))
        assert b"".join(event.body for event in got) == (b"aacbbd" if duplicates == "deliver" else b"acbd")
        assert sum(event.missed for event in got) == sub.stats.missed == 0
        assert (sub.stats.duplicates, sub.stats.late, sub.stats.datagrams) == (2, 1, 6)


async def test_of_a_raw_topic_nobody_can_tell_what_came_before() -> None:
    with MiniBrokerThread(HEAT, RAW) as broker:
        options: Any = {"control_port": broker.control_port, "duplicates": "drop"}
        with pytest.raises(LocalError, match="'raw' is raw"):
            await Subscriber("127.0.0.1", "heat", "raw", **options).__aenter__()
        assert not broker.core.members("raw")
    with pytest.raises(LocalError, match="'raw' is raw"):
        await Subscriber.listen("127.0.0.1", 0, topics=[RAW], duplicates="drop").__aenter__()
    with pytest.raises(LocalError, match="'deliver', 'drop'"):
        Subscriber("127.0.0.1", "heat", duplicates="drpo")  # type: ignore[arg-type]
    assert no_task_is_left()


async def test_malformed_datagrams_are_counted_by_reason() -> None:
    good = stamped(1, 0)
    batch = bytearray(wire.encode_batch(7, 1, 0, 0, [b"ab"]))
    async with listening() as sub:
        with Sender(sub) as send:
            send(b"", b"\x09x", b"\x07", good[:23], b"\x07\x20" + good[2:], b"\x07\x18" + good[2:])
            send(b"\x07\x10\x01" + good[3:], bytes(batch[:-1]), bytes(batch[:24]), good)
            assert (await sub.next(5)).delivery_sequence == 0
        assert sub.stats.malformed == {
            "empty": 1,
            "unknown_topic": 1,
            "short_header": 2,
            "bad_version": 1,
            "reserved_bits": 1,
            "bad_envelope": 1,
            "bad_batch": 2,
        }
        assert sub.stats.datagrams == 10


async def test_envelopes_that_cannot_be_read_are_dropped_counted_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inside = bytes(range(100, 130))
    odd = [
        stamped(1, 1, body=b"\x41\x00" + inside, flags=8),
        stamped(1, 2, body=b"\x14\x00" + inside, flags=8),
        stamped(1, 3, body=b"\x12\x00" + inside, flags=8),
        stamped(1, 4, body=b"\x11\x00" + inside, flags=8 | 1),
        stamped(1, 5, body=b"\x11\x00" + inside[:-1], flags=8),
    ]
    async with listening() as sub:
        with Sender(sub) as send:
            send(stamped(1, 0), *odd, stamped(1, 6, body=b"\x11\x00" + inside + b"?", flags=8))
            first, second = await sub.next(5), await sub.next(5)
        assert (first.is_request, second.is_request, second.body, second.missed) == (False, True, b"?", 5)
        assert sub.stats.malformed == {"bad_envelope": 5}
        assert (sub.stats.datagrams, sub.stats.requests) == (7, 1)
        with pytest.raises(LocalError, match="is no request"):
            await first.reply(b"")
    told = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert told == [
        "1 events so far cannot be read and are dropped; the last: an envelope of 32 bytes (version 4, "
        "kind 1); understood are 32 bytes of version 1, kinds 1, 2, 3"
    ]


async def test_a_full_queue_drops_the_newest_counts_and_tells(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(queue=3) as sub:
        with Sender(sub) as send:
            send(*(stamped(1, number) for number in range(10)))
            await sub.wait(LIMIT)
            assert [(await sub.next(5)).delivery_sequence for _ in range(3)] == [0, 1, 2]
            send(stamped(1, 11))
            event = await sub.next(5)
            # Seven were dropped here, one was lost on the way.
            assert (event.delivery_sequence, event.missed) == (11, 8)
            stats = sub.stats
            assert (stats.queue_full, stats.missed, stats.datagrams) == (7, 1, 11)
            # What is lost on the way before one that is dropped or damaged is not forgotten.
            send(*(stamped(1, number) for number in (12, 13, 14, 17)), stamped(1, 19, b"", flags=BATCH))
            await asyncio.wait_for(until_read(sub, 16), 5)
            assert [(await sub.next(5)).missed for _ in range(3)] == [0, 0, 0]
            send(stamped(1, 20))
            # Lost: 15, 16, 18; dropped: 17; damaged: 19.
            assert (await sub.next(5)).missed == 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "too slow" in record.message


async def until_read(sub: Subscriber, datagrams: int) -> None:
    while sub.stats.datagrams < datagrams:
        await asyncio.sleep(0)


@pytest.mark.skipif(sys.platform != "linux", reason="SO_RXQ_OVFL is Linux")
async def test_overruns_of_the_socket_are_counted_and_tell_the_sysctl(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(receive_buffer=8192) as sub:
        with Sender(sub) as send:
            send(*(stamped(1, number) for number in range(500)))
            got = [await sub.next(5)]
            while (event := sub.poll()) is not None:
                got.append(event)
            send(stamped(1, 500))
            got.append(await sub.next(5))
        stats = sub.stats
        assert stats.overruns > 0
        assert stats.overruns + len(got) == 501
        assert stats.missed == got[-1].missed == stats.overruns
        assert stats.receive_buffer <= 8192
    assert "net.core.rmem_max" in caplog.text


async def test_heartbeats_go_on_while_the_consumer_is_busy() -> None:
    with MiniBrokerThread(HEAT, heartbeat_ms=20, lease_ms=100) as broker:
        async with Subscriber("127.0.0.1", "heat", group="g", control_port=broker.control_port) as sub:
            for number in range(200):
                broker.send(stamped(1, number), (sub.member.ip, sub.member.port))
            assert await sub.wait(LIMIT)
            handled = 0
            async for _ in sub:
                # A consumer that never awaits anything but the next event.
                time.sleep(0.002)  # noqa: ASYNC251 - what is tested
                handled += 1
                if handled == 200:
                    break
            assert broker.core.seen["heartbeat"] >= 8
            assert await asyncio.to_thread(broker.wait, lambda: broker.core.told.get((7, "g", 1)) == 200)


async def test_a_restarted_broker_is_subscribed_to_again(caplog: pytest.LogCaptureFixture) -> None:
    with MiniBrokerThread(HEAT, heartbeat_ms=20) as broker:
        async with (
            Subscriber("127.0.0.1", "heat", group="g", control_port=broker.control_port) as sub,
            Publisher("127.0.0.1", data_port=broker.data_port, topics=[HEAT]) as pub,
        ):
            for number in range(10):
                await pub.publish("heat", number)
            assert [(await sub.next(5)).unpack() for _ in range(10)] == list(range(10))
            with broker.changed:
                broker.core.restart()
            assert await asyncio.to_thread(broker.wait, lambda: broker.core.members("heat"))
            for number in range(10):
                await pub.publish("heat", number)
            events = [await sub.next(5) for _ in range(10)]
            assert [event.unpack() for event in events] == list(range(10))
            assert (sub.stats.missed, sub.stats.duplicates) == (0, 0)
        assert broker.core.told == {(7, "g", 1): 10}
    assert "subscribed again" in caplog.text


async def test_events_that_are_quicker_than_the_answer_are_kept() -> None:
    with MiniBrokerThread(HEAT) as broker:
        answer = broker.core.answer

        def event_first(datagram: bytes, ip: str) -> bytes:
            reply = answer(datagram, ip)
            for endpoint in broker.core.members("heat"):
                broker.send(stamped(1, 0, b"early"), endpoint)
            return reply

        broker.core.answer = event_first  # type: ignore[method-assign]
        async with Subscriber("127.0.0.1", "heat", control_port=broker.control_port) as sub:
            event = await sub.next(5)
            assert (event.body, event.missed) == (b"early", 0)


async def test_nothing_is_left_behind_when_opening_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with MiniBrokerThread(HEAT) as broker:
        with pytest.raises(ControlRefused, match="heat"):
            await Subscriber("127.0.0.1", "heat", "cold", control_port=broker.control_port).__aenter__()
        assert broker.core.members("heat") == []
        broker.deaf = True
        monkeypatch.setattr(control, "RETRY_AFTER", (0.01, 0.01))
        with pytest.raises(NoAnswer, match=str(broker.control_port)):
            await Subscriber("127.0.0.1", "heat", control_port=broker.control_port).__aenter__()
        monkeypatch.undo()
        opening = asyncio.create_task(
            Subscriber("127.0.0.1", "heat", control_port=broker.control_port).__aenter__()
        )
        await asyncio.to_thread(broker.wait, lambda: True)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(LocalError, match=r"port that is free"):
            await Subscriber.listen("127.0.0.1", taken.getsockname()[1], topics=[HEAT]).__aenter__()
    with pytest.raises(LocalError, match="at least one topic"):
        Subscriber("127.0.0.1")
    assert no_task_is_left()


async def test_waiting_can_time_out_be_cancelled_and_end() -> None:
    async with listening() as sub:
        with Sender(sub) as send:
            with pytest.raises(TimeoutError, match=r"0\.01 s"):
                await sub.next(0.01)
            waiting = asyncio.create_task(sub.next())
            await asyncio.sleep(0)
            with pytest.raises(LocalError, match="two consumers"):
                await sub.next()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            send(stamped(1, 0, b"kept"))
            assert (await sub.next(5)).body == b"kept"
            send(stamped(1, 1, b"last"))
            reading = asyncio.create_task(collect(sub))
            await sub.close()
            assert await reading == [b"last"]
            with pytest.raises(LocalError, match="closed"):
                await sub.next()
    assert no_task_is_left()


async def collect(sub: Subscriber) -> list[bytes]:
    return [event.body async for event in sub]


async def test_the_portable_reader_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempos._sockets.LINUX", False)
    async with (
        listening() as sub,
        Publisher("127.0.0.1", data_port=sub.member.port, topics=[HEAT], linger=0.001) as pub,
    ):
        for number in range(100):
            await pub.publish("heat", number)
        assert [(await sub.next(5)).unpack() for _ in range(100)] == list(range(100))
    assert no_task_is_left()


async def test_losses_that_go_on_are_told_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    async with listening() as sub:
        warnings = sub._intake._warnings
        warnings._now = lambda: now
        for second in range(100):
            now = float(second)
            sub._intake.overrun(1)
    assert [message.partition(" datagrams")[0] for message in caplog.messages] == ["1", "11", "31", "71"]
    assert caplog.messages[-1].endswith("or read faster (39 more of these left out)")
