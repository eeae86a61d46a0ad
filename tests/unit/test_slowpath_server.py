"""What the slow path says of itself, and how it chooses its I/O."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

import pytest

from tempos import Framing, Group, Member, Reason, Route, Topic
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import SlowPathServer
from tempos_daemon.sparingly import INTERVAL, Sparingly

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
@pytest.mark.parametrize("portable", [False, True])
async def test_each_listen_address_answers_for_itself(portable: bool) -> None:
    if not portable:
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    server = make("127.0.0.1", "127.0.0.2", portable=portable)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(10)
        server.swap(Route(RAW, 1, (Group("g", (Member(*sink.getsockname()),)),)))
        await server.start()
        try:
            status = server.status()
            assert len(status.listen) == 2
            assert status.receive_buffer >= 65536
            for text in status.listen:
                address, _, port = text.partition(":")
                publisher.sendto(b"\x01from " + address.encode(), (address, int(port)))
                datagram, source = await asyncio.to_thread(sink.recvfrom, 100)
                assert (datagram, source) == (b"\x01from " + address.encode(), (address, int(port)))
        finally:
            await server.close()
    assert server.counters() == {1: {Reason.FORWARDED: 2}}
    assert server.status().listen == ()


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
