"""What the network does to a fast path, and that it comes back by itself; what is lost behind it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest
from pyroute2 import IPRoute
from support.features import NO_TCX, no_tcx, tells_redirects
from support.nodes import configure, set_gro, udp
from support.offloader import make_route
from support.watched import LIMIT, Watched, in_broker

from tempos import Path, PathChoice, Reason, Route
from tempos.wire import encode_event
from tempos_bench.nodes.topology import Topology, mac_of
from tempos_bpf.links import query_xdp
from tempos_fastpath.offload import Offload
from tempos_fastpath.survival import pins

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

TOPIC, PORT = 7, 9998
A, B, B_FAR, C = "10.0.1.2", "10.0.1.1", "10.0.2.1", "10.0.2.2"
THERE = make_route(TOPIC, 1, [[(C, PORT)]])


def watch(topology: Topology, scenario: Callable[[Watched], Awaitable[None]], route: Route = THERE) -> None:
    """Run ``scenario`` with a fast path that is to carry the route."""
    in_broker(topology, lambda offload: scenario(Watched(offload, route)))


def index_of(netlink: IPRoute, name: str) -> int:
    return int(netlink.link_lookup(ifname=name)[0])


def join(topology: Topology, index: int = 0) -> None:
    """Make the link between broker and subscriber anew, as after a hot plug."""

    def create(netlink: IPRoute) -> None:
        peer = {"ifname": "eth0", "net_ns_fd": str(topology.subscriber._namespace.path), "mtu": 1500}
        more = {"index": index} if index else {}
        netlink.link("add", ifname="eth1", kind="veth", mtu=1500, address=mac_of(B_FAR), peer=peer, **more)

    def up(netlink: IPRoute, name: str, address: str) -> None:
        number = index_of(netlink, name)
        netlink.link("set", index=number, address=mac_of(address))
        netlink.addr("add", index=number, address=address, prefixlen=24)
        netlink.link("set", index=number, state="up")

    configure(topology.broker, create)
    topology.broker.call(lambda: set_gro("eth1", True))
    topology.subscriber.call(lambda: set_gro("eth0", True))
    configure(topology.broker, lambda netlink: up(netlink, "eth1", B_FAR))
    configure(topology.subscriber, lambda netlink: up(netlink, "eth0", C))


async def crosses(topology: Topology, offload: Offload) -> None:
    """One event goes through the fast path and arrives."""
    loop = asyncio.get_running_loop()
    with udp(topology.publisher, (A, 0)) as source, udp(topology.subscriber, (C, PORT)) as sink:
        before = offload.counters().get(TOPIC, {}).get(Reason.FORWARDED, 0)
        source.sendto(encode_event(TOPIC, 1, 1, 0, b"body"), (B, PORT))
        assert (await loop.run_in_executor(None, sink.recv, 2000))[24:] == b"body"
        assert offload.counters()[TOPIC][Reason.FORWARDED] == before + 1


@pytest.mark.parametrize("same_index", [False, True])
def test_an_interface_that_is_removed_and_made_again(topology: Topology, same_index: bool) -> None:
    async def scenario(watched: Watched) -> None:
        offload = watched.offload
        await watched.until(Path.FAST)
        index = socket.if_nametoindex("eth1")
        configure(topology.broker, lambda netlink: netlink.link("del", index=index))
        # With the same index it may be back before anybody has looked.
        if not same_index:
            await watched.until(Path.FAST, f"left out: they cannot be reached (member {C}:9998: ")
            while offload.status().interfaces[1].mode != "none":
                await watched.told()
            assert offload.status().interfaces[1].reason == "the interface is gone"
        join(topology, index if same_index else 0)
        while query_xdp(socket.if_nametoindex("eth1")) is None:
            watched.forget()
            await watched.told()
        await watched.until(Path.FAST)
        assert offload.status().interfaces[1].mode == "native"
        assert offload.status().mode == "native"
        await crosses(topology, offload)

    watch(topology, scenario)


@pytest.mark.parametrize("fanout", ["xdp", "tc"])
def test_copies_for_several_groups_come_back_with_an_interface(topology: Topology, fanout: str) -> None:
    """They leave by the new interface, and are made of what comes in there."""
    groups = [[(C, PORT + number)] for number in range(3)]

    async def all_get_one(offload: Offload, source: socket.socket, broker: str) -> None:
        loop = asyncio.get_running_loop()
        before = offload.counters().get(TOPIC, {}).get(Reason.FORWARDED, 0)
        with ExitStack() as stack:
            stack.enter_context(source)
            sinks = [stack.enter_context(udp(topology.subscriber, member)) for (member,) in groups]
            source.sendto(encode_event(TOPIC, 1, 1, 0, b"body"), (broker, PORT))
            for sink in sinks:
                assert (await loop.run_in_executor(None, sink.recv, 2000))[24:] == b"body"
        assert offload.counters()[TOPIC][Reason.FORWARDED] == before + 1

    async def scenario(watched: Watched) -> None:
        offload = watched.offload
        if fanout == "tc" and no_tcx():
            await watched.until(Path.SLOW, NO_TCX)
            return
        await watched.until(Path.FAST)
        await all_get_one(offload, udp(topology.publisher, (A, 0)), B)
        index = socket.if_nametoindex("eth1")
        configure(topology.broker, lambda netlink: netlink.link("del", index=index))
        await watched.until(Path.FAST, "3 of 3 members left out")
        join(topology)
        while query_xdp(socket.if_nametoindex("eth1")) is None:
            watched.forget()
            await watched.told()
        await watched.until(Path.FAST)
        await all_get_one(offload, udp(topology.publisher, (A, 0)), B)
        await all_get_one(offload, udp(topology.subscriber, (C, 0)), B_FAR)
        assert offload.lost(TOPIC, 1, 3) == [0, 0, 0]

    watch(topology, scenario, make_route(TOPIC, 1, groups, fanout=fanout))


def test_a_link_that_goes_down_and_up(topology: Topology) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.until(Path.FAST)
        configure(topology.subscriber, lambda ip: ip.link("set", index=index_of(ip, "eth0"), state="down"))
        choice = await watched.until(Path.SLOW)
        assert choice.reason == f"member {C}:9998: eth1 towards it is down"
        configure(topology.subscriber, lambda ip: ip.link("set", index=index_of(ip, "eth0"), state="up"))
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)

    watch(topology, scenario)


def test_a_member_whose_mac_changes(topology: Topology) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.until(Path.FAST)
        configure(
            topology.subscriber,
            lambda ip: ip.link("set", index=index_of(ip, "eth0"), address="02:00:00:00:00:42"),
        )
        # As its own gratuitous ARP, or the kernel's next question, would have it.
        configure(
            topology.broker,
            lambda ip: ip.neigh(
                "replace", dst=C, lladdr="02:00:00:00:00:42", ifindex=index_of(ip, "eth1"), state="reachable"
            ),
        )
        await watched.told()
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)

    watch(topology, scenario)


def test_a_member_whose_address_is_gone(topology: Topology) -> None:
    """The way to it goes with our own address on its link, and comes back with it."""

    async def scenario(watched: Watched) -> None:
        await watched.until(Path.FAST)
        address = {"address": B_FAR, "prefixlen": 24}
        configure(topology.broker, lambda ip: ip.addr("del", index=index_of(ip, "eth1"), **address))
        await watched.until(Path.FAST, f"left out: they cannot be reached (member {C}:9998: no route to it")
        configure(topology.broker, lambda ip: ip.addr("add", index=index_of(ip, "eth1"), **address))
        await watched.until(Path.FAST)
        # The member itself no longer answers: its MAC cannot be had.
        there = {"address": C, "prefixlen": 24}
        configure(topology.subscriber, lambda ip: ip.addr("del", index=index_of(ip, "eth0"), **there))
        configure(topology.broker, lambda ip: ip.neigh("del", dst=C, ifindex=index_of(ip, "eth1")))
        choice = await watched.until(Path.SLOW)
        assert choice.reason == f"no MAC address yet of member {C}:9998 on eth1"
        configure(topology.subscriber, lambda ip: ip.addr("add", index=index_of(ip, "eth0"), **there))
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)

    watch(topology, scenario)


def test_a_peer_whose_gro_is_toggled(topology: Topology) -> None:
    told = tells_redirects()

    async def scenario(watched: Watched) -> None:
        await watched.until(Path.FAST)
        topology.subscriber.call(lambda: set_gro("eth0", False))
        if not told:
            # It shows by the first event that is refused.
            source.sendto(encode_event(TOPIC, 1, 1, 0, b"lost"), (B, PORT))
        choice = await watched.until(Path.SLOW)
        assert "eth1 towards it takes no redirected frames" in choice.reason
        topology.subscriber.call(lambda: set_gro("eth0", True))
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)

    with udp(topology.publisher) as source:
        watch(topology, scenario)


def test_without_a_bpf_file_system_it_works_and_says_what_is_missing(
    topology: Topology, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "BPFFS", tmp_path / "none")

    async def scenario(watched: Watched) -> None:
        assert "not pinned, so it ends with the broker: " in watched.offload.status().reason
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)
        # There is nothing to be kept, so nothing is.
        await watched.offload.close(keep=True)

    watch(topology, scenario)
    assert topology.broker.call(lambda: query_xdp(socket.if_nametoindex("eth0"))) is None


def test_a_bpf_file_system_that_comes_later_is_used_from_then_on(
    topology: Topology, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pins.BPFFS
    monkeypatch.setattr(pins, "BPFFS", tmp_path / "none")

    async def first(watched: Watched) -> None:
        offload = watched.offload
        await watched.until(Path.FAST)
        assert not offload.outlives
        monkeypatch.setattr(pins, "BPFFS", place)
        async with asyncio.timeout(LIMIT):
            while not offload.outlives:
                await asyncio.sleep(0.05)
        assert "not pinned" not in offload.status().reason
        await crosses(topology, offload)
        await offload.close(keep=True)

    async def second(watched: Watched) -> None:
        assert watched.offload.inherited
        assert watched.offload.adopted() == {TOPIC: 1}
        assert watched.offload.counters()[TOPIC][Reason.FORWARDED] == 1
        await watched.until(Path.FAST)
        await crosses(topology, watched.offload)

    watch(topology, first)
    assert topology.broker.call(lambda: query_xdp(socket.if_nametoindex("eth0"))) is not None
    watch(topology, second)


def test_sources_outside_the_topic_s_networks_go_up(topology: Topology) -> None:
    many = tuple(f"192.0.2.{each}" for each in range(9))

    async def scenario(offload: Offload) -> None:
        ours = make_route(TOPIC, 1, [[(C, PORT)]], ["192.0.2.0/24", "10.0.1.2/32"])
        await Watched(offload, ours).until(Path.FAST)
        await crosses(topology, offload)
        others = make_route(TOPIC, 2, [[(C, PORT)]], ["192.0.2.0/24", "10.0.1.4/30"])
        await Watched(offload, others).until(Path.FAST)
        with udp(topology.publisher, (A, 0)) as source, udp(topology.broker, (B, PORT)) as up:
            source.sendto(encode_event(TOPIC, 1, 1, 0, b"foreign"), (B, PORT))
            assert up.recv(2000)[24:] == b"foreign"
        assert offload.counters()[TOPIC] == {Reason.FORWARDED: 1, Reason.FOREIGN_SOURCE: 1}
        assert offload.tickets.read(TOPIC, 2, 0) == 0
        refused = await offload.install(make_route(TOPIC, 3, [[(C, PORT)]], many))
        assert refused == PathChoice(Path.SLOW, "9 source networks: the fast path checks at most 8")

    in_broker(topology, scenario)


def test_what_is_lost_behind_the_redirect_is_told(topology: Topology) -> None:
    """A device whose peer is down takes fewer frames than it is given; one that is down itself refuses."""

    def lose(times: int) -> None:
        for _ in range(times):
            source.sendto(encode_event(TOPIC, 1, 1, 0, b"lost"), (B, PORT))

    async def scenario(watched: Watched) -> None:
        offload = watched.offload
        await watched.until(Path.FAST)
        assert offload.drops() == {}
        # The route stays in the kernel: nobody installs while we do not.
        configure(topology.subscriber, lambda ip: ip.link("set", index=index_of(ip, "eth0"), state="down"))
        lose(3)
        await lost({"eth1": {"ENXIO": 3}}, offload)
        configure(topology.broker, lambda ip: ip.link("set", index=index_of(ip, "eth1"), state="down"))
        lose(5)
        await lost({"eth1": {"ENXIO": 3, "ENETDOWN": 5}}, offload)
        assert offload.counters()[TOPIC] == {Reason.FORWARDED: 8}

    with udp(topology.publisher, (A, 0)) as source:
        watch(topology, scenario)


async def lost(wanted: Mapping[str, Mapping[str, int]], offload: Offload) -> None:
    """The kernel may be a moment behind the sender."""
    end = asyncio.get_running_loop().time() + LIMIT
    while (drops := offload.drops()) != wanted:
        assert asyncio.get_running_loop().time() < end, drops
        await asyncio.sleep(0.01)
