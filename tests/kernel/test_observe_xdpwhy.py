"""xdpwhy tells each redirect that failed, exactly: from where to where, why, by whom, of which topic."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path as FilePath

import pytest
from pyroute2 import IPRoute
from support.nodes import configure, udp
from support.observing import Line, Observed, rows
from support.watched import LIMIT, in_broker

from tempos import Framing, Group, Member, Path, Reason, Route, Topic
from tempos._rows import Rows
from tempos.wire import encode_event
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import Topology, mac_of
from tempos_bpf.links import XdpMode, attach_xdp
from tempos_bpf.objects import Program
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

A, B, C, PORT = "10.0.1.2", "10.0.1.1", "10.0.2.2", 9998
UDP_SEGMENT = 103
_SYS_BPF, _PROG_LOAD = 321, 5
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000
WAY = ("eth0", "eth1", "tempos_fastpath")
Told = Counter[tuple[object, ...]]


def told(lines: list[Line], topology: Topology) -> Told:
    """How many frames, by what is said of them; of the broker's node."""
    where = topology.broker.call(lambda: FilePath("/proc/thread-self/ns/net").stat().st_ino)
    found: Told = Counter()
    for row in rows(lines, "failures"):
        if row["netns"] == where:
            found[tuple(row[each] for each in ("from", "to", "program", "topic", "why", "error"))] += row[
                "frames"
            ]
    return found


def down(node: Node, name: str) -> None:
    configure(node, lambda ip: ip.link("set", index=ip.link_lookup(ifname=name)[0], state="down"))


class Publisher:
    """Sends events of topics to the fast path, each of which goes to so many groups of one member.

    ``at_once``: all of a call in one receive cycle; generic mode would take that for a burst.
    """

    def __init__(
        self, topology: Topology, offload: Offload, groups: dict[int, int], *,
        member: str = C, at_once: bool = True,
    ) -> None:  # fmt: skip
        self._member = member
        self._at_once = at_once
        self._offload, self._groups, self._topology = offload, groups, topology
        self._sent: Counter[int] = Counter()

    async def install(self) -> None:
        topics = [Topic(topic, f"topic{topic}", framing=Framing.EVENT) for topic in self._groups]
        await self._offload.configure(topics)
        for topic in topics:
            members = [
                Member(self._member, 20_000 + topic.id + n, mac_of(self._member))
                for n in range(self._groups[topic.id])
            ]
            self._offload.tickets.reset(topic.id, 1)
            route = Route(topic, 1, tuple(Group(f"g{each.port}", (each,)) for each in members))
            choice = await self._offload.install(route)
            assert choice.path is Path.FAST, choice.reason

    async def send(self, *topics: int) -> None:
        """And wait until the kernel, which may be a moment behind, has decided on all."""
        events = [encode_event(topic, 1, 1, 0, bytes(8 if topic < 256 else 4)) for topic in topics]
        with udp(self._topology.publisher, (A, 0)) as source:
            if self._at_once:
                source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(events[0]))
                events = [b"".join(events)]
            for event in events:
                source.sendto(event, (B, PORT))
        self._sent.update(topics)
        end = asyncio.get_running_loop().time() + LIMIT
        while any(self._decided(topic) < self._sent[topic] for topic in topics):
            assert asyncio.get_running_loop().time() < end, self._offload.counters()
            await asyncio.sleep(0.001)

    def _decided(self, topic: int) -> int:
        return self._offload.counters().get(topic, {}).get(Reason.FORWARDED, 0)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_each_frame_that_came_nowhere_has_its_topic_and_its_reason(topology: Topology, mode: str) -> None:
    narrow, wide = 7, 4242
    rows_of = Rows()
    for topic in (narrow, wide):
        rows_of.give(topic)

    async def scenario(offload: Offload) -> None:
        publisher = Publisher(topology, offload, {narrow: 1, wide: 1}, at_once=mode == "native")
        await publisher.install()
        await publisher.send(narrow, wide)  # these arrive
        if mode == "native":
            down(topology.subscriber, "eth0")
            await publisher.send(narrow, wide, narrow, wide, wide)
        down(topology.broker, "eth1")
        await publisher.send(wide, narrow, narrow, wide, narrow, narrow)

    with Observed("xdpwhy") as tool:
        in_broker(topology, scenario, mode=mode, rows=rows_of)
        found = told(tool.stop(), topology)
    wanted = {(*WAY, narrow, "refused", "ENETDOWN"): 4, (*WAY, wide, "refused", "ENETDOWN"): 2}
    if mode == "native":
        wanted |= {(*WAY, narrow, "not taken", "ENXIO"): 2, (*WAY, wide, "not taken", "ENXIO"): 3}
    # Where frames of others came in between whose one was is not known any more; none is another's.
    assert sum(found.values()) == sum(wanted.values()), found
    for (*way, topic, how, why), count in wanted.items():
        known, unknown = found[(*way, topic, how, why)], found[(*way, None, how, why)]
        assert 0 < known <= count <= known + unknown, found


@contextmanager
def tap(node: Node, places: int) -> Iterator[int]:
    """An interface `tap0` of the node whose queue has so many places and is not read; its descriptor."""

    def make() -> int:
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(opened, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI))
        return opened

    def configured(netlink: IPRoute) -> None:
        index = netlink.link_lookup(ifname="tap0")[0]
        netlink.link("set", index=index, txqlen=places, state="up")
        netlink.addr("add", index=index, address="10.0.3.1", prefixlen=24)

    descriptor = node.call(make)
    try:
        configure(node, configured)
        yield descriptor
    finally:
        os.close(descriptor)


def datagrams(descriptor: int) -> Iterator[bytes]:
    """Those that wait at a tap."""
    with suppress(BlockingIOError):
        while frame := os.read(descriptor, 2000):
            if frame[12:14] == b"\x08\0" and frame[23] == socket.IPPROTO_UDP:
                yield frame


def test_of_what_a_full_ring_does_not_take_each_topic_has_its_share(topology: Topology) -> None:
    """Copies for several groups, and events of a single one, into a ring that ends amid what it is given."""
    many, few, single = 2, 3, 5
    groups = {many: 16, few: 4, single: 1}
    topics = [(many, single, few, many)[number % 4] for number in range(40)]

    async def scenario(offload: Offload) -> None:
        publisher = Publisher(topology, offload, groups, member="10.0.3.2")
        await publisher.install()
        await publisher.send(*topics)

    with tap(topology.broker, 21) as descriptor, Observed("xdpwhy") as tool:
        in_broker(topology, scenario, mode="native", interfaces=["eth0"])
        found = told(tool.stop(), topology)
        arrived = Counter(frame[42] for frame in datagrams(descriptor))
    sent = Counter(topics)
    lost = {topic: sent[topic] * copies - arrived[topic] for topic, copies in groups.items()}
    assert 0 < sum(arrived.values()) <= 21
    way = ("eth0", "tap0", "tempos_fastpath")
    assert found == {(*way, topic, "not taken", "ENOBUFS"): count for topic, count in lost.items()}


def answering(verdict: int) -> Program:
    """An XDP program of two instructions that gives every frame this answer."""
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0)
    room = [ctypes.create_string_buffer(each) for each in (code, b"GPL")]
    asked = ctypes.create_string_buffer(
        struct.pack("=IIQQIIQII16s", 6, 2, *map(ctypes.addressof, room), 0, 0, 0, 0, 0, b"stranger"), 128
    )
    fd = ctypes.CDLL(None, use_errno=True).syscall(_SYS_BPF, _PROG_LOAD, asked, len(asked))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return Program("stranger", fd, "xdp")


@pytest.mark.parametrize("mode", XdpMode)
@pytest.mark.parametrize(("verdict", "why"), [(0, "aborted"), (7, "verdict 7")])
def test_a_stranger_s_program_is_named_and_has_no_topic(
    topology: Topology, mode: XdpMode, verdict: int, why: str
) -> None:
    count, program = 100_000, answering(verdict)
    with ExitStack() as stack:
        stack.callback(os.close, program.fd)
        source = stack.enter_context(udp(topology.publisher, (A, 0)))
        # No more are under way than the interface's ring has places: what is sent waits for what was decided.
        source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        tool = stack.enter_context(Observed("xdpwhy", "--interval", "0.1"))
        link = topology.broker.call(lambda: attach_xdp(program, socket.if_nametoindex("eth0"), mode))
        stack.callback(link.detach)
        for _ in range(count):
            source.sendto(encode_event(7, 1, 1, 0, b"lost"), (B, PORT))
        tool.until(lambda line: line.get("program") == "stranger" and line["frames"] >= count)
        lines = tool.stop()
    whole = [line for line in lines if line.get("program") == "stranger"][-1]
    assert told([whole], topology) == {("eth0", None, "stranger", None, why, None): count}
