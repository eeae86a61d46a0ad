"""Interfaces that take no redirected frames, where the kernel does not say so: by trying, and by losses."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from support.kernels import OLD
from support.nodes import configure, set_gro, udp
from support.survival import BROKER, EPOCH, LIMIT, TOPIC, set_of
from support.watched import Watched, in_broker

from tempos import Framing, Group, Member, Path, Route, Topic
from tempos.wire import encode_event
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology, mac_of
from tempos_bpf.links import Link, XdpMode, attach_xdp
from tempos_bpf.maps import pinned_map
from tempos_bpf.objects import BpfObject
from tempos_fastpath import offload as module
from tempos_fastpath.loading import OBJECT, PROGRAM
from tempos_fastpath.network import survey
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.network.reading import read_facts
from tempos_fastpath.network.trial import Verdict, try_redirect
from tempos_fastpath.offload import Offload
from tempos_fastpath.structs import ffi

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

SUBSCRIBER = "10.0.2.2"
EVENT = encode_event(TOPIC, 1, 0, 0, b"body")


def route_to(address: str, mac: str | None = None) -> Route:
    topic = Topic(TOPIC, "machines", framing=Framing.EVENT)
    return Route(topic, EPOCH, (Group("g", (Member(address, 9998, mac),)),))


def tried(topology: Topology, name: str) -> Verdict:
    def work() -> Verdict:
        interface = read_facts().by_name(name)
        assert interface is not None
        return try_redirect(interface)

    return topology.broker.call(work)


def said(topology: Topology, name: str) -> bool | None:
    facts: Facts = topology.broker.call(read_facts)
    interface = facts.by_name(name)
    assert interface is not None
    return interface.takes_redirects


def test_a_trial_tells_what_the_kernel_would(topology: Topology) -> None:
    def add(netlink: IPRoute) -> None:
        netlink.link("add", ifname="br0", kind="bridge")
        below = socket.if_nametoindex("eth1")
        netlink.link("add", ifname="macvlan0", kind="macvlan", link=below, macvlan_mode="bridge")
        for name in ("br0", "macvlan0"):
            netlink.link("set", index=socket.if_nametoindex(name), state="up")

    configure(topology.broker, add)
    assert [tried(topology, name) for name in ("eth1", "br0", "macvlan0")] == [
        Verdict(True),
        Verdict(False, "ENOTSUP"),
        Verdict(False, "ENOTSUP"),
    ]
    topology.subscriber.call(lambda: set_gro("eth0", False))
    deaf = tried(topology, "eth1")
    assert deaf.takes is False
    assert deaf.why in ("ENOTSUP", "ENXIO")
    assert said(topology, "eth1") in (False, None)
    with ExitStack() as stack:
        program = stack.enter_context(BpfObject(OBJECT)).program(PROGRAM)
        index = topology.subscriber.call(lambda: socket.if_nametoindex("eth0"))
        stack.enter_context(topology.subscriber.call(lambda: attach_xdp(program, index, XdpMode.NATIVE)))
        assert tried(topology, "eth1") == Verdict(True), "a program at the peer does as well"


def test_nobody_gets_the_frame_of_a_trial_as_his(topology: Topology) -> None:
    def listen() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))

    with topology.subscriber.call(listen) as heard:
        heard.settimeout(LIMIT)
        assert tried(topology, "eth1").takes
        while True:
            frame, (_, _, kind, _, _) = heard.recvfrom(2000)
            if frame[12:14] == b"\x88\xb5":
                break
    assert frame[:6] == frame[6:12] == bytes.fromhex(mac_of("10.0.2.1").replace(":", ""))
    assert kind == socket.PACKET_OTHERHOST


async def shortly(offload: Offload, watched: Watched, sender: socket.socket, wanted: Path) -> str:
    """Send until the topic goes by the wanted path, which must not take long; gives the reason."""
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            sender.sendto(EVENT, BROKER)
            await asyncio.sleep(0.01)

    sending = loop.create_task(send())
    try:
        return (await watched.until(wanted)).reason
    finally:
        sending.cancel()


class Peer:
    """The member's end of the link, in another namespace: it takes frames by GRO, or by a program alone."""

    def __init__(self, topology: Topology, stack: ExitStack, by: str) -> None:
        self._space, self._by = topology.subscriber, by
        self._link: Link | None = None
        self._program = stack.enter_context(BpfObject(OBJECT)).program(PROGRAM)
        if by == "program":
            self.take(True)
            self._space.call(lambda: set_gro("eth0", False))
        stack.callback(self._leave)

    def take(self, wanted: bool) -> None:
        if self._by == "GRO":
            self._space.call(lambda: set_gro("eth0", wanted))
        elif wanted:
            self._link = self._space.call(
                lambda: attach_xdp(self._program, socket.if_nametoindex("eth0"), XdpMode.NATIVE)
            )
        else:
            self._leave()

    def _leave(self) -> None:
        if self._link is not None:
            self._link.close()


@pytest.mark.parametrize("by", ["GRO", "program"])
def test_a_peer_that_stops_taking_frames_costs_less_than_a_second_of_events(
    topology: Topology, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(offload: Offload) -> None:
        loop = asyncio.get_running_loop()
        watched = Watched(offload, route_to(SUBSCRIBER))
        await watched.until(Path.FAST)
        for _ in range(2):
            peer.take(False)
            began = loop.time()
            reason = await shortly(offload, watched, sender, Path.SLOW)
            assert loop.time() - began < patience(1.0)
            assert "eth1 towards it takes no redirected frames (it refused frames (EN" in reason
            peer.take(True)
            await watched.until(Path.FAST)

    with udp(topology.publisher) as sender, ExitStack() as stack:
        peer = Peer(topology, stack, by)
        in_broker(topology, scenario, mode="native", kernel=OLD)
    messages = [
        record.getMessage() for record in caplog.records if "redirected frames" in record.getMessage()
    ]
    assert [message.split(" (")[0] for message in messages] == [
        "eth1 takes no redirected frames",
        "eth1 takes redirected frames again",
    ] * 2


@pytest.mark.parametrize("code", [errno.ENETDOWN, errno.EINVAL, errno.ENODEV], ids=errno.errorcode.get)
def test_a_card_that_has_lost_its_program(
    topology: Topology, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Such a card is up, and answers so. No veth does: what is counted of it is written by hand."""
    monkeypatch.setattr(survey, "AGAIN", 0.5)
    monkeypatch.setattr(module, "_REFRESH", 0.5)
    index = topology.broker.call(lambda: socket.if_nametoindex("eth1"))
    lost = ffi.buffer(ffi.new("struct tempos_drop *", {"ifindex": index, "error": code}))[:]

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route_to(SUBSCRIBER))
        await watched.until(Path.FAST)
        with pinned_map(set_of(topology).path("drops")) as drops:
            drops.update(lost, (1).to_bytes(8, sys.byteorder))
        reason = (await watched.until(Path.SLOW)).reason
        assert f"eth1 towards it takes no redirected frames (it refused frames ({errno.errorcode[code]})" in (
            reason
        )
        await watched.until(Path.FAST)

    in_broker(topology, scenario, mode="native")


def test_a_peer_without_gro_is_never_believed(topology: Topology) -> None:
    """In another namespace, as any container's: nothing can be asked of it."""
    topology.subscriber.call(lambda: set_gro("eth0", False))

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route_to(SUBSCRIBER))
        choice = await watched.until(Path.SLOW)
        while "no MAC address" in choice.reason:
            await watched.told()
            watched.forget()
            choice = await watched.until(Path.SLOW)
        assert "eth1 towards it takes no redirected frames (EN" in choice.reason
        assert choice.reason.endswith(
            "; of a veth: switch GRO on at its peer while that is up, or attach an XDP program there)"
        )
        topology.subscriber.call(lambda: set_gro("eth0", True))
        await watched.until(Path.FAST)
        assert not offload.drops(), "no event was sent to find out"

    in_broker(topology, scenario, mode="native", kernel=OLD)


def add_bridge(netlink: IPRoute) -> None:
    netlink.link("add", ifname="far0", kind="bridge")


def add_macvlan(netlink: IPRoute) -> None:
    below = socket.if_nametoindex("eth1")
    netlink.link("add", ifname="far0", kind="macvlan", link=below, macvlan_mode="bridge")


def add_ifb(netlink: IPRoute) -> None:
    netlink.link("add", ifname="far0", kind="ifb")


def up(netlink: IPRoute) -> None:
    index = socket.if_nametoindex("far0")
    netlink.addr("add", index=index, address="10.0.3.1", prefixlen=24)
    netlink.link("set", index=index, state="up")


@pytest.mark.parametrize("kernel", [None, OLD], ids=["own", "old"])
@pytest.mark.parametrize(
    ("kind", "add"), [("bridge", add_bridge), ("macvlan", add_macvlan), ("ifb", add_ifb)]
)
def test_a_device_that_never_takes_frames_and_one_in_its_place_that_does(
    topology: Topology, kind: str, add: Callable[[IPRoute], None], kernel: object
) -> None:
    far = route_to("10.0.3.2", "02:00:00:00:03:02")

    def replaced(netlink: IPRoute) -> None:
        index = socket.if_nametoindex("far0")
        netlink.link("del", index=index)
        netlink.link("add", ifname="far0", kind="veth", peer="far1", index=index)
        for name in ("far0", "far1"):
            set_gro(name, True)
        netlink.link("set", index=socket.if_nametoindex("far1"), state="up")
        up(netlink)

    configure(topology.broker, add)
    configure(topology.broker, up)

    async def native(offload: Offload) -> None:
        watched = Watched(offload, far)
        choice = await watched.until(Path.SLOW)
        assert "far0 towards it takes no redirected frames" in choice.reason
        assert f"a device of the kind {kind} never does" in choice.reason
        configure(topology.broker, replaced)
        await watched.until(Path.FAST)

    async def generic(offload: Offload) -> None:
        await Watched(offload, far).until(Path.FAST)

    in_broker(topology, generic, mode="generic", interfaces=("eth0",), kernel=kernel)
    in_broker(topology, native, mode="native", interfaces=("eth0",), kernel=kernel)
