"""Addresses and interfaces of the broker that come and go: the fast path takes what is ours now, no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.features import NO_TCX, no_tcx
from support.nodes import ip, udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

TOPIC = Topic(id=7, name="news", framing=Framing.RAW)


def served(broker: Broker) -> str:
    """What the log and the status say of addresses and interfaces."""
    return str(broker.status()["paths"]["fast"])


def test_the_fast_path_takes_what_is_for_our_addresses_of_now() -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology:
        node = topology.broker
        card, near = node.interfaces[0], node.address
        vip = near.rpartition(".")[0] + ".99"
        groups = [
            Group(name, (Member(topology.subscriber.address, port),))
            for name, port in (("a", 5001), ("b", 5002))
        ]
        # A bridge that nothing is plugged into takes no copies by XDP from anybody.
        ip(node, "link add docker0 type bridge")
        ip(node, "addr add 172.17.0.1/16 dev docker0")
        ip(node, "link set docker0 up")
        with (
            udp(topology.subscriber, (topology.subscriber.address, 5001)) as got,
            udp(topology.publisher) as sender,
            Broker(node, {TOPIC: groups}, mode="auto", listen=("0.0.0.0",), all_interfaces=True) as broker,
        ):
            status = broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
            assert "copies by XDP broadcast" in status.reason
            assert status.reason.startswith("XDP native, leaves by")

            def send(address: str, count: int = 20) -> None:
                for _ in range(count):
                    sender.sendto(b"\x07x", (address, DATA_PORT))

            def counted() -> tuple[int, int]:
                now = broker.topic(TOPIC.name)
                return now.fast, now.received

            send(near)
            until(lambda: counted() == (20, 20), "what is for the first address goes fast")
            ip(node, f"addr add {vip}/24 dev {card}")
            fast, received = counted()

            def goes_fast() -> bool:
                before = counted()
                send(vip, 1)
                until(lambda: counted()[1] > before[1], "it is ours")
                return counted()[0] > before[0]

            until(goes_fast, "what is for an address that has come goes fast")
            ip(node, f"addr del {vip}/24 dev {card}")
            until(
                lambda: not takes(broker, send, vip, near), "what is for an address that has gone is not ours"
            )
            fast, received = counted()
            # Moved to a host behind this one: it gets what is its own, and we nothing of it.
            ip(topology.subscriber, f"addr add {vip}/32 dev lo")
            ip(node, f"route add {vip}/32 via {topology.subscriber.address}")
            with udp(topology.subscriber, (vip, DATA_PORT)) as owner:
                send(vip)
                assert [owner.recv(100) for _ in range(20)] == [b"\x07x"] * 20
            assert counted() == (fast, received)
            assert got.recv(100) == b"\x07x"


def test_copies_of_what_comes_in_where_the_program_is_generic_are_made_by_tc() -> None:
    """Beside an interface in native mode, where they are broadcast by XDP."""
    require_netns()
    require_kernel()
    if no_tcx():
        pytest.skip(NO_TCX)
    with build("straight") as topology:
        node, at = topology.broker, topology.subscriber.address
        card = node.interfaces[0]
        # In its driver a veth takes no program while its peer may send frames that need more than a page.
        for end, name in ((topology.publisher, topology.publisher.interfaces[0]), (node, card)):
            ip(end, f"link set {name} mtu 9000")
        groups = [Group(name, (Member(at, port),)) for name, port in (("a", 5001), ("b", 5002))]
        with (
            udp(topology.subscriber, (at, 5001)) as first,
            udp(topology.subscriber, (at, 5002)) as second,
            udp(topology.publisher) as sender,
            Broker(node, {TOPIC: groups}, mode="auto", listen=("0.0.0.0",), all_interfaces=True) as broker,
        ):
            status = broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
            assert status.reason.startswith(f"XDP native (generic on {card}), leaves by")
            assert status.reason.endswith("copies by XDP broadcast")
            for _ in range(20):
                sender.sendto(b"\x07x", (node.address, DATA_PORT))
            assert [each.recv(100) for each in (first, second) for _ in range(20)] == [b"\x07x"] * 40
            told = broker.wait_received(TOPIC.name, 20)
            assert (told.received, told.fast, told.slow) == (20, 20, 0)


def takes(broker: Broker, send: Callable[[str, int], None], address: str, ours: str) -> bool:
    """Whether the broker takes what is for this address; what is for ours shows when it would have come."""
    before = broker.topic(TOPIC.name).received
    send(address, 1)
    send(ours, 1)
    until(lambda: broker.topic(TOPIC.name).received > before, "ours comes")
    return broker.topic(TOPIC.name).received > before + 1
