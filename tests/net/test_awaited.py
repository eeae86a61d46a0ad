"""A broker that starts before its address and its interfaces are there: it gets them later, by itself."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections import Counter

import pytest
from starlette.types import Receive, Scope, Send
from support.nodes import ip, udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import PYTHON
from tempos_bench.nodes.topology import Topology, build
from tempos_daemon.http_server import HttpServer

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

TOPIC = Topic(id=7, name="news", framing=Framing.RAW)


def awaited(broker: Broker) -> set[str]:
    return {each["what"] for each in broker.status()["broker"]["awaited"]}


@pytest.mark.parametrize("named", [True, False])
def test_the_address_and_every_interface_come_after_the_start(named: bool) -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology:
        node, near = topology.broker, topology.broker.address
        cards = node.interfaces
        late_comers(topology)
        group = Group("a", (Member(topology.subscriber.address, 5001),))
        with (
            udp(topology.subscriber, (topology.subscriber.address, 5001)) as got,
            udp(topology.publisher) as sender,
            Broker(node, {TOPIC: [group]}, mode="auto", listen=(near,), all_interfaces=not named) as broker,
        ):
            interfaces = {f"interface {card}" for card in cards if named}
            assert awaited(broker) == {f"address {near}", *interfaces}
            assert broker.topic(TOPIC.name).path == "slow"
            waits = ", ".join(cards) if named else "one with a listen address"
            fast = broker.status()["paths"]["fast"]
            assert (fast["mode"], fast["reason"]) == ("none", f"waits for an interface: {waits}")
            ip(node, f"addr add {near}/24 dev later0", "link set later0 up")
            until(lambda: awaited(broker) == interfaces, "the address has come")

            def told() -> bool:
                return subprocess.run(
                    [PYTHON, "-m", "tempos", "pub", "-b", near, "-t", TOPIC.name, "-m", "x"],
                    check=False, capture_output=True,
                ).returncode == 0  # fmt: skip

            assert topology.publisher.call(told), "control answers, and data comes"
            ip(node, "link set later0 down", f"link set later0 name {cards[0]}", f"link set {cards[0]} up")
            ip(node, "link set later1 down", f"link set later1 name {cards[1]}", f"link set {cards[1]} up")
            until(lambda: not awaited(broker), "all has come")
            broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
            before = broker.topic(TOPIC.name).fast

            def goes_fast() -> bool:
                sender.sendto(b"\x07fast", (near, DATA_PORT))
                return broker.topic(TOPIC.name).fast > before

            until(goes_fast, "events go fast by what has come")
            until(lambda: got.recv(100) == b"\x07fast", "and arrive")


def late_comers(topology: Topology) -> None:
    """Have the broker's interfaces under other names, and its address nowhere."""
    node = topology.broker
    for number, card in enumerate(node.interfaces):
        ip(node, f"link set {card} down", f"link set {card} name later{number}", f"link set later{number} up")
    ip(node, f"addr del {node.address}/24 dev later0")


def test_the_api_answers_at_an_address_that_comes_later() -> None:
    require_netns()
    with build("straight") as topology:
        node = topology.broker

        def early() -> HttpServer:
            with pytest.raises(OSError, match="Cannot assign"):
                HttpServer(nothing, "10.0.1.77", 9996, Counter()).bind()
            server = HttpServer(nothing, "10.0.1.77", 9996, Counter(), early=True)
            server.bind()
            return server

        async def asked(server: HttpServer) -> bytes:
            await server.start()
            try:
                reader, writer = await asyncio.open_connection(sock=client)
                writer.write(b"GET / HTTP/1.1\r\nHost: 10.0.1.77\r\n\r\n")
                return await asyncio.wait_for(reader.readline(), LIMIT)
            finally:
                writer.close()
                await server.close()

        server = node.call(early)
        ip(node, f"addr add 10.0.1.77/24 dev {node.interfaces[0]}")
        client = topology.publisher.call(lambda: socket.create_connection(("10.0.1.77", 9996), LIMIT))
        client.setblocking(False)
        assert asyncio.run(asked(server)).startswith(b"HTTP/1.1 204")


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that has nothing to say."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
