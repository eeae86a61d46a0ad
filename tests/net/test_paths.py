"""Events from node to node through a real broker, over every data path."""

from __future__ import annotations

import json
import socket

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos.wire import encode_raw
from tempos_bench.measure.broker import Broker, TopicStatus
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.suite.blast import measure

pytestmark = pytest.mark.netns

TOPIC = Topic(id=7, name="events")
PLAIN = Topic(id=9, name="plain", framing=Framing.RAW)
RAW = Topic(id=900, name="plain", framing=Framing.RAW)
#: Fast path mode -> the path that must carry the events.
MODES = {"off": Path.SLOW, "generic": Path.FAST, "native": Path.FAST}
PORTS = (9001, 9002, 9003)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    require_netns()
    if request.param != "off":
        require_kernel()
    return str(request.param)


def carried(status: TopicStatus, mode: str) -> int:
    """Events that went the way they were meant to; the ledger's identities hold besides."""
    assert status.closed, status
    if mode == "generic":
        # 1 datagram in 65,536 has a checksum that generic mode leaves to the slow path.
        return status.fast + min(status.slow, 12)
    return status.fast if MODES[mode] is Path.FAST else status.slow


def test_three_members_of_a_group_get_a_third_each(mode: str) -> None:
    events = 30_000
    with build("straight") as topology:
        c = topology.subscriber
        members = tuple(Member(c.address, port) for port in PORTS)
        with Broker(topology.broker, {TOPIC: (Group("workers", members),)}, mode=mode) as broker:
            broker.wait_path(TOPIC.name, MODES[mode])
            binds = [text for member in members for text in ("--bind", str(member))]
            sink = c.role("sink", *binds, "--expect", events, ready=True)
            sent = topology.publisher.role(
                "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", TOPIC.id,
                "--count", events, "--rate", 40_000,
            ).result(LIMIT)  # fmt: skip
            got = sink.result(LIMIT)
            status = broker.wait_received(TOPIC.name, events)
            broker.stop()

    assert sent["sent"] == events
    assert got["by_port"] == {str(port): events // 3 for port in PORTS}
    assert (got["damaged"], got["repeated"], got["bad_checksums"]) == (0, 0, 0)
    assert carried(status, mode) == status.received == status.groups[0].tickets == events


def test_the_ledger_closes_over_the_projects_own_clients(mode: str) -> None:
    """Two members with leases: what the broker handed out is what they say they got."""
    events = 3000
    with build("one-armed") as topology:
        c = topology.subscriber
        with Broker(topology.broker, {TOPIC: ()}, mode=mode) as broker:
            told = ("--address", topology.broker.address, "--topic", TOPIC.name, "--group", "workers",
                    "--expect", events // 2, "--stay")  # fmt: skip
            subscribers = [c.role("demo.subscribe", *told, ready=True) for _ in range(2)]
            broker.wait_path(TOPIC.name, MODES[mode])
            sent = topology.publisher.role(
                "demo.publish", "--to", topology.broker.address, "--topic", TOPIC.name,
                "--paced", events, "--rate", 5000, "--burst", 0,
            ).result(LIMIT)  # fmt: skip
            got = [json.loads(subscriber.wait_line("{", LIMIT)) for subscriber in subscribers]
            status = broker.wait_delivered(TOPIC.name, events)
            for subscriber in subscribers:
                assert subscriber.stop() == 0

    assert sent == {"sent": events, "refused": 0}
    assert [one["received"] for one in got] == [one["distinct"] for one in got] == [events // 2] * 2
    assert [one["missed"] for one in got] == [0, 0]
    assert carried(status, mode) == status.received == events
    (group,) = status.groups
    assert (group.tickets, group.delivered) == (events, events)


def _bare_socket(topology: Topology, at: str) -> socket.socket:
    node = topology.publisher if at == "publisher" else topology.subscriber

    def work() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(LIMIT)
        sock.bind((node.address, DATA_PORT))
        return sock

    return node.call(work)


@pytest.mark.parametrize("topic", [PLAIN, RAW], ids=["narrow", "wide"])
def test_a_bare_socket_with_topic_id_and_payload_is_served(mode: str, topic: Topic) -> None:
    payloads = [b"", b"x", b"temperature=21.5", bytes(range(256)), b"\xff" * 1400]
    with build("straight") as topology:
        member = Member(topology.subscriber.address, DATA_PORT)
        topics = {topic: (Group("bare", (member,)),)}
        with (
            Broker(topology.broker, topics, mode=mode) as broker,
            _bare_socket(topology, "publisher") as sender,
            _bare_socket(topology, "subscriber") as receiver,
        ):
            broker.wait_path(topic.name, MODES[mode])
            for payload in payloads:
                datagram = encode_raw(topic.id, payload)
                sender.sendto(datagram, (topology.broker.address, DATA_PORT))
                got, source = receiver.recvfrom(2000)
                assert got == datagram
                assert source == (topology.facing_subscriber, DATA_PORT)
            status = broker.wait_received(topic.name, len(payloads))

    assert carried(status, mode) == status.received == len(payloads)


@pytest.mark.parametrize(
    ("xdp", "shape"), [("native", "forked"), ("native", "one-armed"), ("generic", "straight")]
)
def test_a_blast_without_a_pause_arrives_whole(shape: str, xdp: str) -> None:
    require_netns()
    require_kernel()
    blast = measure(shape, xdp, datagrams=30_000, payload=32)

    assert blast.mode == xdp
    assert blast.sent == blast.received == 30_000
    assert (blast.damaged, blast.repeated, blast.bad_checksums, blast.refused) == (0, 0, 0, 0)
    assert blast.fast >= blast.sent - (12 if xdp == "generic" else 0)
