"""VLAN tags that lie beside a frame: what has one is never served, on whatever kernel, whoever lives.

The packets themselves are in the parity tests' table; here is what changes while a fast path runs.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from support.bpf import require_compiler
from support.inject import SO_MARK
from support.kernels import BLIND
from support.nodes import configure, udp
from support.offloader import launch
from support.survival import BROKER, EPOCH, LIMIT, TOPIC
from support.tagging import mark_of, tags_by_mark
from support.watched import Watched, in_broker

from tempos import Framing, Group, Member, Path, Reason, Route, Topic
from tempos.wire import encode_event
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import Topology
from tempos_fastpath.network.kernel import veth_skb_at
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

SUBSCRIBER = "10.0.2.2"
EVENT = encode_event(TOPIC, 1, 0, 0, b"body")
THERE = Route(
    Topic(TOPIC, "machines", framing=Framing.EVENT), EPOCH, (Group("g", (Member(SUBSCRIBER, 9998),)),)
)


class Senders:
    """Publishes into no VLAN and into one, from the publisher's node."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        require_compiler()
        tags_by_mark(topology.publisher, topology.publisher.interfaces[0])
        self.plain, self.tagged = (stack.enter_context(udp(topology.publisher)) for _ in range(2))
        self.tagged.setsockopt(socket.SOL_SOCKET, SO_MARK, mark_of(10))

    def send(self, sender: socket.socket, to: tuple[str, int] = BROKER) -> None:
        sender.sendto(EVENT, to)


async def counted(offload: Offload, forwarded: int, tagged: int) -> None:
    """Until so many events were forwarded, and so many frames passed for their tags; neither may be more."""
    end = asyncio.get_running_loop().time() + LIMIT
    while True:
        rows = offload.counters()
        found = (
            rows.get(TOPIC, {}).get(Reason.FORWARDED, 0),
            sum(row.get(Reason.VLAN, 0) for row in rows.values()),
        )
        if found == (forwarded, tagged):
            return
        assert found <= (forwarded, tagged), found
        assert asyncio.get_running_loop().time() < end, found
        await asyncio.sleep(0.01)


async def until_mode(offload: Offload, mode: str) -> str:
    """Until the interface that events come in by is in that mode; gives the reason."""
    end = asyncio.get_running_loop().time() + LIMIT
    while (eth0 := offload.status().interfaces[0]).mode != mode:
        assert asyncio.get_running_loop().time() < end, eth0
        await asyncio.sleep(0.01)
    return eth0.reason


def require_sight(mode: str) -> None:
    """A program in that mode sees tags on veth. What happens elsewhere is tried with :data:`BLIND`."""
    if mode == "native" and veth_skb_at() is None:
        pytest.skip("before Linux 6.3 nothing that veth gives a program leads to the socket buffer")


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tagged_frames_stay_with_the_kernel(topology: Topology, mode: str) -> None:
    require_sight(mode)
    with ExitStack() as stack:
        senders = Senders(stack, topology)

        async def scenario(offload: Offload) -> None:
            await Watched(offload, THERE).until(Path.FAST)
            for turn in range(1, 4):
                senders.send(senders.tagged)
                senders.send(senders.plain)
                await counted(offload, turn, turn)
            assert offload.status().mode == mode

        in_broker(topology, scenario, mode=mode)


@pytest.mark.parametrize(("mode", "then"), [("auto", "generic"), ("native", "none")])
def test_where_nothing_tells_the_first_tagged_frame_ends_native_mode(
    topology: Topology, mode: str, then: str
) -> None:
    with ExitStack() as stack:
        senders = Senders(stack, topology)

        async def scenario(offload: Offload) -> None:
            watched = Watched(offload, THERE)
            await watched.until(Path.FAST)
            assert offload.status().mode == "native"
            senders.send(senders.plain)
            await counted(offload, 1, 0)
            senders.send(senders.tagged)
            await counted(offload, 1, 1)
            reason = await until_mode(offload, then)
            assert reason == (
                "native mode: eth0 takes VLAN tags off and does not tell the program, and frames with tags "
                "come in there"
            )
            assert offload.status().interfaces[1].mode == "native", "no tags were heard of there"
            if then == "generic":
                await watched.until(Path.FAST)
                senders.send(senders.plain)
                senders.send(senders.tagged)
                await counted(offload, 2, 2)

        in_broker(topology, scenario, mode=mode, kernel=BLIND)


def test_an_interface_that_is_made_again_has_no_tags_yet(topology: Topology) -> None:
    """It is another interface, though it has the name of the one that had them."""
    with ExitStack() as stack:
        senders = Senders(stack, topology)

        async def scenario(offload: Offload) -> None:
            senders.send(senders.tagged)
            await until_mode(offload, "none")
            configure(topology.broker, renew)
            await until_mode(offload, "native")

        in_broker(topology, scenario, mode="native", interfaces=("eth0", "eth1"), kernel=BLIND)


def renew(netlink: IPRoute) -> None:
    """Another veth in place of `eth0`."""
    netlink.link("del", index=socket.if_nametoindex("eth0"))
    netlink.link("add", ifname="eth0", kind="veth", peer="unused0", mtu=1500)
    for name in ("eth0", "unused0"):
        netlink.link("set", index=socket.if_nametoindex(name), state="up")


def test_a_device_on_another_one_sees_the_tags_that_one_took_off(topology: Topology) -> None:
    """A macvlan gets the frame in the same turn of the kernel, with the tag beside it still."""
    address = "10.0.1.77"

    def add(netlink: IPRoute) -> str:
        below = socket.if_nametoindex("eth0")
        netlink.link("add", ifname="macvlan0", kind="macvlan", link=below, macvlan_mode="bridge")
        index = socket.if_nametoindex("macvlan0")
        netlink.addr("add", index=index, address=address, prefixlen=32)
        netlink.link("set", index=index, state="up")
        return str(netlink.get_links(index)[0].get("address"))

    mac = configure(topology.broker, add)
    with ExitStack() as stack:
        senders = Senders(stack, topology)
        configure(
            topology.publisher,
            lambda netlink: netlink.neigh(
                "replace", dst=address, lladdr=mac, ifindex=socket.if_nametoindex("eth0")
            ),
        )

        async def scenario(offload: Offload) -> None:
            await Watched(offload, THERE).until(Path.FAST)
            senders.send(senders.tagged, (address, 9998))
            senders.send(senders.plain, (address, 9998))
            await counted(offload, 1, 1)

        in_broker(topology, scenario, mode="generic", interfaces=("macvlan0",), listen=[address])


@pytest.mark.parametrize(("mode", "unknown"), [("native", ()), ("generic", ()), ("auto", ("veth_skb_at",))])
def test_without_its_broker_and_with_the_next_one(
    topology: Topology, mode: str, unknown: tuple[str, ...]
) -> None:
    require_sight(mode)

    def start() -> Program:
        program = launch(topology.broker, mode=mode, unknown=unknown)
        program.wait_line("ready")
        program.ask({"do": "install", "topic": TOPIC, "epoch": EPOCH, "members": [[SUBSCRIBER, port]]})
        return program

    with ExitStack() as stack:
        senders = Senders(stack, topology)
        sink = stack.enter_context(udp(topology.subscriber, (SUBSCRIBER, 0)))
        port = sink.getsockname()[1]
        program = start()
        senders.send(senders.plain)
        assert sink.recv(2000)[12:16] == bytes(4)
        program.kill()
        senders.send(senders.plain)
        assert sink.recv(2000)[12:16] == bytes((0, 0, 0, 1))
        senders.send(senders.tagged)
        if not unknown:
            # Of the next two only one has no tag, and it is the one that arrives.
            senders.send(senders.plain)
            assert sink.recv(2000)[12:16] == bytes((0, 0, 0, 2))
        program = start()
        state = {"do": "state", "topic": TOPIC, "epoch": EPOCH}
        if unknown:
            end = time.monotonic() + LIMIT
            while "eth0: generic (native mode: eth0 takes VLAN tags off" not in program.ask(state)["reason"]:
                assert time.monotonic() < end, program.ask(state)
        tickets = program.ask(state)["tickets"]
        senders.send(senders.tagged)
        senders.send(senders.plain)
        assert sink.recv(2000)[12:16] == tickets.to_bytes(4, "big")
        assert program.ask(state)["tickets"] == tickets + 1
        program.ask({"do": "close", "keep": False})
