"""A member that cannot be reached stalls nobody: it is left out, told, and taken in when it is there."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import ExitStack

import pytest
from support.nodes import ip, udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Fanout, Group, Member, Path, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
#: Several times what the kernel keeps for a neighbour that it does not know.
EVENTS, RATE, SIZE = 2_400, 4_000, 1_300


def publish(topology: Topology, count: int = EVENTS, rate: int = RATE) -> None:
    """By a schedule, not to be held up by what is published."""

    def work() -> None:
        with Publisher(topology.broker.address) as pub:
            began = time.monotonic()
            for number in range(count):
                if number % 20 == 0:
                    time.sleep(max(0.0, began + number / rate - time.monotonic()))
                pub.publish(TOPIC.name, b"x" * SIZE)

    topology.publisher.call(work)


def interface_of(address: str) -> str:
    links = json.loads(subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True).stdout)
    return next(link["ifname"] for link in links for each in link["addr_info"] if each["local"] == address)


def add_address(topology: Topology, ip: str) -> None:
    def work() -> None:
        name = interface_of(topology.subscriber.address)
        subprocess.run(["ip", "addr", "add", f"{ip}/24", "dev", name], check=True)

    topology.subscriber.call(work)


CASES = {
    "recvmmsg": ("off", False, Fanout.AUTO),
    "portable": ("off", True, Fanout.AUTO),
    "one": ("native", False, Fanout.AUTO),
    "broadcast": ("native", False, Fanout.XDP),
    "clone": ("native", False, Fanout.TC),
}


@pytest.mark.parametrize("case", CASES)
def test_a_member_without_a_neighbour_costs_the_others_nothing(case: str) -> None:
    mode, portable, fanout = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    topic = Topic(id=7, name="news", fanout=fanout)
    with build("straight") as topology, ExitStack() as stack:
        dead = Member(topology.subscriber.address.rpartition(".")[0] + ".200", 5000)
        groups = [Group("workers", (dead,))]
        if fanout is not Fanout.AUTO:
            groups.append(Group("others", (Member(topology.subscriber.address, 5001),)))
        other = stack.enter_context(udp(topology.subscriber, (topology.subscriber.address, 5001)))
        broker = stack.enter_context(Broker(topology.broker, {topic: groups}, mode=mode, portable=portable))
        sub = Subscriber(topology.facing_subscriber, topic.name, group="workers")
        topology.subscriber.call(sub.__enter__)
        try:
            # What asks for a neighbour that nobody knows yet.
            publish(topology, 400)
            until(lambda: left_out(broker, dead), "it is not found out")
            if mode != "off":
                status = broker.wait_path(topic.name, Path.FAST, LIMIT)
                assert "1 of" in status.reason
                assert "left out" in status.reason
            # Nor does it matter to the others that what it would get has to be smaller.
            narrow = f"{dead.ip}/32 dev {topology.broker.interfaces[-1]} mtu 1200"
            ip(topology.broker, f"route add {narrow}")
            before = broker.topic(topic.name)
            publish(topology)
            status = broker.wait_received(topic.name, before.received + EVENTS, LIMIT)
            mine = next(group for group in status.groups if group.name == "workers")
            until(lambda: sub.stats.datagrams >= EVENTS // 2 + 100, "its own half has come")
            if mode != "off":
                assert status.fast - before.fast == EVENTS if fanout is not Fanout.AUTO else True
                assert status.slow == before.slow
            assert status.closed, status
            assert mine.tickets == 400 + EVENTS
            # There it is.
            ip(topology.broker, f"route del {narrow}")
            add_address(topology, dead.ip)
            late = stack.enter_context(udp(topology.subscriber, (dead.ip, dead.port)))
            until(lambda: not left_out(broker, dead), "it is not taken in again")
            publish(topology, 100)
            late.recv(2000)
        finally:
            drained = topology.subscriber.call(sub.drain)
            sub.close()
        assert drained is not None
        assert drained.lost <= 200, "of the first ones, before it was found out, some may be"
        if fanout is not Fanout.AUTO:
            assert received(other) >= EVENTS


@pytest.mark.parametrize("case", CASES)
def test_a_member_that_no_way_leads_to_costs_the_others_nothing(case: str) -> None:
    """One of the file that there is no way to yet, whose way comes, goes, and is forbidden."""
    mode, portable, fanout = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    topic = Topic(id=7, name="news", fanout=fanout)
    with build("straight") as topology, ExitStack() as stack:
        lost = Member("203.0.113.5", 5000)
        groups = [Group("workers", (lost,))]
        if fanout is not Fanout.AUTO:
            groups.append(Group("others", (Member(topology.subscriber.address, 5001),)))
        broker = stack.enter_context(Broker(topology.broker, {topic: groups}, mode=mode, portable=portable))
        sub = Subscriber(topology.facing_subscriber, topic.name, group="workers")
        topology.subscriber.call(sub.__enter__)
        add_address(topology, lost.ip)
        way = f"{lost.ip}/32 via {topology.subscriber.address}"
        try:
            for number, (order, why) in enumerate(
                (
                    ("", "no way to it (Network is unreachable)"),
                    (f"route add {way}", ""),
                    (f"route replace prohibit {lost.ip}/32", "no way to it (a route forbids it (prohibit))"),
                    (f"route replace {way}", ""),
                ),
                1,
            ):
                if order:
                    ip(topology.broker, order)

                def is_told(why: str = why) -> bool:
                    # For a moment it may be that who is next on the way is not known yet.
                    told = left_out(broker, lost)
                    return why in told and bool(told) == bool(why)

                until(is_told, order or "nothing")
                if mode != "off":
                    status = broker.wait_path(topic.name, Path.FAST, LIMIT)
                    until(lambda: ("1 of" in broker.topic(topic.name).reason) == bool(why), order)  # noqa: B023
                before = broker.topic(topic.name)
                publish(topology, 400)
                status = broker.wait_received(topic.name, before.received + 400, LIMIT)
                until(lambda: sub.stats.datagrams == 200 * number, order)  # noqa: B023
                if mode != "off":
                    assert status.slow == before.slow
                    assert status.fast - before.fast == 400 if fanout is not Fanout.AUTO else True
                assert status.closed, status
        finally:
            drained = topology.subscriber.call(sub.drain)
            sub.close()
        assert drained is not None
        assert drained.lost == 0


def left_out(broker: Broker, member: Member) -> str:
    """Why, in the status's words."""
    for group in broker.entry(TOPIC.name)["groups"]:
        for each in group["members"]:
            if each["ip"] == member.ip:
                return str(each["left_out"])
    raise AssertionError("no such member")


def received(sock: socket.socket) -> int:
    sock.setblocking(False)
    count = 0
    try:
        while True:
            sock.recv(2000)
            count += 1
    except BlockingIOError:
        return count
