"""Every kind of route, rule and next hop towards a member: both paths take the same link, or say why none.

All of them are there at once, each for an address of its own, and each for a topic of either class. What the
slow path does is what the kernel does; the fast path does the same.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from support.inject import Capture
from support.nodes import ip, udp
from support.privileges import require_kernel, require_netns
from support.waiting import until

from tempos import DATA_PORT, Framing, Group, Member, Quality, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

#: So many that of several ways each is taken, whatever the kernel's secret is that it chooses by.
PORTS = range(5000, 5016)
#: What events leave from, of neither link: of several ways the kernel prefers one that has the source.
NEAR = "10.0.1.1"
ONE, OTHER = "10.0.2.2", "10.0.3.2"
#: C's ends of the two links from B.
LINKS = {"eth0": "one", "eth1": "other"}
TO_ONE, TO_OTHER = f"route add {{to}} via {ONE}", f"route add {{to}} via {OTHER}"
RULE = (TO_ONE, f"{TO_OTHER} table 100")
#: What an operator types, and by which links it leads; or what is said of it, where it leads by none.
KINDS: dict[str, tuple[tuple[str, ...], set[str] | str]] = {
    "a gateway": ((TO_ONE,), {"one"}),
    "from a source": ((*RULE, "rule add from {near} to {to} lookup 100"), {"other"}),
    "from another source": ((*RULE, "rule add from 10.0.2.1 to {to} lookup 100"), {"one"}),
    "marked": ((*RULE, "rule add fwmark 1 to {to} lookup 100"), {"one"}),
    "our own": ((*RULE, "rule add iif lo to {to} lookup 100"), {"other"}),
    "passing through": ((*RULE, "rule add iif eth0 to {to} lookup 100"), {"one"}),
    "of a user": ((*RULE, "rule add uidrange 0-0 to {to} lookup 100"), {"other"}),
    "of the data port": ((*RULE, "rule add ipproto udp sport 9998 to {to} lookup 100"), {"other"}),
    "to a port": ((*RULE, "rule add ipproto udp dport 5000-5003 to {to} lookup 100"), {"one", "other"}),
    "of a class": ((*RULE, "rule add tos 0x18 to {to} lookup 100"), {"one", "other"}),
    "a route of a class": ((TO_ONE, "route add {to} tos 0x18 via " + OTHER), {"one", "other"}),
    "two, one better": ((f"{TO_ONE} metric 2", f"{TO_OTHER} metric 1"),
                        {"other"}),
    "not by the default": ((f"{TO_OTHER} table 100", "rule add to {to} lookup 100 pref 20",
                            "rule add to {to} table main suppress_prefixlength 0 pref 10"), {"other"}),
    "thrown out of a table": ((TO_ONE, "route add throw {to} table 100",
                               "rule add to {to} lookup 100"), {"one"}),
    "several ways": (("route add {to} nexthop via " + ONE + " nexthop via " + OTHER,), {"one", "other"}),
    "a next hop": (("nexthop add id {id} via " + OTHER + " dev eth2", "route add {to} nhid {id}"), {"other"}),
    "several next hops": (("nexthop add id {id} via " + ONE + " dev eth1",
                           "nexthop add id {id}0 via " + OTHER + " dev eth2",
                           "nexthop add id {id}00 group {id}/{id}0", "route add {to} nhid {id}00"),
                          {"one", "other"}),
    "a gateway with IPv6": (("route add {to} via inet6 fd00::2 dev eth1",), {"one"}),
    "blackhole": (("route add blackhole {to}",), r"a route drops .*blackhole"),
    "unreachable": (("route add unreachable {to}",), r"a route says .*unreachable"),
    "prohibit": (("route add prohibit {to}",), r"a route forbids it .*prohibit"),
    "a next hop of nothing": (("nexthop add id {id} blackhole", "route add {to} nhid {id}"), r"blackhole"),
    "none": ((), r"Network is unreachable"),
}  # fmt: skip
#: What may be typed while the broker runs, and by which links the events of that kind then go.
CHANGES: dict[str, tuple[str, set[str]]] = {
    "a next hop": ("nexthop replace id {id} via " + ONE + " dev eth1", {"one"}),
    "marked": ("rule add ipproto udp dport 5004 to {to} lookup 100", {"one", "other"}),
    "two, one better": ("route del {to} metric 1", {"one"}),
    "blackhole": ("route replace {to} via " + OTHER, {"other"}),
}
#: Why the slow path carries what the fast one could not take the same way.
SLOW = {"a gateway with IPv6": "no IPv4 address"}
QUALITIES = (Quality.SQ, Quality.BQ)
#: By class and port, by which link; nothing of those that led to none.
Ways = dict[str, dict[tuple[Quality, int], str]]


def _orders(kind: str, lines: tuple[str, ...]) -> Iterator[str]:
    number = list(KINDS).index(kind) + 1
    return (line.format(to=f"10.9.9.{number}", id=number, near=NEAR) for line in lines)


class Field:
    """The two links, members with an address for each kind, and a topic of each kind and class."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        self._topology = topology
        node, member = topology.broker, topology.subscriber
        for number in range(1, len(KINDS) + 1):
            ip(member, f"addr add 10.9.9.{number}/32 dev lo")
        for each, name, address in ((node, "eth1", "fd00::1"), (member, "eth0", "fd00::2")):
            _set(each, "net.ipv6.conf.all.disable_ipv6=0", f"net.ipv6.conf.{name}.disable_ipv6=0")
            ip(each, f"addr add {address}/64 dev {name} nodad")
        # Of several ways one is chosen by the ports, too.
        _set(node, "net.ipv4.fib_multipath_hash_policy=1")
        for kind, (lines, _) in KINDS.items():
            ip(node, *_orders(kind, lines))
        self.topics: dict[Topic, tuple[str, Quality]] = {}
        groups = {}
        for number, kind in enumerate(KINDS, 1):
            members = tuple(Member(f"10.9.9.{number}", port) for port in PORTS)
            for quality in QUALITIES:
                number_of = 2 * number + QUALITIES.index(quality)
                topic = Topic(number_of, f"{quality.value} {number}", quality, framing=Framing.RAW)
                self.topics[topic], groups[topic] = (kind, quality), [Group("g", members)]
        self.groups = groups
        self._sender = stack.enter_context(udp(topology.publisher))
        self._captures = {
            way: stack.enter_context(closing(Capture(member, name))) for name, way in LINKS.items()
        }

    def type(self, kind: str, line: str) -> None:
        ip(self._topology.broker, *_orders(kind, (line,)))

    def ways(self, broker: Broker, kinds: list[str]) -> Ways:
        """An event to every member of topics of these kinds: by which links they came."""
        topics = [topic for topic, (kind, _) in self.topics.items() if kind in kinds]
        before = {topic: broker.topic(topic.name) for topic in topics}
        for topic in topics:
            for _ in PORTS:
                self._sender.sendto(bytes([topic.id]), (self._topology.broker.address, DATA_PORT))
        found: Ways = {kind: {} for kind in kinds}
        by_id = {topic.id: told for topic, told in self.topics.items()}

        def look() -> bool:
            """Whether every event has come, or has been given up by the broker."""
            for way, capture in self._captures.items():
                for frame in map(Ether, capture.at_hand()):
                    if UDP in frame and frame[IP].dst.startswith("10.9.9."):
                        kind, quality = by_id[bytes(frame[UDP].payload)[0]]
                        found[kind][quality, frame[UDP].dport] = way
            for topic in topics:
                kind, quality = self.topics[topic]
                now = broker.topic(topic.name)
                (group,), (had,) = now.groups, before[topic].groups
                came = sum(1 for each, _ in found[kind] if each is quality)
                if now.received - before[topic].received < len(PORTS):
                    return False
                if came < len(PORTS) and isinstance(KINDS[kind][1], set):
                    return False
                assert group.tickets - had.tickets == len(PORTS)
            return True

        until(look, lambda: f"not all came: {found}")
        return found


def _set(node: object, *settings: str) -> None:
    node.call(partial(subprocess.run, ["sysctl", "-qw", *settings], check=True))  # type: ignore[attr-defined]


def _settled(broker: Broker, field: Field, kinds: list[str], fast: Callable[[str], bool]) -> None:
    """Wait until every topic of these kinds is on the path that it is to stay on."""

    def wrong() -> dict[str, str]:
        status = {each["name"]: each for each in broker.status()["topics"]}
        return {
            topic.name: f"{kind}: {status[topic.name]['path']}: {status[topic.name]['reason']}"
            for topic, (kind, _) in field.topics.items()
            if kind in kinds and (status[topic.name]["path"] == "fast") != fast(kind)
        }

    until(lambda: not wrong(), lambda: f"paths: {wrong()}")


def _is_fast(kind: str) -> bool:
    """Also where the kernel has no way to members: those are left out."""
    return kind not in SLOW


def _play(mode: str) -> tuple[Ways, Ways]:
    """By which links events go, at first and after all changes; asserts what the status says."""
    with ExitStack() as stack:
        topology = stack.enter_context(build("forked"))
        field = Field(stack, topology)
        broker = stack.enter_context(Broker(topology.broker, field.groups, mode=mode, listen=(NEAR,)))
        if mode != "off":
            _settled(broker, field, list(KINDS), _is_fast)
            for topic, (kind, _) in field.topics.items():
                reason, ways = broker.topic(topic.name).reason, KINDS[kind][1]
                if isinstance(ways, str) or kind in SLOW:
                    assert re.search(SLOW.get(kind, str(ways)), reason), (kind, reason)
        first = field.ways(broker, list(KINDS))
        for kind, (line, _) in CHANGES.items():
            field.type(kind, line)
        if mode != "off":
            _settled(broker, field, list(CHANGES), lambda kind: True)

        def told() -> bool:
            # The kernel says a moment after a change that there was one.
            found = field.ways(broker, list(CHANGES))
            second.update(found)
            return all(set(found[kind].values()) == ways for kind, (_, ways) in CHANGES.items())

        second: Ways = {}
        until(told, lambda: f"after the changes: {second}")
        return first, second


def test_both_paths_leave_by_the_same_link_or_say_why_not() -> None:
    require_netns()
    require_kernel()
    slow = _play("off")
    for kind, (_, ways) in KINDS.items():
        assert set(slow[0][kind].values()) == (ways if isinstance(ways, set) else set()), kind
    for mode in ("native", "generic"):
        fast = _play(mode)
        for found, right in zip(fast, slow, strict=True):
            assert {kind: each for kind, each in found.items() if each != right[kind]} == {}, mode
