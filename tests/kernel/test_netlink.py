"""What is asked of the kernel by hand is what pyroute2 reads of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

import pytest
from pyroute2 import IPRoute, NetlinkError
from support.nodes import configure
from support.privileges import require_netns
from support.waiting import LIMIT

from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node
from tempos_fastpath.network.changes import ChangeTrigger
from tempos_fastpath.network.facts import Destination, Facts, Way
from tempos_fastpath.network.neighbours import KernelNeighbours
from tempos_fastpath.network.netlink import Netlink
from tempos_fastpath.network.netlink import Route as Answer
from tempos_fastpath.network.reading import read_facts, read_more, read_neighbours

pytestmark = pytest.mark.netns

MAC = "02:00:00:00:00:{:02x}"
MANY = 200


@pytest.fixture
def node() -> Iterator[Node]:
    require_netns()
    with Namespace("netlink") as namespace:
        made = Node("netlink", namespace, ("10.0.1.1",), ("eth0",))

        def furnish(netlink: IPRoute) -> None:
            netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth9"})
            eth0, eth9, lo = (netlink.link_lookup(ifname=name)[0] for name in ("eth0", "eth9", "lo"))
            for index in (eth0, eth9, lo):
                netlink.link("set", index=index, state="up")
            netlink.addr("add", index=eth0, address="10.0.1.1", prefixlen=24)
            netlink.addr("add", index=eth0, address="10.0.1.7", prefixlen=24)
            netlink.route("add", dst="10.5.0.0/16", gateway="10.0.1.9", metrics={"mtu": 900})
            netlink.route("add", dst="10.6.0.0/16", oif=eth0, prefsrc="10.0.1.7")
            netlink.route("add", dst="10.7.0.0/16", type="blackhole")
            netlink.route("add", dst="10.8.0.0/16", type="unreachable")
            netlink.route(
                "add", dst="10.9.0.0/16", oif=eth0, via={"family": socket.AF_INET6, "addr": "fe80::1"}
            )
            for number in range(1, MANY + 1):
                netlink.neigh("add", dst=f"10.6.0.{number}", lladdr=MAC.format(number), ifindex=eth0,
                              state="permanent")  # fmt: skip

        configure(made, furnish)
        yield made


def in_namespace(node: Node, work: Callable[[Netlink], object]) -> object:
    def inside() -> object:
        with Netlink() as netlink:
            return work(netlink)

    return node.call(inside)


def test_ways_are_those_that_the_kernel_has(node: Node) -> None:
    asked = [Destination(*each.split()) for each in (
        "10.0.1.5", "10.5.1.1", "10.6.0.1", "10.6.0.1 10.0.1.1", "10.7.0.1", "10.8.0.1", "10.9.0.1",
        "10.0.1.1", "192.168.0.1", "10.6.0.1 10.77.0.1",
    )]  # fmt: skip
    eth0 = node.call(lambda: socket.if_nametoindex("eth0"))
    answers = in_namespace(node, lambda netlink: netlink.routes(asked, port=9998))
    assert answers == [
        Answer(kind=1, interface=eth0, source="10.0.1.1"),
        Answer(kind=1, interface=eth0, gateway="10.0.1.9", source="10.0.1.1", mtu=900),
        Answer(kind=1, interface=eth0, source="10.0.1.7"),
        Answer(kind=1, interface=eth0),
        Answer(error=errno.EINVAL),
        Answer(error=errno.EHOSTUNREACH),
        Answer(kind=1, interface=eth0, source="10.0.1.1", strange=True),
        Answer(kind=2, interface=1, source="10.0.1.1"),
        Answer(error=errno.ENETUNREACH),
        Answer(error=errno.ENETUNREACH),
    ]
    facts: Facts = node.call(lambda: read_facts(asked[:1], port=9998))
    more: Facts = node.call(lambda: read_more(facts, asked, 9998))
    assert more.ways[asked[1]] == Way(eth0, "10.0.1.9", 900, "10.0.1.1")
    assert more.ways[asked[6]].obstacle == "the gateway on the way to it has no IPv4 address"
    assert more.ways[asked[8]].obstacle == "no route to it (Network is unreachable)"
    assert more.ways[asked[9]].obstacle.startswith("its events leave from 10.77.0.1")
    # More than answers fit in one batch, and each is of its own request.
    many = [Destination(f"10.6.0.{number}") for number in range(1, MANY + 1)]
    assert in_namespace(node, lambda netlink: netlink.routes(many)) == [answers[2]] * MANY  # type: ignore[index]


def test_neighbours_are_those_that_the_kernel_has(node: Node) -> None:
    def by_pyroute2() -> dict[tuple[int, str], str]:
        with IPRoute() as netlink:
            return {(each["ifindex"], each.get("dst")): each.get("lladdr")
                    for each in netlink.get_neighbours(family=socket.AF_INET)}  # fmt: skip

    wanted = node.call(by_pyroute2)
    assert len(wanted) == MANY
    facts: Facts = node.call(lambda: read_facts())
    assert facts.neighbours == wanted
    assert node.call(lambda: read_neighbours(facts)) is facts, "nothing has changed"
    eth0 = node.call(lambda: socket.if_nametoindex("eth0"))
    configure(node, lambda netlink: netlink.neigh("replace", dst="10.6.0.3", lladdr=MAC.format(0xFF),
                                                  ifindex=eth0, state="permanent"))  # fmt: skip
    changed: Facts = node.call(lambda: read_neighbours(facts))
    assert changed.neighbours == {**wanted, (eth0, "10.6.0.3"): MAC.format(0xFF)}
    more: Facts = node.call(lambda: read_more(facts, [Destination("10.6.0.3"), Destination("10.6.1.1")]))
    assert more.neighbours == changed.neighbours, "one that has no neighbour stays without"
    # Somebody is asked for who is not there: no answer of theirs, and no error. What was set for good stays.
    asked = [(eth0, "10.6.2.1"), (9999, "10.6.2.2"), (eth0, "10.6.0.3")]
    in_namespace(node, lambda netlink: netlink.use(asked))
    known = in_namespace(
        node, lambda netlink: netlink.neighbours_of([(eth0, "10.6.2.1"), (eth0, "10.6.9.9"), asked[-1]])
    )
    assert [(each.ip, each.mac) for each in known] == [  # type: ignore[attr-defined]
        ("10.6.2.1", ""),
        ("10.6.0.3", MAC.format(0xFF)),
    ]


def test_interfaces_and_addresses_are_those_that_the_kernel_has(node: Node) -> None:
    def info(link: Any, name: str) -> Any:
        return (link.get("linkinfo") or {}).get(name)

    def by_pyroute2() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        with IPRoute() as netlink:
            links = [
                (each["index"], each["ifi_type"], each["flags"], each.get("ifname"), each.get("address"),
                 each.get("mtu"), (each.get("linkinfo") or {}).get("kind") or "", each.get("link") or 0,
                 each.get("link_netnsid") is not None, each.get("master") or 0,
                 (data := info(each, "data")) is not None and bool(data.get("br_vlan_filtering")),
                 info(each, "slave_kind") == "bridge" and info(each, "slave_data").get("brport_state") != 3,
                 (), each.get("carrier_changes"), (data and data.get("vlan_id")) or 0,
                 bool(data and data.get("vlan_egress_qos")))
                for each in netlink.get_links()
            ]  # fmt: skip
            addresses = [(each.get("local") or each.get("address"), each["index"], each["prefixlen"])
                         for each in netlink.get_addr(family=socket.AF_INET)]  # fmt: skip
            return links, addresses

    def add_more(netlink: IPRoute) -> None:
        netlink.link("add", ifname="eth5", kind="veth", peer={"ifname": "eth6"})
        netlink.link("add", ifname="br0", kind="bridge")
        netlink.link("set", ifname="eth5", master=netlink.link_lookup(ifname="br0")[0])
        # Not every kernel has these.
        with contextlib.suppress(NetlinkError):
            netlink.link(
                "add", ifname="eth6.9", kind="vlan", link=netlink.link_lookup(ifname="eth6")[0], vlan_id=9
            )

    configure(node, add_more)
    links, addresses = node.call(by_pyroute2)
    assert {"veth", "bridge", ""} <= {each[6] for each in links}
    assert [each[3] for each in links if each[11]] == ["eth5"], "the bridge is down, and so is its port"
    assert in_namespace(node, lambda netlink: list(map(astuple, netlink.links()))) == links
    assert in_namespace(node, lambda netlink: netlink.addresses()) == addresses


def test_neighbours_are_told_apart_from_everything_else(node: Node) -> None:
    eth0 = node.call(lambda: socket.if_nametoindex("eth0"))

    async def listen() -> list[bool]:
        heard: asyncio.Queue[bool] = asyncio.Queue()
        trigger = ChangeTrigger(heard.put_nowait)
        told = []
        try:
            changes: list[Callable[[IPRoute], object]] = [
                lambda netlink: netlink.neigh("del", dst="10.6.0.3", ifindex=eth0),
                lambda netlink: netlink.addr("add", index=eth0, address="10.0.3.1", prefixlen=24),
                lambda netlink: netlink.neigh("del", dst="10.6.0.4", ifindex=eth0),
            ]
            for change in changes:
                await asyncio.to_thread(configure, node, change)
                told.append(await asyncio.wait_for(heard.get(), LIMIT))
        finally:
            trigger.close()
        return told

    with NodeLoop(node) as loop:
        assert loop.do(listen()) == [False, True, False]


def test_a_neighbour_that_is_as_it_is_known_to_be_triggers_nothing(node: Node) -> None:
    eth0 = node.call(lambda: socket.if_nametoindex("eth0"))
    known: Facts = node.call(lambda: read_facts())

    def put(last: int, mac: int, state: str) -> Callable[[IPRoute], object]:
        return lambda netlink: netlink.neigh(
            "replace", dst=f"10.6.0.{last}", lladdr=MAC.format(mac), ifindex=eth0, state=state
        )

    async def listen() -> list[tuple[int, str, str]]:
        asked: list[tuple[int, str, str]] = []
        calls = 0
        looked, called = asyncio.Event(), asyncio.Event()

        def is_known(ifindex: int, ip: str, mac: str) -> bool:
            asked.append((ifindex, ip, mac))
            looked.set()
            return known.knows(ifindex, ip, mac)

        def call(more: bool) -> None:
            nonlocal calls
            calls += 1
            assert not more
            called.set()

        trigger = ChangeTrigger(call, is_known=is_known)
        try:
            await asyncio.to_thread(configure, node, put(3, 3, "stale"))
            await asyncio.wait_for(looked.wait(), LIMIT)
            await asyncio.to_thread(configure, node, put(4, 0xFF, "permanent"))
            await asyncio.wait_for(called.wait(), LIMIT)
            assert calls == 1
        finally:
            trigger.close()
        return asked

    with NodeLoop(node) as loop:
        assert loop.do(listen()) == [
            (eth0, "10.6.0.3", MAC.format(3)),
            (eth0, "10.6.0.4", MAC.format(0xFF)),
        ]


def test_that_a_neighbour_is_known_no_more_is_noticed_and_that_it_is_heard_again_is_not(node: Node) -> None:
    eth0 = node.call(lambda: socket.if_nametoindex("eth0"))

    def change(state: str) -> Callable[[IPRoute], object]:
        return lambda netlink: netlink.neigh(
            "replace", dst="10.6.0.3", lladdr=MAC.format(3), ifindex=eth0, state=state
        )

    def watch() -> list[bool]:
        neighbours = KernelNeighbours(9998)
        try:
            told = [neighbours.stirred(), neighbours.stirred()]
            for step in (
                change("reachable"),
                change("failed"),
                change("permanent"),
                lambda netlink: netlink.neigh("del", dst="10.6.0.3", ifindex=eth0),
            ):
                with IPRoute() as netlink:
                    step(netlink)
                told.append(neighbours.stirred())
        finally:
            neighbours.close()
        return told

    assert node.call(watch) == [True, False, False, True, False, True]
