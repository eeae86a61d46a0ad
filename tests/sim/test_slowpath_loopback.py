"""The slow path end to end over real sockets on loopback: both kinds of I/O, both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tempos import Framing, Group, Member, Quality, Reason, Route, Topic, Unavailable
from tempos.wire import WIDE, check_payload, decode_event, encode_event, encode_raw, topic_in
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import BESIDE, SlowPathServer, ttl
from tempos_broker.slowpath.sockets import absent

EVENT = Topic(1, "event", Quality.SQ, 3, Framing.EVENT)
RAW = Topic(2, "raw", Quality.BQ, 0, Framing.RAW)
LIMITS = Limits(receive_buffer=4 * 1024 * 1024)
DEADLINE = 20.0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test under asyncio's own event loop and under uvloop."""

    def run(loop_name: str, **fixtures: Any) -> None:
        module = pytest.importorskip("uvloop") if loop_name == "uvloop" else asyncio
        loop = module.new_event_loop()
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        try:
            loop.run_until_complete(test(**fixtures))
        finally:
            loop.close()
        assert errors == []

    loop_name = inspect.Parameter("loop_name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(test)
    run.__name__ = test.__name__
    run.__signature__ = signature.replace(parameters=[loop_name, *signature.parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])(run)


@pytest.fixture(params=["recvmmsg", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    if request.param == "recvmmsg":
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    return bool(request.param == "portable")


@contextlib.asynccontextmanager
async def serving(
    *routes: Route, portable: bool, limits: Limits = LIMITS, listen: str = "127.0.0.1"
) -> AsyncIterator[tuple[SlowPathServer, tuple[str, int]]]:
    server = SlowPathServer(
        topics=(EVENT, RAW),
        listen=(listen,),
        port=0,
        limits=limits,
        tickets=LocalTickets(),
        portable=portable,
    )
    for route in routes:
        server.swap(route)
    await server.start()
    try:
        assert server.status().io == ("portable" if portable else "recvmmsg")
        yield server, ("127.0.0.1", int(server.status().listen[0].rpartition(":")[2]))
    finally:
        await server.close()


@contextlib.contextmanager
def sinks(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in opened:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        yield opened


def member(sink: socket.socket) -> Member:
    return Member(*sink.getsockname())


def both_to(sink: socket.socket) -> tuple[Route, Route]:
    groups = (Group("g", (member(sink),)),)
    return Route(EVENT, 1, groups), Route(RAW, 1, groups)


def read_all(sink: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(sink.recvfrom(65536))
    return got


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE)


def assert_account(server: SlowPathServer) -> None:
    status = server.status()
    booked = sum(n for row in server.counters().values() for reason, n in row.items() if reason not in BESIDE)
    assert status.received == booked + status.queued


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and takes the TTL of each datagram")
@on_both_loops
async def test_each_event_leaves_with_one_less_of_its_ttl_and_none_without(portable: bool) -> None:
    ttls = [64, 64, 2, 64, 255, 1, 3, 3, 1, 64]
    with sinks(2) as (one, two), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        for sink in (one, two):
            ttl.ask(sink)
        groups = (Group("g", (member(one),)), Group("h", (member(two),)))
        async with serving(Route(EVENT, 1, groups), portable=portable) as (server, address):
            for number, each in enumerate(ttls):
                publisher.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, each)
                publisher.sendto(encode_event(1, 7, number, 0, b"same size"), address)
            await until(lambda: server.status().received == len(ttls) and server.status().queued == 0)
            assert server.counters() == {1: {Reason.FORWARDED: 8, Reason.TTL: 2}}
            assert_account(server)
            for sink in (one, two):
                got = {}
                for _ in range(8):
                    datagram, ancillary, _, _ = sink.recvmsg(100, ttl.SPACE)
                    got[decode_event(datagram).sequence] = ttl.told(ancillary)
                assert got == {number: each - 1 for number, each in enumerate(ttls) if each > 1}


@on_both_loops
async def test_every_group_gets_each_event_once_in_turn_and_stamped(portable: bool) -> None:
    with sinks(4) as (a, b, c, lone):
        route = Route(
            EVENT, 0x1FE, (Group("abc", (member(a), member(b), member(c))), Group("lone", (member(lone),)))
        )
        raw_route = Route(RAW, 1, (Group("r", (member(lone),)), Group("s", (member(lone),))))
        async with serving(route, raw_route, portable=portable, listen="0.0.0.0") as (server, address):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
                events = [
                    encode_event(1, 77, n, n * 1000, b"body %03d" % n + b"." * (n % 50 * (n // 150)))
                    for n in range(300)
                ]
                raws = [encode_raw(2, b"%d" % n) for n in range(30)]
                for n, datagram in enumerate(events):
                    publisher.sendto(datagram, address)
                    if n < len(raws):
                        publisher.sendto(raws[n], address)
                    if n % 64 == 63:
                        await until(lambda sent=n + 1: server.status().received >= sent)
            await until(lambda: server.status().received == 330 and server.status().queued == 0)
            got = {sink: read_all(sink) for sink in (a, b, c, lone)}
            assert server.counters() == {1: {Reason.FORWARDED: 300}, 2: {Reason.FORWARDED: 30}}
            assert_account(server)

            for turn, sink in enumerate((a, b, c)):
                decoded = [decode_event(datagram) for datagram, _ in got[sink]]
                assert [event.sequence for event in decoded] == list(range(turn, 300, 3))
                assert [event.delivery_sequence for event in decoded] == list(range(100))
                assert {event.epoch for event in decoded} == {0xFE}
            alone = [decode_event(datagram) for datagram, _ in got[lone] if datagram[0] == 1]
            assert [event.delivery_sequence for event in alone] == list(range(300))
            for event, sent in zip(alone, events, strict=True):
                original = decode_event(sent)
                assert (event.publisher, event.sequence, event.sent_ns) == (
                    77,
                    original.sequence,
                    original.sent_ns,
                )
                assert bytes(event.bodies[0]) == bytes(original.bodies[0])
            assert Counter(datagram for datagram, _ in got[lone] if datagram[0] == 2) == Counter(raws * 2)
            assert {source for each in got.values() for _, source in each} == {address}


@on_both_loops
async def test_a_swap_sends_what_follows_to_the_new_members(portable: bool) -> None:
    with sinks(2) as (old, new), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        async with serving(portable=portable) as (server, address):

            async def publish(numbers: range) -> None:
                before = server.status().received
                for number in numbers:
                    publisher.sendto(encode_event(1, 5, number, 0, b""), address)
                await until(
                    lambda: server.status().received == before + len(numbers) and not server.status().queued
                )

            await publish(range(10))
            server.swap(Route(EVENT, 1, (Group("g", (member(old),)),)))
            await publish(range(10, 30))
            server.swap(Route(EVENT, 2, (Group("g", (member(new),)),)))
            await publish(range(30, 40))
            assert [decode_event(d).sequence for d, _ in read_all(old)] == list(range(10, 30))
            assert [(decode_event(d).sequence, decode_event(d).epoch) for d, _ in read_all(new)] == [
                (number, 2) for number in range(30, 40)
            ]
            assert server.counters() == {1: {Reason.NO_MEMBER: 10, Reason.FORWARDED: 30}}


@on_both_loops
async def test_whatever_arrives_is_counted_and_nothing_raises(
    portable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(2)
    limits = Limits(datagram=1500, receive_buffer=4 * 1024 * 1024)
    with sinks(1) as (sink,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        async with serving(*both_to(sink), portable=portable, limits=limits) as (server, address):
            expected: Counter[tuple[int, Reason]] = Counter()
            for sent in range(1, 3001):
                datagram = rng.randbytes(rng.choice((0, 1, 2, 23, 24, 25, 200, 1500, 1501, 3000)))
                if datagram:
                    mutated = bytearray(datagram)
                    mutated[0] = rng.choice((0, 1, 1, 1, 2, 2, 77, 255))
                    if len(mutated) > 3:
                        mutated[1], mutated[2] = rng.choice(((0x10, 0), (0x18, 0), (0x10, 1), (0x20, 0)))
                    datagram = bytes(mutated)
                publisher.sendto(datagram, address)
                topic = datagram[0] if datagram else 0
                reason = check_payload(datagram, Framing.EVENT if topic == 1 else Framing.RAW)
                if len(datagram) > limits.datagram:
                    reason = Reason.CUT_SHORT
                if reason is Reason.REPLY:
                    # This one has no key, so no address is good.
                    reason = Reason.BAD_RETURN
                if reason is Reason.FORWARDED and topic not in (1, 2):
                    # No wide topic is configured; what stands for none is no topic's.
                    reserved = topic_in(datagram) in (0, WIDE)
                    reason = Reason.RESERVED_TOPIC if reserved else Reason.UNKNOWN_TOPIC
                expected[topic, reason] += 1
                if sent % 100 == 0:
                    await until(
                        lambda sent=sent: server.status().received == sent and not server.status().queued
                    )
                    read_all(sink)
            counted = {(t, reason): n for t, row in server.counters().items() for reason, n in row.items()}
            assert counted == expected
            assert_account(server)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.skipif(sys.platform != "linux", reason="which sends fail is the kernel's choice")
@on_both_loops
async def test_a_member_that_cannot_be_sent_to_costs_only_its_own_events(
    portable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with sinks(1) as (sink,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        # Sending to a broadcast address is refused (EACCES) unless a socket asks for the right.
        unreachable = Member("255.255.255.255", 9)
        route = Route(EVENT, 7, (Group("half", (member(sink), unreachable)), Group("whole", (member(sink),))))
        async with serving(route, portable=portable) as (server, address):
            for number in range(40):
                publisher.sendto(encode_event(1, 5, number, 0, b"x" * 100), address)
            await until(lambda: server.status().received == 40 and not server.status().queued)
            assert server.counters() == {1: {Reason.FORWARDED: 40, Reason.SEND_ERROR: 20}}
            assert (server.lost(1, 7, 0), server.lost(1, 7, 1)) == (20, 0)
            assert len(read_all(sink)) == 60
    told = [record.getMessage() for record in caplog.records if "topic 1" in record.getMessage()]
    assert len(told) == 1
    assert "Permission denied" in told[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it dropped")
@on_both_loops
async def test_what_the_kernel_drops_in_front_of_the_socket_is_counted_and_told(
    portable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(receive_buffer=4096)
    async with serving(portable=portable, limits=limits) as (server, address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            # Nothing is read before the loop runs again.
            for _ in range(1000):
                publisher.sendto(b"\x02" + bytes(100), address)
        await until(lambda: server.status().received + server.counters()[0][Reason.SOCKET_OVERRUN] == 1000)
        assert server.counters()[0][Reason.SOCKET_OVERRUN] > 900
        assert_account(server)
    told = [record.getMessage() for record in caplog.records if "lost in front of" in record.getMessage()]
    assert len(told) == 1
    assert "net.core.rmem_max" in told[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets nothing in while it is read")
@on_both_loops
async def test_what_has_come_is_served_before_it_closes_and_what_comes_then_is_turned_away(
    portable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with sinks(1) as (sink,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        async with serving(*both_to(sink), portable=portable) as (server, address):
            # Nothing is read before the loop runs again.
            for number in range(100):
                publisher.sendto(encode_raw(2, b"%d" % number), address)
                publisher.sendto(encode_event(1, 1, number, 0, b"now"), address)
            server.shut()
            for _ in range(7):
                publisher.sendto(encode_raw(2, b"late"), address)
            await server.close()
            assert server.counters() == {1: {Reason.FORWARDED: 100}, 2: {Reason.FORWARDED: 100}}
        assert len(read_all(sink)) == 200
    told = [record.getMessage() for record in caplog.records if "turned away" in record.getMessage()]
    assert [line.partition(" by ")[0] for line in told] == ["7 datagrams turned away"]


@on_both_loops
async def test_strict_events_pass_a_backlog_of_best_effort(portable: bool) -> None:
    limits = Limits(batch=8, queue_bq=4096, receive_buffer=4 * 1024 * 1024)
    with sinks(1) as (sink,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        async with serving(*both_to(sink), portable=portable, limits=limits) as (server, address):
            for number in range(500):
                publisher.sendto(encode_raw(2, b"%d" % number), address)
            publisher.sendto(encode_event(1, 1, 1, 0, b"now"), address)
            await until(lambda: server.status().received == 501 and not server.status().queued)
            order = [datagram[0] for datagram, _ in read_all(sink)]
            assert len(order) == 501
            if not portable:  # which reads datagram by datagram, so that no backlog arises
                assert order.index(1) < 300


@on_both_loops
async def test_what_was_taken_is_sent_before_it_closes(portable: bool) -> None:
    limits = Limits(batch=4, receive_buffer=4 * 1024 * 1024)
    with sinks(1) as (sink,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        async with serving(*both_to(sink), portable=portable, limits=limits) as (server, address):
            for number in range(200):
                publisher.sendto(encode_raw(2, b"%d" % number), address)
            await until(lambda: server.status().received > 0)
        assert server.status().queued == 0
        assert len(read_all(sink)) == server.counters()[2][Reason.FORWARDED] == server.status().received
        await server.close()


@on_both_loops
async def test_says_why_it_cannot_listen(portable: bool) -> None:
    def server(address: str, port: int) -> SlowPathServer:
        return SlowPathServer(
            topics=(), listen=("127.0.0.1", address), port=port, limits=LIMITS, tickets=LocalTickets(),
            portable=portable,
        )  # fmt: skip

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}/udp.*ss -ulpn"):
            await server("127.0.0.1", port).start()
    assert re.search("no interface has this address.*ip vrf exec", absent("192.0.2.1"))
    if sys.platform == "linux":
        waiting = server("192.0.2.1", 0)
        await waiting.start()
        assert any("192.0.2.1" in each for each in waiting.status().listen), "it may come later"
        await waiting.close()


@on_both_loops
async def test_a_foreign_source_is_refused_counted_and_named(
    portable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux has all of 127.0.0.0/8 on loopback")
    ours = replace(RAW, sources=("127.0.0.2/32", "127.1.0.0/16"))
    with contextlib.ExitStack() as stack:
        (sink,) = stack.enter_context(sinks(1))
        publishers = {}
        for ip in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
            publishers[ip] = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            publishers[ip].bind((ip, 0))
        group = (Group("g", (member(sink),)),)
        async with serving(Route(ours, 1, group), portable=portable) as (server, address):
            for ip, publisher in publishers.items():
                publisher.sendto(b"\x02" + ip.encode(), address)
            await until(lambda: server.status().received == 3 and server.status().queued == 0)
            assert server.counters() == {2: {Reason.FORWARDED: 2, Reason.FOREIGN_SOURCE: 1}}
            assert {datagram[1:] for datagram, _ in read_all(sink)} == {b"127.0.0.2", b"127.1.2.3"}
            assert "topic 2 refused, the last from 127.0.0.1" in caplog.text
            # The next route brings other networks: none at all lets everybody in.
            server.swap(Route(RAW, 2, group))
            publishers["127.0.0.1"].sendto(b"\x02x", address)
            await until(lambda: server.status().received == 4 and server.status().queued == 0)
            assert server.counters() == {2: {Reason.FORWARDED: 3, Reason.FOREIGN_SOURCE: 1}}
            assert_account(server)
