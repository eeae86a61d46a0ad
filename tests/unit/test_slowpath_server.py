"""What the slow path says of itself, and how it chooses its I/O."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import ExitStack

import pytest

from tempos import Framing, Group, Member, Reason, Route, Topic
from tempos._remarks import INTERVAL, KINDS, Sparingly
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.sockets import DataSocket

RAW = Topic(1, "raw", framing=Framing.RAW)


def make(*listen: str, portable: bool = False) -> SlowPathServer:
    return SlowPathServer(
        topics=(RAW,),
        listen=listen,
        port=0,
        limits=Limits(receive_buffer=65536),
        tickets=LocalTickets(),
        portable=portable,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
@pytest.mark.parametrize("portable", [False, True], ids=["batched", "portable"])
@pytest.mark.parametrize("listen", [("127.0.0.1", "127.0.0.2"), ("0.0.0.0",)], ids=["bound", "any"])
async def test_a_member_that_takes_events_from_one_address_alone_gets_them_all(
    listen: tuple[str, ...], portable: bool
) -> None:
    """Whichever the publishers send to. The kernel sees to it that a connected socket takes no other's."""
    if not portable:
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    ours = ("127.0.0.1", "127.0.0.2")
    server = make(*listen, portable=portable)
    with ExitStack() as stack:
        sinks = {address: stack.enter_context(udp()) for address in ours}
        publisher = stack.enter_context(udp())
        groups = tuple(
            Group(address, (Member(*sink.getsockname(), source=address),)) for address, sink in sinks.items()
        )
        server.swap(Route(RAW, 1, groups))
        await server.start()
        try:
            status = server.status()
            assert len(status.listen) == len(listen)
            assert status.receive_buffer >= 65536
            ports = {text.partition(":")[0]: int(text.partition(":")[2]) for text in status.listen}
            for address, sink in sinks.items():
                sink.connect((address, ports.get(address) or ports["0.0.0.0"]))
            for address in ours:
                payload = b"\x01to " + address.encode()
                publisher.sendto(payload, (address, ports.get(address) or ports["0.0.0.0"]))
                for sink in sinks.values():
                    assert await asyncio.to_thread(sink.recv, 100) == payload
        finally:
            await server.close()
    assert server.counters() == {1: {Reason.FORWARDED: 2}}
    assert server.status().listen == ()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
@pytest.mark.parametrize("portable", [False, True], ids=["batched", "portable"])
@pytest.mark.parametrize("sockets", ["auto", "one"])
async def test_a_lone_event_is_looked_for_where_it_came_and_many_are_served_wherever(
    sockets: str, portable: bool
) -> None:
    if not portable:
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    listen = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    server = SlowPathServer(
        topics=(RAW,), listen=listen, port=0, limits=Limits(receive_buffer=1 << 20, batch=8),
        tickets=LocalTickets(), portable=portable, quality=QualityConfig(sockets=sockets),
    )  # fmt: skip
    looked: list[str] = []
    with ExitStack() as stack:
        sink, publisher = stack.enter_context(udp()), stack.enter_context(udp())
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.swap(Route(RAW, 1, (Group("g", (Member(*sink.getsockname()),)),)))
        await server.start()
        receive = server._adapter._mover.receive  # type: ignore[attr-defined]

        def seen(source: DataSocket, limit: int) -> int:
            looked.append(source.address)
            return receive(source, limit)  # type: ignore[no-any-return]

        server._adapter._mover.receive = seen  # type: ignore[attr-defined]
        try:
            addresses = [
                (text.partition(":")[0], int(text.partition(":")[2])) for text in server.status().listen
            ]
            for number, address in enumerate((*addresses, *addresses)):
                looked.clear()
                publisher.sendto(bytes((1, number)), address)
                assert (await asyncio.to_thread(sink.recv, 100))[1] == number
                if number >= len(addresses):
                    assert set(looked) == {address[0]}, "of no other socket anything was told"
            # More than a turn takes, at all of them at once.
            for number in range(100):
                for address in addresses:
                    publisher.sendto(bytes((1, number)), address)
            for _ in range(300):
                await asyncio.to_thread(sink.recv, 100)
            # What nobody was told of any more when it ends.
            for address in addresses:
                publisher.sendto(b"\1end", address)
        finally:
            await server.close()
        assert [sink.recv(100) for _ in addresses] == [b"\1end"] * len(addresses)
    assert server.counters() == {1: {Reason.FORWARDED: 6 + 300 + len(addresses)}}


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(10)
    return sock


def test_without_the_compiled_helper_it_says_so_and_serves_portably(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere it is not even tried")
    monkeypatch.delitem(sys.modules, "tempos_broker.slowpath.batched", raising=False)
    monkeypatch.setitem(sys.modules, "tempos_broker._batch", None)
    status = make("127.0.0.1").status()
    assert status.io == "portable"
    assert "compiled helper cannot be loaded" in status.reason


def test_a_warning_that_repeats_is_told_once_an_interval_with_the_number_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    log = Sparingly(logging.getLogger("test"), lambda: now)
    for _ in range(5):
        log.warn("loss", "lost")
    log.warn("other", "also")
    now += INTERVAL
    log.warn("loss", "lost again")
    log.warn("loss", "lost again")
    assert [record.getMessage() for record in caplog.records] == [
        "lost",
        "also",
        "lost again (4 more of these left out)",
    ]


def test_of_kinds_that_come_and_go_few_are_kept_in_mind(caplog: pytest.LogCaptureFixture) -> None:
    log = Sparingly(logging.getLogger("test"), lambda: 100.0)
    for number in range(3 * KINDS):
        log.warn(f"topic {number}", "lost")
        log.warn(f"topic {number}", "lost")
    assert len(log._kinds) == KINDS
    assert len(caplog.records) == 3 * KINDS


def test_what_goes_on_for_hours_is_told_ever_more_rarely_and_anew_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    log = Sparingly(logging.getLogger("test"), lambda: now)
    told = []
    for second in range(3600):
        log.warn("loss", "lost")
        if len(caplog.records) > len(told):
            told.append(second)
        now += 1
    assert told == [0, 10, 30, 70, 150, 310, 630, 1270, 1910, 2550, 3190]
    now += INTERVAL
    log.warn("loss", "lost anew")
    assert caplog.messages[-2:] == [
        "lost (639 more of these left out)",
        "lost anew (409 more of these left out)",
    ]
