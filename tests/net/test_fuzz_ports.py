"""Mutated datagrams into a broker's ports: it lives, and not one is unaccounted for.

``TEMPOS_FUZZ_DATAGRAMS`` sets how many there are, ``TEMPOS_FUZZ_WIDE`` how many of wide ids: figures.md has
a million of them.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from support.fuzzing import judged, wide_payload
from support.packets import EVENT, RAW, TOPICS, UNKNOWN, WIDE_EVENT, WIDE_RAW, event, raw
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import CONTROL_PORT, DATA_PORT, Group, Member, Path, Reason
from tempos._rows import is_topic
from tempos.control import OPERATIONS, Received, decode_reply, encode_request
from tempos.wire import encode_batch, topic_in
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

DATAGRAMS = int(os.environ.get("TEMPOS_FUZZ_DATAGRAMS", "250000"))
CONTROL_DATAGRAMS = DATAGRAMS // 5
DATA_DATAGRAMS = DATAGRAMS - CONTROL_DATAGRAMS
WIDE_DATAGRAMS = int(os.environ.get("TEMPOS_FUZZ_WIDE", "100000"))
#: Those that have a member.
ROUTED = (RAW, EVENT, WIDE_RAW, WIDE_EVENT)

PAYLOADS = [
    raw(),
    raw(bytes(200)),
    event(),
    event(b"\xff" * 300),
    event(version=3),
    encode_batch(EVENT.id, 1, 2, 3, [b"a", b"bc"]),
    raw(topic=UNKNOWN),
    raw(topic=0),
    raw(topic=3),
]
REQUESTS = [
    encode_request("hello", 1, 7),
    encode_request("resolve", 2, 7, topic="raw"),
    encode_request("subscribe", 3, 7, topic="raw", group="workers", port=6001),
    encode_request("subscribe", 4, 7, topic="event", port=6001),
    encode_request("unsubscribe", 5, 7, topic="event", port=6001),
    encode_request("heartbeat", 6, 7, port=6001, received=[Received(1, "workers", 1, 5)]),
    encode_request("goodbye", 7, 7, port=6001, received=[]),
    encode_request("resolve", 8, 7, topic="nobody's"),
    *(msgpack.packb({"v": 1, "id": 9, "client": 7, "op": op}) for op in OPERATIONS),
]


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` datagrams: seeds with bytes changed, cut, doubled, or nothing but noise."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        kind = rng.randrange(8)
        if kind == 0:
            del data[rng.randrange(len(data) + 1) :]
        elif kind == 1:
            data = bytearray(rng.randbytes(rng.randrange(64)))
        elif kind == 2:
            data += data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        yield bytes(data)


def counted_data(status: dict[str, Any]) -> int:
    """Datagrams the broker has an account of, by either path."""
    return sum(status["unattributed"].values()) + sum(topic["received"] for topic in status["topics"])


def counted_control(status: dict[str, Any]) -> int:
    return sum(status["control"]["served"].values()) + sum(status["control"]["refused"].values())


def pour(
    broker: Broker,
    sender: socket.socket,
    datagrams: Iterator[bytes],
    chunk: int,
    counted: Callable[[dict[str, Any]], int],
) -> dict[str, Any]:
    """Send all, never more than ``chunk`` ahead of the broker's account; the status at the end."""
    sent = 0
    status = broker.status()
    before = counted(status)
    while True:
        more = 0
        for datagram in datagrams:
            sender.send(datagram)
            more += 1
            if more == chunk:
                break
        sent += more
        end = time.monotonic() + LIMIT
        while counted(status := broker.status()) - before < sent:
            assert time.monotonic() < end, f"{sent} sent, {counted(status) - before} accounted for: {status}"
            time.sleep(0.001)
        assert counted(status) - before == sent
        if more < chunk:
            return status


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    require_netns()
    require_kernel()
    with build("straight") as built:
        yield built


@pytest.fixture(scope="module")
def broker(topology: Topology) -> Iterator[Broker]:
    groups = (Group("static", (Member(topology.subscriber.address, 6100),)),)
    with Broker(
        topology.broker,
        {topic: groups if topic in ROUTED else () for topic in (*TOPICS, WIDE_RAW, WIDE_EVENT)},
    ) as started:
        for topic in ROUTED:
            started.wait_path(topic.name, Path.FAST)
        yield started


def client(topology: Topology, port: int) -> socket.socket:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((topology.broker.address, port))
        return made

    return topology.publisher.call(connect)


@pytest.mark.timeout(900)
def test_the_data_port_accounts_for_every_mutated_datagram(topology: Topology, broker: Broker) -> None:
    with client(topology, DATA_PORT) as sender:
        status = pour(broker, sender, mutations(PAYLOADS, DATA_DATAGRAMS, 1), 2000, counted_data)
        assert sum(topic["fast"] for topic in status["topics"]) > 0
        assert sum(sum(topic["refused"].values()) for topic in status["topics"]) > 0
        assert not status["unattributed"].get("socket_overrun")
        for topic in status["topics"]:
            assert topic["received"] == topic["fast"] + topic["slow"] + sum(topic["refused"].values())

    def receive() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((topology.subscriber.address, 6100))
        made.settimeout(LIMIT)
        return made

    with client(topology, DATA_PORT) as sender, topology.subscriber.call(receive) as receiver:
        for payload in (raw(b"still alive"), event(b"still alive")):
            sender.send(payload)
            assert receiver.recv(2048).endswith(b"still alive")


def outcome(payload: bytes) -> tuple[str, str]:
    """What must become of it by the wire module alone: of which topic, and why it is refused, if it is."""
    topic, reason = judged(payload)
    if reason is Reason.NO_ROUTE:
        reason = Reason.UNKNOWN_TOPIC if is_topic(topic_in(payload)) else Reason.RESERVED_TOPIC
    # Its return address is none of this broker's making.
    reason = Reason.BAD_RETURN if reason is Reason.REPLY else reason
    return {each.id: each.name for each in (WIDE_RAW, WIDE_EVENT)}.get(topic, ""), reason.label


def outcomes(status: dict[str, Any]) -> Counter[tuple[str, str]]:
    """What became of all so far."""
    found = Counter({("", reason): count for reason, count in status["unattributed"].items()})
    for topic in status["topics"]:
        found[topic["name"], Reason.FORWARDED.label] = topic["fast"] + topic["slow"]
        found.update({(topic["name"], reason): count for reason, count in topic["refused"].items()})
    return found


@pytest.mark.timeout(900)
def test_every_datagram_of_a_wide_id_becomes_what_the_wire_module_says(
    topology: Topology, broker: Broker
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    wanted: Counter[tuple[str, str]] = Counter()

    def datagrams() -> Iterator[bytes]:
        for _ in range(WIDE_DATAGRAMS):
            payload = wide_payload(rng)
            wanted[outcome(payload)] += 1
            yield payload

    before = outcomes(broker.status())
    with client(topology, DATA_PORT) as sender:
        status = pour(broker, sender, datagrams(), 2000, counted_data)
    found = outcomes(status)
    found.subtract(before)
    assert +found == wanted, f"seed {seed}"
    assert len({reason for _, reason in wanted}) == 9, f"seed {seed}: {sorted(wanted)}"
    fast = sum(topic["fast"] for topic in status["topics"] if topic["id"] in (WIDE_RAW.id, WIDE_EVENT.id))
    assert fast
    print(f"{WIDE_DATAGRAMS:,} datagrams of wide ids, {fast:,} by the fast path, {len(wanted)} outcomes")


@pytest.mark.timeout(900)
def test_the_control_port_accounts_for_every_mutated_datagram(topology: Topology, broker: Broker) -> None:
    with client(topology, CONTROL_PORT) as sender:
        pour(broker, sender, mutations(REQUESTS, CONTROL_DATAGRAMS, 2), 400, counted_control)
    with client(topology, CONTROL_PORT) as sender:
        sender.settimeout(LIMIT)
        sender.send(encode_request("hello", 77, 7))
        reply = decode_reply(sender.recv(2048))
        assert (reply.id, reply.error) == (77, None)
