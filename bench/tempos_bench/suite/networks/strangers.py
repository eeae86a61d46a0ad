"""A million datagrams of strangers, at every port of a broker and at its members.

Who sends them claims to be anybody but who may publish and the broker's own data port: hosts on the link,
most of them nobody's, hosts far away, members, sources that cannot be (:mod:`tempos_bench.measure.forged`).
Nobody has to sign anything; a topic has one publisher in its `sources`, and members of two groups. Then

* nothing of it is delivered to a member's program, and nobody is a member who was not before, or no more;
* no answer is larger than the largest datagram that claimed to be from where it goes, and to nobody go more
  bytes than came from there in all;
* whoever is known goes on: publisher and members between the strangers, the account, the control port.

The broker is given the time to look at all of it: what it would not read proves nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from tempos import CONTROL_PORT, DATA_PORT, Path, Publisher, Quality, Subscriber, Topic
from tempos.control import encode_request
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.forged import Forged, Scene, Strangers
from tempos_bench.measure.second_life import until
from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import Topology, build, mac_of
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_LIMIT = 30.0
_GROUPS = ("left", "left", "right")
_ETH_P_IP = 0x0800
_UDP = 17
_BUFFER = 64 << 20
#: Bytes of an Ethernet and of an IPv4 header without options.
_ETHERNET, _IPV4 = 14, 20


@dataclass(frozen=True, slots=True)
class Parameters:
    """``datagrams`` in lots of ``lot``; ``mode`` of the fast path."""

    datagrams: int
    lot: int
    mode: str
    seed: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    lots = -(-p.datagrams // p.lot)
    progress.expect(lots)
    progress.note(f"seed {p.seed}: --set seed={p.seed} draws the same datagrams again")
    with build("straight") as topology, ExitStack() as stack:
        topic = Topic(1, "guarded", Quality.SQ, sources=(f"{topology.publisher.address}/32",))
        broker = stack.enter_context(Broker(
            topology.broker, {topic: ()}, mode=p.mode, control={"heartbeat": 1.0, "lease": 4.0}
        ))  # fmt: skip
        ours = stack.enter_context(_Ours(topology, topic))
        if p.mode != "off":
            broker.wait_path(topic.name, Path.FAST)
        flood = stack.enter_context(_Flood(topology, topic, ours.endpoints, random.Random(p.seed)))
        before = ours.endpoints
        with progress.keeping(lambda: flood.sent.total()):
            for _ in progress.repetitions(lots):
                with progress.variant(f"{flood.sent.total():,} sent, {ours.strange} delivered"):
                    flood.send(p.lot)
                    ours.event()
        # Heartbeats tell what came in the end; a lease that was taken away would have ended by then.
        until(lambda: not any(g.unconfirmed for g in broker.topic(topic.name).groups), _LIMIT)
        status = broker.topic(topic.name)
        account, document = broker.ask("GET", "/v1/ledger"), broker.status()
        members = _members(broker, topic)
        larger, more = flood.judge()
        progress.note(f"sent: {_counted(flood.sent)}")
        progress.note(f"control: served {_counted(document['control']['served'])}; "
                      f"refused {_counted(document['control']['refused'])}")  # fmt: skip
        progress.note(f"{topic.name}: {status.path}, refused {_counted(status.refused)}")
        progress.note(
            f"of nobody's topic: {_counted(document['unattributed'])}; members turned away {ours.foreign}"
        )
    return [
        Figure("datagrams", flood.sent.total(), "datagrams"),
        Figure("answers", flood.answers, "datagrams"),
        Figure("delivered", ours.strange, "events"),
        Figure("members more", len(members - set(before)), "members"),
        Figure("members less", len(set(before) - members), "members"),
        Figure("answers larger than what was sent", larger, "datagrams"),
        Figure("sent more than they sent", more, "endpoints"),
        Figure("of ours lost", ours.lost, "events"),
        Figure("longest way of an event", ours.longest, "s"),
        Figure("longest wait for control", flood.longest, "s"),
        Figure("accounts not balanced", int(not account["balanced"]), ""),
    ]


def _members(broker: Broker, topic: Topic) -> set[tuple[str, int]]:
    route = broker.ask("GET", f"/v1/topics/{topic.name}/route")
    ends = [each.rpartition(":") for group in route["groups"] for each in group["members"]]
    return {(ip, int(port)) for ip, _, port in ends}


def _counted(counts: Any) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count) or "nothing"


class _Ours:
    """The publisher that may publish, and members; between two lots each event must come to both groups.

    ``strange``: events that came and were not the publisher's; ``longest``: seconds that one of ours took.
    """

    def __init__(self, topology: Topology, topic: Topic) -> None:
        self._topology, self._topic = topology, topic
        self._here, self._there = NodeLoop(topology.publisher), NodeLoop(topology.subscriber)
        self._readers: list[asyncio.Task[None]] = []
        self._subscribers: list[Subscriber] = []
        self._got: Counter[tuple[str, int]] = Counter()
        self._number = 0
        self.strange = self.lost = 0
        self.longest = 0.0

    def __enter__(self) -> _Ours:
        self._publisher: Publisher = self._here.do(self._publish_from())
        for group in _GROUPS:
            self._there.do(self._join(group))
        return self

    def __exit__(self, *_: object) -> None:
        with self._here, self._there:
            with suppress(Exception):
                self._here.do(self._publisher.close())
            with suppress(Exception):
                self._there.do(self._leave())

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        return tuple((each.member.ip, each.member.port) for each in self._subscribers)

    @property
    def foreign(self) -> int:
        """Datagrams that members turned away."""
        return sum(sum(each.stats.malformed.values()) for each in self._subscribers)

    def event(self) -> None:
        """One of ours, to both groups. What was sent before it has been looked at by then."""
        number, self._number = self._number, self._number + 1
        began = time.monotonic()
        self._here.do(self._publish(b"%d" % number))
        wanted = [(group, number) for group in set(_GROUPS)]
        if not until(lambda: all(self._got[each] for each in wanted), 2.0):
            self.lost += sum(not self._got[each] for each in wanted)
        self.longest = max(self.longest, time.monotonic() - began)

    async def _publish(self, body: bytes) -> None:
        await self._publisher.publish(self._topic.name, body)

    async def _publish_from(self) -> Publisher:
        return await Publisher(self._topology.broker.address).__aenter__()

    async def _join(self, group: str) -> None:
        subscriber = Subscriber(self._topology.facing_subscriber, self._topic.name, group=group)
        await subscriber.__aenter__()
        self._subscribers.append(subscriber)
        self._readers.append(asyncio.create_task(self._read(subscriber, group)))

    async def _read(self, subscriber: Subscriber, group: str) -> None:
        async for event in subscriber:
            if bytes(event.body).isdigit():
                self._got[group, int(event.body)] += 1
            else:
                self.strange += 1

    async def _leave(self) -> None:
        await asyncio.gather(*(each.close() for each in self._subscribers))
        await asyncio.gather(*self._readers)


class _Flood:
    """Sends what strangers send from the publisher's link, and keeps what the broker's ports send there."""

    def __init__(
        self, topology: Topology, topic: Topic, members: Sequence[tuple[str, int]], rng: random.Random
    ) -> None:
        broker = topology.broker
        segments = tuple(address.rpartition(".")[0] for address in broker.addresses)
        self._strangers = Strangers(Scene(broker.addresses, segments, tuple(members), topic), rng)
        self._macs = bytes.fromhex(mac_of(broker.address).replace(":", "")), b"\x02\x00\x00\x00\x05\x1d"
        self._broker = broker
        self.sent: Counter[str] = Counter()
        self.answers = 0
        #: Seconds that the control port took for an answer to who is known there by nothing.
        self.longest = 0.0
        self._largest: dict[tuple[str, int], int] = {}
        self._from: Counter[tuple[str, int]] = Counter()
        self._answered: dict[tuple[str, int], list[int]] = {}
        self._over = threading.Event()
        self._socket = topology.publisher.call(lambda: _packet_socket(topology.publisher.interfaces[0]))
        self._heard = [
            (node.call(lambda node=node: _packet_socket(node.interfaces[0], _ETH_P_IP)), node)  # type: ignore[misc]
            for node in (topology.publisher, topology.subscriber)
        ]
        # Of those on the link one in ten is somebody, who can be answered.
        for node, segment in zip((topology.publisher, topology.subscriber), segments, strict=True):
            for last in range(100, 200, 10):
                _have(node, f"{segment}.{last}")
        self._asking = topology.publisher.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._asking.settimeout(0.2)
        self._threads = [threading.Thread(target=self._hear, args=each) for each in self._heard]

    def __enter__(self) -> _Flood:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()
        for sock in (self._socket, self._asking, *(sock for sock, _ in self._heard)):
            sock.close()

    def send(self, count: int) -> None:
        """So many; when this returns the control port has looked at its part."""
        for _ in range(count):
            forged = self._strangers.next()
            self._note(forged)
            with suppress(BlockingIOError):
                self._socket.send(forged.frame(*self._macs))
        hello = encode_request("hello", 1, 1)
        began = time.monotonic()
        while time.monotonic() < began + _LIMIT:
            self._asking.sendto(hello, (self._broker.address, CONTROL_PORT))
            with suppress(TimeoutError):
                self._asking.recv(2048)
                self.longest = max(self.longest, time.monotonic() - began)
                return
        raise TimeoutError("the control port does not answer any more")

    def _note(self, forged: Forged) -> None:
        self.sent[forged.kind] += 1
        size = len(forged.payload)
        self._from[forged.source] += size
        self._largest[forged.source] = max(size, self._largest.get(forged.source, 0))

    def judge(self) -> tuple[int, int]:
        """Answers larger than anything that claimed to be from there; endpoints that got more in all."""
        answers = dict(self._answered)
        self.answers = sum(map(len, answers.values()))
        larger = sum(size > self._largest.get(end, 0) for end, sizes in answers.items() for size in sizes)
        more = sum(sum(sizes) > self._from[end] for end, sizes in answers.items())
        return larger, more

    def _hear(self, sock: socket.socket, node: Node) -> None:
        """What goes from our ports to others than ours."""
        ours = (self._asking.getsockname(), node.address)
        while not self._over.is_set():
            try:
                frame = sock.recv(2048)
            except TimeoutError:
                continue
            packet = frame[_ETHERNET:]
            if len(packet) < _IPV4 + 8 or packet[9] != _UDP:
                continue
            to = socket.inet_ntoa(packet[16:20])
            port, target = (int.from_bytes(packet[at : at + 2], "big") for at in (20, 22))
            if port in (DATA_PORT, CONTROL_PORT) and to != ours[1]:
                self._answered.setdefault((to, target), []).append(len(packet) - _IPV4 - 8)


def _have(node: Node, address: str) -> None:
    """Be that address, too."""

    def work() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            ip.addr("add", index=ip.link_lookup(ifname=node.interfaces[0])[0], address=address, prefixlen=32)

    node.call(work)


def _packet_socket(interface: str, protocol: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    sock.setsockopt(socket.SOL_SOCKET, 33 if protocol else 32, _BUFFER)  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
    sock.bind((interface, protocol))
    sock.settimeout(0.2)
    return sock
