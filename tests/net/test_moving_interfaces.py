"""Interfaces that are renamed, moved or put into others while the broker runs: what is said to be fast is."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable

import pytest
from support.nodes import configure, ip, udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

TOPIC = Topic(id=7, name="news", framing=Framing.RAW)
EVENTS = 20
SLOW = "takes the slow path"


class Lacking(Exception):
    """This kernel has no such device."""


def made(node: Node, order: str) -> None:
    try:
        ip(node, order)
    except subprocess.CalledProcessError as error:
        if b"Unknown device type" in error.stderr or b"not supported" in error.stderr:
            raise Lacking(order) from error
        raise


def mac_of(node: Node, name: str) -> str:
    return str(configure(node, lambda netlink: netlink.get_links(ifname=name)[0].get("address")))


def renamed(topology: Topology) -> None:
    ip(topology.broker, "link set eth0 down", "link set eth0 name wan0", "link set wan0 up")


def into_a_bridge(topology: Topology) -> None:
    """As an operator puts a card into a bridge: the address moves to the bridge."""
    node, near = topology.broker, topology.broker.address
    made(node, "link add br0 type bridge")
    ip(node, f"link set br0 address {mac_of(node, 'eth0')}", f"addr del {near}/24 dev eth0",
       "link set eth0 master br0", f"addr add {near}/24 dev br0", "link set br0 up")  # fmt: skip


def into_a_bridge_of_its_own_mac(topology: Topology) -> None:
    node, near = topology.broker, topology.broker.address
    made(node, "link add br0 type bridge")
    ip(node, "link set br0 address 02:00:00:00:77:01", f"addr del {near}/24 dev eth0",
       "link set eth0 master br0", f"addr add {near}/24 dev br0", "link set br0 up")  # fmt: skip
    ip(topology.publisher, f"neigh replace {near} lladdr 02:00:00:00:77:01 dev eth0 nud permanent")


def to_the_other_interface(topology: Topology) -> None:
    """The address moves; its host goes on answering for it by the link where it was."""
    node, near = topology.broker, topology.broker.address
    ip(node, f"addr del {near}/24 dev eth0", f"addr add {near}/32 dev eth1",
       f"route add {topology.publisher.address}/32 dev eth0")  # fmt: skip


def to_loopback(topology: Topology) -> None:
    node, near = topology.broker, topology.broker.address
    ip(node, f"addr del {near}/24 dev eth0", f"addr add {near}/32 dev lo",
       f"route add {topology.publisher.address}/32 dev eth0")  # fmt: skip


def above(kind: str, name: str) -> Callable[[Topology], None]:
    """The address moves to a device that stands on the interface."""

    def change(topology: Topology) -> None:
        node, near = topology.broker, topology.broker.address
        made(node, f"link add {name} link eth0 type {kind}")
        ip(node, f"addr del {near}/24 dev eth0", f"addr add {near}/24 dev {name}", f"link set {name} up")
        mac = mac_of(node, name)
        ip(topology.publisher, f"neigh replace {near} lladdr {mac} dev eth0 nud permanent")

    return change


def serving(topology: Topology, mode: str) -> Broker:
    groups = [Group("a", (Member(topology.subscriber.address, 5001),))]
    return Broker(topology.broker, {TOPIC: groups}, mode=mode, listen=("0.0.0.0",), all_interfaces=True)


CHANGES = {
    "renamed": renamed,
    "into a bridge": into_a_bridge,
    "into a bridge of its own MAC": into_a_bridge_of_its_own_mac,
    "address to the other interface": to_the_other_interface,
    "address to loopback": to_loopback,
    "address to a macvlan": above("macvlan mode bridge", "mv0"),
    "address to a private macvlan": above("macvlan mode private", "mv0"),
    "address to an ipvlan": above("ipvlan mode l2", "iv0"),
    "address to an ipvlan of layer 3": above("ipvlan mode l3", "iv0"),
}


_EACH_IN_ONE = list(zip(CHANGES, itertools.cycle(("native", "generic")), strict=False))


@pytest.mark.parametrize(("what", "mode"), _EACH_IN_ONE)
def test_fast_is_said_where_events_go_fast_after_a_change(what: str, mode: str) -> None:
    require_netns()
    require_kernel()
    with (
        build("straight") as topology,
        udp(topology.subscriber, (topology.subscriber.address, 5001)) as got,
        udp(topology.publisher) as sender,
        serving(topology, mode) as broker,
    ):
        broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
        try:
            CHANGES[what](topology)
        except Lacking as lacking:
            pytest.skip(f"this kernel lacks it: {lacking}")
        said: list[str] = []

        def agrees() -> bool:
            before = broker.topic(TOPIC.name)
            for _ in range(EVENTS):
                sender.sendto(b"\x07x", (topology.broker.address, DATA_PORT))
            after = broker.wait_received(TOPIC.name, before.received + EVENTS, 1.0)
            fast, slow = after.fast - before.fast, after.slow - before.slow
            said[:] = [f"{before.path}, {before.reason}: fast {fast}, slow {slow}"]
            if fast + slow < EVENTS:
                return False
            is_fast = before.path == "fast" and SLOW not in before.reason
            return fast > slow if is_fast else slow >= fast or SLOW in before.reason

        until(agrees, lambda: said, LIMIT)
        assert got.recv(100) == b"\x07x"


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_an_interface_that_is_another_namespaces_takes_its_packets_along(mode: str) -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology, Namespace("other") as space:
        other, near = Node("other", space, (), ()), topology.broker.address
        with (
            udp(topology.publisher) as sender,
            serving(topology, mode) as broker,
        ):
            broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
            ip(topology.broker, f"link set eth0 netns {space.pid}")
            ip(other, f"addr add {near}/24 dev eth0", "link set eth0 up")
            with udp(other, (near, DATA_PORT)) as owner:
                owner.settimeout(1)

                def is_the_owners() -> bool:
                    for _ in range(EVENTS):
                        sender.sendto(b"\x07x", (near, DATA_PORT))
                    try:
                        return [owner.recv(100) for _ in range(EVENTS)] == [b"\x07x"] * EVENTS
                    except TimeoutError:
                        return False

                until(is_the_owners, lambda: f"{broker.topic(TOPIC.name)}", patience(10.0))
                before = broker.topic(TOPIC.name)
                assert is_the_owners()
                assert broker.topic(TOPIC.name).received == before.received
