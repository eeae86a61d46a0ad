"""A bridge goes on knowing where publishers are whose events the program at its port redirects."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import count, islice

import pytest
from support.features import no_tcx
from support.inject import Capture
from support.nodes import configure, ip, udp
from support.waiting import LIMIT, until

from tempos import DATA_PORT, Fanout, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, know, mac_of

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

A, B_NEAR_A, C = "10.0.1.2", "10.0.1.1", "10.0.2.2"
PORTS = (5001, 5002)
ANSWERS = 7777
_ETH_P_ALL = 0x0003


class Bridged:
    """eth0 of the broker is a port of a bridge, which has its address; another port leads to a witness."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        self.node = node = topology.broker
        ups = (f"link set {name} up" for name in ("br0", "other", "witness"))
        ip(node, "link add br0 type bridge", "link add other type veth peer name witness",
           f"addr del {B_NEAR_A}/24 dev eth0", "link set eth0 master br0", "link set other master br0",
           f"addr add {B_NEAR_A}/24 dev br0", *ups)  # fmt: skip
        # Nobody asks and nobody answers by ARP: events are all that the bridge may hear of A.
        know(node, "br0", A)
        self._witness = stack.enter_context(closing(Capture(node, "witness")))
        self._publisher = stack.enter_context(udp(topology.publisher))
        self._answered = stack.enter_context(udp(topology.publisher, (A, ANSWERS)))
        self._answering = stack.enter_context(udp(node))
        self.sent = 0

    def publish(self) -> None:
        self._publisher.sendto(bytes([7]) + b"x", (B_NEAR_A, DATA_PORT))
        self.sent += 1

    def forget(self) -> None:
        ip(self.node, "link set br0 type bridge fdb_flush")
        assert not self.knows()

    def knows(self) -> bool:
        """Whether the bridge has learnt where A is."""

        def ask() -> list[dict[str, object]]:
            told = subprocess.run(
                ("bridge", "-j", "fdb", "show", "br", "br0"), check=True, capture_output=True
            )
            found: list[dict[str, object]] = json.loads(told.stdout or "[]")
            return found

        macs = {each["mac"]: each.get("ifname") for each in self.node.call(ask)}
        return macs.get(mac_of(A)) == "eth0"

    def floods(self) -> bool:
        """Whether what is sent to A comes to the witness, too."""
        self._witness.at_hand()
        self._answering.sendto(b"answer", (A, ANSWERS))
        assert self._answered.recv(100) == b"answer"
        return any(frame.endswith(b"answer") for frame in self._witness.at_hand())


@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
def test_a_bridge_hears_of_each_sender_now_and_then(topology: Topology, mode: str) -> None:
    if mode == "tc" and (why := no_tcx()):
        pytest.skip(f"no copies by tc here: {why}")
    topic = Topic(7, "news", framing=Framing.RAW, fanout=Fanout.TC if mode == "tc" else Fanout.AUTO)
    ports: Sequence[int] = PORTS if mode == "tc" else PORTS[:1]
    with ExitStack() as stack:
        bridged = Bridged(stack, topology)
        members = [stack.enter_context(udp(topology.subscriber, (C, port))) for port in ports]
        groups = [Group(f"g{port}", (Member(C, port),)) for port in ports]
        broker = stack.enter_context(
            Broker(topology.broker, {topic: groups}, mode="native" if mode == "tc" else mode)
        )
        broker.wait_path(topic.name, Path.FAST)

        def heard() -> bool:
            bridged.publish()
            return bridged.knows()

        for _ in range(2):
            bridged.forget()
            assert bridged.floods()
            until(heard, "the bridge knows the publisher again")
            assert not bridged.floods()
        # Every event has come, by whichever path, and few were left to the bridge.
        for member in members:
            assert [member.recv(10) for _ in range(bridged.sent)] == [b"\x07x"] * bridged.sent
        status = broker.wait_received(topic.name, bridged.sent)
        assert status.received == bridged.sent
        assert status.closed
        passed = status.passed["for_bridge"]
        assert 2 <= passed <= 8
        assert status.fast == bridged.sent - passed


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_nothing_is_taken_at_a_port_that_its_bridge_does_not_forward_from(
    topology: Topology, mode: str
) -> None:
    """As spanning tree has it: what comes in there may have come by another port, too."""
    topic = Topic(7, "news", framing=Framing.RAW)
    with ExitStack() as stack:
        bridged = Bridged(stack, topology)
        member = stack.enter_context(udp(topology.subscriber, (C, PORTS[0])))
        groups = [Group("g", (Member(C, PORTS[0]),))]
        passed = stack.enter_context(topology.broker.call(tap))
        broker = stack.enter_context(Broker(topology.broker, {topic: groups}, mode=mode))
        broker.wait_path(topic.name, Path.FAST)

        def told(shut: bool) -> bool:
            interfaces = broker.status()["paths"]["fast"]["interfaces"]
            (found,) = [each for each in interfaces if each["name"] == "eth0"]
            assert found["mode"] == mode, "the program stays"
            why = "; nothing is taken there: br0 does not forward from its port eth0 now"
            return bool(found["reason"].endswith(why)) == shut

        for state, said in (("1", True), ("3", False), ("1", True), ("3", False)):
            taken = broker.topic(topic.name).received
            ip_bridge(bridged, state)
            until(partial(told, said), "the program was told")
            for _ in range(5):
                bridged.publish()
            if said:
                dropped = (passed.recv(2000)[-2:] == b"\x07x" for _ in count())
                assert sum(islice(filter(None, dropped), 5)) == 5, "the bridge got them"
                continue
            assert broker.wait_received(topic.name, taken + 5).received == taken + 5
            assert [member.recv(10) for _ in range(5)] == [b"\x07x"] * 5
        status = broker.topic(topic.name)
        assert (status.received, bridged.sent) == (10, 20), "none of those that the bridge has dropped"
        assert status.fast + status.passed.get("for_bridge", 0) == 10
        assert status.fast >= 8


def tap() -> socket.socket:
    """What comes up from the driver, whoever takes or drops it then."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    raw.bind(("eth0", _ETH_P_ALL))
    raw.settimeout(LIMIT)
    return raw


def ip_bridge(bridged: Bridged, state: str) -> None:
    """Set the state of the bridge's port, which spanning tree would: 1 is to listen, 3 to forward."""
    command = ("bridge", "link", "set", "dev", "eth0", "state", state)
    bridged.node.call(lambda: subprocess.run(command, check=True))


def test_a_port_of_no_bridge_passes_nothing_up(topology: Topology) -> None:
    """And one that leaves its bridge has another program from then on."""
    topic = Topic(7, "news", framing=Framing.RAW)
    with ExitStack() as stack:
        bridged = Bridged(stack, topology)
        member = stack.enter_context(udp(topology.subscriber, (C, PORTS[0])))
        broker = stack.enter_context(Broker(topology.broker, {topic: [Group("g", (Member(C, PORTS[0]),))]}))
        broker.wait_path(topic.name, Path.FAST)
        bridged.publish()
        until(lambda: broker.topic(topic.name).passed.get("for_bridge") == 1, "the bridge was told")
        configure(bridged.node, lambda netlink: netlink.link("set", index=_index(netlink, "eth0"), master=0))
        ip(
            bridged.node,
            "link set br0 down",
            f"addr del {B_NEAR_A}/24 dev br0",
            f"addr add {B_NEAR_A}/24 dev eth0",
        )

        def fast() -> bool:
            before = broker.topic(topic.name).fast
            bridged.publish()
            broker.wait_received(topic.name, bridged.sent, 0.2)
            return broker.topic(topic.name).fast > before

        until(fast, "events go fast again")
        assert member.recv(10) == b"\x07x"
        assert broker.topic(topic.name).passed["for_bridge"] == 1


def _index(netlink: object, name: str) -> int:
    (index,) = netlink.link_lookup(ifname=name)  # type: ignore[attr-defined]
    return int(index)
