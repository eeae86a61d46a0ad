"""Whose address: every member gets its events from the address that it asked, whichever publishers send to.

Members here take events from nowhere else (:mod:`support.strict`). The broker's node has four addresses: one
on each of two links, a second one beside the first, and a service address on loopback.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from support.inject import Capture
from support.nodes import LIMIT, configure, udp
from support.privileges import require_kernel, require_netns
from support.strict import StrictMember
from support.waiting import until

from tempos import DATA_PORT, Fanout, Group, Member, Path, Quality, Topic
from tempos.wire import encode_event
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import Topology, build, mac_of

pytestmark = pytest.mark.netns

NEAR_A, NEAR_C, SECOND, SERVICE = "10.0.1.1", "10.0.2.1", "10.0.1.9", "10.9.9.1"
OURS = (NEAR_A, NEAR_C, SECOND, SERVICE)
ANY = ("0.0.0.0",)
SHARED = Topic(id=7, name="shared", quality=Quality.SQ)
SPREAD = Topic(id=8, name="spread")
#: Fast path mode, tc instead of an XDP broadcast, portable, a worker for SQ.
WAYS = {
    "slow": {"mode": "off"},
    "portable": {"mode": "off", "portable": True},
    "worker": {"mode": "off", "quality": {"worker_sq": True, "priority_sq": 0}},
    "generic": {"mode": "generic"},
    "native": {"mode": "native"},
    "tc": {"mode": "native"},
}
# Most members here send no heartbeats, and a machine may be busy for longer than a lease usually is.
WAYS = {name: {**way, "control": {"lease": 10 * LIMIT}} for name, way in WAYS.items()}
EVENTS = 300


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    require_netns()
    if WAYS[request.param]["mode"] != "off":
        require_kernel()
    return str(request.param)


@contextmanager
def nodes(shape: str = "straight") -> Iterator[Topology]:
    """With the two more addresses, and ways to them."""
    with build(shape) as topology:

        def more(netlink) -> None:
            eth0, lo = (netlink.link_lookup(ifname=name)[0] for name in ("eth0", "lo"))
            netlink.addr("add", index=eth0, address=SECOND, prefixlen=24)
            netlink.addr("add", index=lo, address=SERVICE, prefixlen=32)

        configure(topology.broker, more)
        for node, gateway in ((topology.publisher, NEAR_A), (topology.subscriber, NEAR_C)):
            configure(node, lambda netlink, via=gateway: netlink.route("add", dst=SERVICE, gateway=via))
        know_second(topology)
        yield topology


def know_second(topology: Topology) -> None:
    """The publisher's node knows who has the second address, so that a burst never waits for it."""
    configure(
        topology.publisher,
        lambda netlink: netlink.neigh(
            "replace", dst=SECOND, lladdr=mac_of(NEAR_A), ifindex=netlink.link_lookup(ifname="eth0")[0],
            state="permanent",
        ),
    )  # fmt: skip


class Publisher:
    """Sends numbered events from a node to one address of the broker after the other."""

    def __init__(self, stack: ExitStack, node: Node, to: tuple[str, ...]) -> None:
        self._sock = stack.enter_context(udp(node))
        self._to = itertools.cycle(to)
        self._number = 0
        self.bytes = 0

    def send(self, topic: Topic, count: int) -> None:
        for _ in range(count):
            self._number += 1
            event = encode_event(topic.id, self._sock.getsockname()[1], self._number, 0, b"%d" % self._number)
            self.bytes += self._sock.sendto(event, (next(self._to), DATA_PORT))


def topics(way: str) -> tuple[Topic, Topic]:
    if way == "tc":
        return replace(SHARED, fanout=Fanout.TC), replace(SPREAD, fanout=Fanout.TC)
    return SHARED, SPREAD


@pytest.mark.parametrize(
    ("way", "listen"),
    [
        ("slow", ANY), ("portable", ANY), ("worker", ANY), ("worker", OURS), ("generic", OURS),
        ("native", OURS), ("tc", OURS),
    ],
    ids=str, indirect=["way"],
)  # fmt: skip
def test_members_that_know_one_address_get_everything(way: str, listen: tuple[str, ...]) -> None:
    """One group of members that asked different addresses, and a group each; publishers near and far."""
    shared, spread = topics(way)
    with ExitStack() as stack:
        topology = stack.enter_context(nodes())
        broker = stack.enter_context(
            Broker(topology.broker, {shared: (), spread: ()}, listen=listen, **WAYS[way])
        )
        if way == "worker":
            broker.wait_worker()
        c = topology.subscriber
        workers = [stack.enter_context(StrictMember(c, asked, shared.name, "workers")) for asked in OURS]
        alone = [stack.enter_context(StrictMember(c, asked, spread.name)) for asked in OURS]
        wanted = Path.SLOW if WAYS[way]["mode"] == "off" else Path.FAST
        for topic in (shared, spread):
            broker.wait_path(topic.name, wanted)
        far = Publisher(stack, topology.publisher, OURS)
        # What a program on the broker's host sends to if nothing else is said, and others that it may.
        here = ("127.0.0.1", "127.0.0.2", NEAR_C) if listen == ("0.0.0.0",) else (NEAR_C, SERVICE)
        near = Publisher(stack, topology.broker, here)
        for publisher, topic in itertools.product((far, near), (shared, spread)):
            publisher.send(topic, EVENTS)
            broker.wait_received(topic.name, EVENTS if publisher is far else 2 * EVENTS)
        for member in workers:
            member.take(2 * EVENTS // len(workers))
        for member in alone:
            member.take(2 * EVENTS)
            # Round robin is exact, whoever sends: each sees its own sequence whole.
            assert [sorted(each) for each in member.sequences.values()] == [list(range(2 * EVENTS))]
        for member in (*workers, *alone):
            member.tell()
        for topic in (shared, spread):
            status = broker.topic(topic.name)
            assert status.closed
            assert (status.received, status.refused) == (2 * EVENTS, {})
            assert all(group.delivered == group.tickets == 2 * EVENTS for group in status.groups)
            # What comes to the service address, and from the broker's host, is not for the fast path.
            assert bool(status.fast) == (wanted is Path.FAST)
            shown = {m["port"]: m["from"] for g in broker.entry(topic.name)["groups"] for m in g["members"]}
            assert shown == {m.endpoint[1]: m.asked for m in (workers if topic is shared else alone)}
        broker.stop()


@pytest.mark.parametrize("way", ["slow", "native", "generic"], indirect=True)
def test_members_keep_their_address_over_a_kill_and_a_restart(way: str) -> None:
    """Events flow on while nobody is there, and the next broker goes on from the same addresses."""
    fast = WAYS[way]["mode"] != "off"
    with ExitStack() as stack:
        topology = stack.enter_context(nodes())
        folder = stack.enter_context(topology.broker.folder())

        def start() -> Broker:
            return stack.enter_context(
                Broker(topology.broker, {SHARED: (), SPREAD: ()}, listen=("0.0.0.0",),
                       state=f"{folder}/state.db", **WAYS[way])
            )  # fmt: skip

        broker = start()
        c = topology.subscriber
        workers = [stack.enter_context(StrictMember(c, asked, SHARED.name, "workers")) for asked in OURS]
        alone = [stack.enter_context(StrictMember(c, asked, SPREAD.name)) for asked in OURS]
        # Those that the fast path takes.
        publisher = Publisher(stack, topology.publisher, (NEAR_A, NEAR_C, SECOND))
        sent = 0
        for life in range(3):
            if life:
                broker.program.kill()
                if fast:
                    sent += send(publisher)
                    everybody_got(sent, workers, alone)
                broker = start()
            for topic in (SHARED, SPREAD):
                broker.wait_path(topic.name, Path.FAST if fast else Path.SLOW)
            sent += send(publisher)
            everybody_got(sent, workers, alone)
        assert {len(member.epochs) for member in (*workers, *alone)} == {1}, "no route was another one"
        for member in (*workers, *alone):
            member.tell()
        for topic in (SHARED, SPREAD):
            status = broker.topic(topic.name)
            assert status.closed
            assert all(group.delivered == group.tickets == sent for group in status.groups)


def send(publisher: Publisher) -> int:
    for topic in (SHARED, SPREAD):
        publisher.send(topic, EVENTS)
    return EVENTS


def everybody_got(events: int, workers: list[StrictMember], alone: list[StrictMember]) -> None:
    for member in workers:
        member.take(events // len(workers))
    for member in alone:
        member.take(events)


@pytest.mark.parametrize("way", ["slow", "native"], indirect=True)
def test_a_member_that_asks_another_address_moves_there(way: str) -> None:
    with ExitStack() as stack:
        topology = stack.enter_context(nodes())
        broker = stack.enter_context(Broker(topology.broker, {SPREAD: ()}, listen=("0.0.0.0",), **WAYS[way]))
        publisher = Publisher(stack, topology.publisher, (NEAR_A,))
        member = stack.enter_context(StrictMember(topology.subscriber, SERVICE, SPREAD.name, "g"))
        other = stack.enter_context(StrictMember(topology.subscriber, NEAR_C, SPREAD.name, "g"))
        broker.wait_path(SPREAD.name, Path.SLOW if way == "slow" else Path.FAST)
        publisher.send(SPREAD, 10)
        member.take(5)
        # A heartbeat at another address moves nobody.
        member.tell(at=NEAR_C)
        publisher.send(SPREAD, 10)
        member.take(10)
        member.move(NEAR_A, SPREAD.name, "g")
        publisher.send(SPREAD, 10)
        member.take(15)
        other.take(15)
        assert len(member.epochs) == 2, "one route more"
        # Asked once more at the same address, nothing changes.
        member.ask("subscribe", topic=SPREAD.name, group="g", port=member.endpoint[1])
        publisher.send(SPREAD, 2)
        member.take(16)
        assert len(member.epochs) == 2


@pytest.mark.parametrize("way", ["slow", "native", "tc"], indirect=True)
def test_an_address_that_goes_takes_its_members_events_with_it_until_it_is_back(way: str) -> None:
    """The others of the topic go on; what was its, is lost and counted; nobody else's address is used."""
    fast = WAYS[way]["mode"] != "off"
    _, topic = topics(way)

    def service(verb: str) -> None:
        configure(
            topology.broker,
            lambda netlink: netlink.addr(
                verb, index=netlink.link_lookup(ifname="lo")[0], address=SERVICE, prefixlen=32
            ),
        )

    with ExitStack() as stack:
        topology = stack.enter_context(nodes())
        broker = stack.enter_context(Broker(topology.broker, {topic: ()}, listen=("0.0.0.0",), **WAYS[way]))
        publisher = Publisher(stack, topology.publisher, (NEAR_A,))
        member = stack.enter_context(StrictMember(topology.subscriber, SERVICE, topic.name))
        other = stack.enter_context(StrictMember(topology.subscriber, NEAR_C, topic.name))
        capture = Capture(topology.subscriber, "eth0")
        stack.callback(capture.close)
        served = Path.FAST if fast else Path.SLOW
        broker.wait_path(topic.name, served)
        publisher.send(topic, 10)
        member.take(10)
        other.take(10)

        service("del")
        if fast:
            # Who has no way is left out, and the topic stays where it was for all others.
            why = f"its events leave from {SERVICE}, which this machine does not have now"
            told = f"member 10.0.2.2:{member.endpoint[1]}: {why}"
            until(lambda: told in broker.topic(topic.name).reason, lambda: broker.topic(topic.name).reason)
        capture.at_hand()
        publisher.send(topic, 10)
        other.take(20)
        entry = broker.entry(topic.name)
        assert sorted(group["unsent"] for group in entry["groups"]) == [0, 10]
        assert entry["lost"] == ({} if fast else {"send_error": 10})
        frames = [Ether(frame) for frame in capture.at_hand()]
        assert {each[IP].src for each in frames if UDP in each and each[UDP].sport == DATA_PORT} == {NEAR_C}

        service("add")
        broker.wait_path(topic.name, served)
        until(lambda: "left out" not in broker.topic(topic.name).reason, "it is not taken in again")
        publisher.send(topic, 10)
        member.take(20)
        other.take(30)
        assert len(other.epochs) == 1, "the route stayed what it was"


@dataclass(frozen=True)
class Asked:
    """A member's source as the configuration has it, and by which interface of C its events must come."""

    source: str | None
    comes_from: str
    by: str


@pytest.mark.parametrize(
    ("way", "listen"), [("slow", None), ("portable", None), ("native", ANY), ("generic", ANY), ("tc", ANY)],
    ids=str, indirect=["way"],
)  # fmt: skip
def test_rules_by_source_send_both_paths_the_same_way(way: str, listen: tuple[str, ...] | None) -> None:
    """What leaves from 10.0.3.1 goes by the third link, whoever it is for.

    Each way listens here as it does not where every member gets everything.
    """
    third = "10.0.3.1"
    asked = {
        6001: Asked(None, NEAR_C, "eth0"),
        6002: Asked(NEAR_A, NEAR_A, "eth0"),
        6003: Asked(third, third, "eth1"),
    }
    topic = topics(way)[1]
    with ExitStack() as stack:
        topology = stack.enter_context(nodes("forked"))
        c = topology.subscriber
        far = c.addresses[0]

        def rule(netlink) -> None:
            netlink.route("add", dst=f"{far}/32", gateway=c.addresses[1], table=100)
            netlink.rule("add", src=third, src_len=32, table=100)

        configure(topology.broker, rule)
        groups = tuple(
            Group(str(port), (Member(far, port, source=each.source),)) for port, each in asked.items()
        )
        broker = stack.enter_context(
            Broker(topology.broker, {topic: groups}, listen=listen or (), **WAYS[way])
        )
        broker.wait_path(topic.name, Path.SLOW if WAYS[way]["mode"] == "off" else Path.FAST)
        captures = {name: Capture(c, name) for name in c.interfaces}
        for capture in captures.values():
            stack.callback(capture.close)
        publisher = Publisher(stack, topology.publisher, (NEAR_A,))
        publisher.send(topic, EVENTS)
        seen: dict[int, set[tuple[str, str]]] = {}
        # In bytes: what the slow path sent together comes as one buffer.
        got, wanted = 0, publisher.bytes * len(asked)
        end = time.monotonic() + LIMIT
        while got < wanted and time.monotonic() < end:
            for name, capture in captures.items():
                for packet in map(Ether, capture.at_hand()):
                    if UDP in packet and packet[UDP].dport in asked:
                        seen.setdefault(packet[UDP].dport, set()).add((packet[IP].src, name))
                        got += len(packet[UDP].payload)
        assert got == wanted
        assert seen == {port: {(each.comes_from, each.by)} for port, each in asked.items()}


@pytest.mark.parametrize("way", ["slow", "native"], indirect=True)
def test_a_member_behind_wireguard_that_lets_one_address_in_gets_its_events(way: str) -> None:
    """Its peer is the broker's node, at one address; publishers send to others."""
    if shutil.which("wg") is None:
        pytest.skip("wg is not installed (package wireguard-tools)")
    near, far = "10.8.0.1", "10.8.0.2"
    with ExitStack() as stack:
        topology = stack.enter_context(nodes())
        keys = {address: wireguard(("genkey",)) for address in (near, far)}
        for node, mine, other, at in (
            (topology.broker, near, far, topology.subscriber.address),
            (topology.subscriber, far, near, NEAR_C),
        ):
            configure(node, lambda netlink, mine=mine: tunnel(netlink, mine))
            peer = wireguard(("pubkey",), keys[other])
            settings = ("private-key", "/dev/stdin", "listen-port", "51820", "peer", peer,
                        "allowed-ips", f"{other}/32", "endpoint", f"{at}:51820")  # fmt: skip
            node.call(lambda told=settings, key=keys[mine]: wireguard(("set", "wg0", *told), key))
        broker = stack.enter_context(Broker(topology.broker, {SPREAD: ()}, listen=("0.0.0.0",), **WAYS[way]))
        member = stack.enter_context(StrictMember(topology.subscriber, near, SPREAD.name))
        assert member.endpoint[0] == far
        Publisher(stack, topology.publisher, (NEAR_A, SECOND)).send(SPREAD, EVENTS)
        member.take(EVENTS)
        # It is no Ethernet.
        assert broker.topic(SPREAD.name).path == "slow"


def wireguard(words: tuple[str, ...], text: str = "") -> str:
    done = subprocess.run(
        ("wg", *words), input=text, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tunnel(netlink, address: str) -> None:
    try:
        netlink.link("add", ifname="wg0", kind="wireguard")
    except NetlinkError as error:
        pytest.skip(f"the kernel has no WireGuard: {error}")
    index = netlink.link_lookup(ifname="wg0")[0]
    netlink.addr("add", index=index, address=address, prefixlen=24)
    netlink.link("set", index=index, state="up")


@pytest.mark.parametrize("way", ["slow", "native"], indirect=True)
def test_a_member_behind_a_strict_reverse_path_filter_gets_its_events(way: str) -> None:
    """It asked by its second link: what came from the publisher's side of the broker there was dropped."""
    with ExitStack() as stack:
        topology = stack.enter_context(nodes("forked"))
        broker = stack.enter_context(Broker(topology.broker, {SPREAD: ()}, **WAYS[way]))

        def strict() -> None:
            for name in ("all", *topology.subscriber.interfaces):
                FilePath(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1")

        topology.subscriber.call(strict)
        member = stack.enter_context(StrictMember(topology.subscriber, "10.0.3.1", SPREAD.name))
        assert member.endpoint[0] == "10.0.3.2"
        broker.wait_path(SPREAD.name, Path.SLOW if way == "slow" else Path.FAST)
        Publisher(stack, topology.publisher, (NEAR_A,)).send(SPREAD, EVENTS)
        member.take(EVENTS)
