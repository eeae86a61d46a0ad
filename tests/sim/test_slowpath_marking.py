"""What leaves bears the marks of its class, and the address it was sent to, by whatever socket it came."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest
from support.waiting import LIMIT

from tempos import Framing, Group, Member, Quality, Route, Topic
from tempos.wire import encode_event
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.marking import Marking, mark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="marks are read as Linux gives them")

IP_RECVTOS = 13  # <linux/in.h>
SO_PRIORITY = 12
STRICT = Topic(1, "alarms", Quality.SQ, framing=Framing.RAW)
BEST = Topic(2, "logs", Quality.BQ, framing=Framing.EVENT)
QUALITY = {"dscp_sq": 46, "dscp_bq": 10, "so_priority_sq": 6, "so_priority_bq": 3}


async def received(sink: socket.socket, count: int) -> list[tuple[int, int, str]]:
    """Topic, byte of the IPv4 header and source of so many datagrams."""
    got: list[tuple[int, int, str]] = []

    async def read() -> None:
        while len(got) < count:
            with contextlib.suppress(BlockingIOError):
                data, ancillary, _, source = sink.recvmsg(100, 100)
                (tos,) = (value[0] for level, kind, value in ancillary if (level, kind) == (0, socket.IP_TOS))
                got.append((data[0], tos, source[0]))
                continue
            await asyncio.sleep(0.001)

    await asyncio.wait_for(read(), LIMIT)
    return got


@pytest.mark.parametrize("portable", [False, True], ids=["recvmmsg", "portable"])
@pytest.mark.parametrize("sockets", ["classic", "one"])
@pytest.mark.parametrize("listen", ["127.0.0.7", "0.0.0.0"])
async def test_every_copy_bears_the_marks_of_its_class(portable: bool, sockets: str, listen: str) -> None:
    if not portable:
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        sink.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        member = Member(*sink.getsockname(), source="127.0.0.7")
        groups = (Group("a", (member, member)), Group("b", (member,)))
        server = SlowPathServer(
            topics=(STRICT, BEST),
            listen=(listen,),
            port=0,
            limits=Limits(),
            tickets=LocalTickets(),
            portable=portable,
            quality=QualityConfig(sockets=sockets, **QUALITY),  # type: ignore[arg-type]
        )
        for topic in (STRICT, BEST):
            server.swap(Route(topic, 1, groups))
        await server.start()
        try:
            port = int(server.status().listen[0].rpartition(":")[2])
            publisher.connect(("127.0.0.7", port))
            for number in range(10):
                publisher.send(b"\x01x")
                publisher.send(encode_event(2, 1, number, 0, b""))
            got = await received(sink, 40)
            # The kernel sorts by the class that was; the core by the class that is.
            turned = Topic(2, "logs", Quality.SQ, framing=Framing.EVENT)
            server._core.put(turned)
            server.swap(Route(turned, 2, groups))
            publisher.send(encode_event(2, 1, 10, 0, b""))
            late = await received(sink, 2)
            status = server.status()
        finally:
            await server.close()
    assert set(got) == {(topic, dscp << 2, "127.0.0.7") for topic, dscp in ((1, 46), (2, 10))}
    assert set(late) == {(2, 46 << 2, "127.0.0.7")}
    assert status.sockets == sockets
    strict, best = status.classes[Quality.SQ], status.classes[Quality.BQ]
    assert (strict.marking.dscp, best.marking) == (46, Marking(10, 3))
    if sockets == "one":
        assert "it follows from the DSCP" in strict.marking_reason
    else:
        assert (strict.marking.priority, strict.marking_reason) == (6, "")
    assert best.marking_reason == ""


def test_the_priority_is_set_beside_the_dscp_and_what_is_refused_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert mark(sock, Marking(46, 2)).marking == Marking(46, 2)
        assert sock.getsockopt(socket.SOL_SOCKET, SO_PRIORITY) == 2, "IP_TOS did not have the last word"

        class Unprivileged(socket.socket):
            """As a process without CAP_NET_ADMIN has it."""

            def setsockopt(self, level: int, option: int, value: object, *rest: object) -> None:  # type: ignore[override]
                if option == SO_PRIORITY and isinstance(value, int) and value > 6:
                    raise PermissionError(1, "Operation not permitted")
                super().setsockopt(level, option, value)  # type: ignore[call-overload]

        with Unprivileged(fileno=sock.detach()) as limited:
            marked = mark(limited, Marking(40, 7))
            assert marked.marking == Marking(40, limited.getsockopt(socket.SOL_SOCKET, SO_PRIORITY))
            assert marked.reason == (
                "SO_PRIORITY 7: Operation not permitted (above 6 it needs CAP_NET_ADMIN)"
            )
