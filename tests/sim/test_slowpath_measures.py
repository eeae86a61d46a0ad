"""What the slow path measures, over real sockets on loopback: exact bytes, and each event's time once."""

from __future__ import annotations

import asyncio
import random
import socket
import time

import pytest

from tempos import Framing, Group, Member, Quality, Route, Topic
from tempos._abi import LATENCY_BEYOND, LATENCY_BUCKETS
from tempos._rows import Rows
from tempos.histogram import bounds
from tempos.wire import encode_event, encode_raw
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.measures import INSIDE, Measures, together

EVENT = Topic(1, "event", Quality.SQ, 3, Framing.EVENT)
RAW = Topic(2, "raw", Quality.BQ, 0, Framing.RAW)
WIDE = Topic(700, "wide", Quality.BQ, 0, Framing.EVENT)
TOPICS = (EVENT, RAW, WIDE)
LIMIT = 20.0
SECOND = 10**9


@pytest.fixture(params=["recvmmsg", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    if request.param == "recvmmsg":
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    return bool(request.param == "portable")


async def run(portable: bool, measures: Measures, sent: list[bytes], groups: int = 2) -> SlowPathServer:
    """Have all of ``sent`` go through; the server is closed then, and its counts are final."""
    limits = Limits(receive_buffer=4 << 20)
    server = SlowPathServer(topics=TOPICS, listen=("127.0.0.1",), port=0, limits=limits,
                            tickets=LocalTickets(), portable=portable, measures=measures)  # fmt: skip
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sink.bind(("127.0.0.1", 0))
        member = Member(*sink.getsockname())
        for topic in TOPICS:
            server.swap(Route(topic, 1, tuple(Group(f"g{n}", (member,)) for n in range(groups))))
        await server.start()
        address = ("127.0.0.1", int(server.status().listen[0].rpartition(":")[2]))
        for each in sent:
            publisher.sendto(each, address)

        async def all_came() -> None:
            while server.status().received < len(sent):
                await asyncio.sleep(0.001)

        await asyncio.wait_for(all_came(), LIMIT)
        await server.close()
    return server


async def test_bytes_are_those_that_were_sent_and_each_event_has_one_time(portable: bool) -> None:
    rows, now, random_ = Rows(), time.time_ns(), random.Random(7)
    rows.give(WIDE.id)
    measures = Measures(rows, timed=True)
    good = {
        EVENT.id: [encode_event(1, 7, n, now, bytes(random_.randrange(900))) for n in range(300)],
        RAW.id: [encode_raw(2, bytes(random_.randrange(900))) for _ in range(200)],
        WIDE.id: [encode_event(700, 7, n, now, bytes(n)) for n in range(50)],
    }
    # Of another version, and of no topic: refused, so only the first of the two is of any topic.
    bad = [bytes([1, 0xF0]) + bytes(30), bytes([99]) + bytes(50)]
    sent = [*good[1], *good[2], *good[700], *bad]
    random_.shuffle(sent)
    server = await run(portable, measures, sent)
    for topic, datagrams in good.items():
        told = server.measured(topic)
        assert told is not None
        size = sum(map(len, datagrams))
        assert (told.arrived, told.forwarded) == (size + (len(bad[0]) if topic == 1 else 0), size)
        assert (told.inside.count, told.inside.ahead, told.inside.beyond) == (len(datagrams), 0, 0)
        assert told.since_sent.count == (0 if topic == RAW.id else len(datagrams))
        assert sum(told.inside.buckets) == len(datagrams)
        assert 0 < told.inside.longest < LIMIT * SECOND
        if topic != RAW.id:
            assert told.since_sent.longest > told.inside.percentile(1)  # type: ignore[operator]
    assert server.measured(99) is None
    server.change(drop=[EVENT.id])
    assert (server.measured(EVENT.id), server.measured(RAW.id) is None) == (None, False)


async def test_clocks_that_disagree_are_told_apart(portable: bool) -> None:
    measures, now = Measures(Rows(), timed=True), time.time_ns()
    ahead, absurd = now + 1000 * SECOND, now - 2 * LATENCY_BEYOND
    sent = [encode_event(1, 7, n, at, b"") for n, at in enumerate((now, ahead, ahead, absurd))]
    told = (await run(portable, measures, sent)).measured(EVENT.id)
    assert told is not None
    assert (told.since_sent.ahead, told.since_sent.beyond, told.since_sent.measured) == (2, 1, 1)
    assert told.inside.measured == len(sent)


async def test_without_times_bytes_are_counted_and_no_clock_is_asked(portable: bool) -> None:
    measures = Measures(Rows(), timed=False)
    sent = [encode_event(1, 7, n, 0, bytes(n)) for n in range(20)]
    told = (await run(portable, measures, sent, groups=3)).measured(EVENT.id)
    assert told is not None
    assert (told.arrived, told.forwarded) == (sum(map(len, sent)),) * 2
    assert (told.inside.count, told.since_sent.count) == (0, 0)
    assert len(measures.numbers) == Rows().count * INSIDE


def test_a_time_falls_into_the_bucket_that_has_its_bounds() -> None:
    measures = Measures(Rows(), timed=True)
    measures.add(1, arrived=1)
    for index in range(LATENCY_BUCKETS):
        low, above = bounds(index)
        for ns in {low, above - 1}:
            before = measures.of(1)
            measures.gone(1, ns, None)
            after = measures.of(1)
            assert before is not None
            assert after is not None
            pairs = zip(before.inside.buckets, after.inside.buckets, strict=True)
            grown = [number for number, (then, now) in enumerate(pairs) if then != now]
            assert (grown, after.inside.longest) == ([index], ns)
    measures.gone(1, LATENCY_BEYOND, -1)
    told = measures.of(1)
    assert told is not None
    assert (told.inside.beyond, told.since_sent.ahead) == (1, 1)


def test_two_processes_are_one_to_who_asks() -> None:
    one, other = (Measures(Rows(), timed=True) for _ in range(2))
    assert together((one.of(1), other.of(1))) is None
    for measures, times in ((one, (10, 700)), (other, (10, 90_000))):
        measures.add(1, arrived=40, forwarded=30)
        for ns in times:
            measures.gone(1, ns, None)
    told, alone = together((one.of(1), other.of(1))), one.of(1)
    assert told is not None
    assert alone is not None
    assert (told.arrived, told.forwarded, told.inside.count, told.inside.longest) == (80, 60, 4, 90_000)
    assert together((alone, None)) == alone
