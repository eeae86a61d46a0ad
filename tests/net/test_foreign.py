"""Senders that know nothing of tempos, at ports of their own: every path hands on what they send as it is."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest
from support.brokers import Node, get
from support.nodes import udp
from support.ports import free_ports
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import (
    Admin,
    ApiRefused,
    ControlRefused,
    Fanout,
    Framing,
    Group,
    LocalError,
    Member,
    Path,
    Pick,
    Topic,
)
from tempos._abi import NARROW
from tempos._spread import slot_of, slots_of
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

PORTS = (2055, 9995)
#: As senders begin datagrams: NetFlow 1, 5 and 9, IPFIX, sFlow 5, syslog, and what would be topics elsewhere.
BODIES = [
    *(struct.pack("!H", version) + bytes(range(200)) for version in (1, 5, 9, 10)),
    bytes.fromhex("00000005") + b"sflow",
    b"<34>Oct 11 22:14:15 host app: text",
    b"\x00\x02", b"\x00", b"\xff", b"\xff\x01\x2c", b"\x07event", bytes(1400), b"gauge:1|g\n",
]  # fmt: skip
CASES = {
    "recvmmsg": ("off", False, Fanout.AUTO, 2),
    "portable": ("off", True, Fanout.AUTO, 2),
    "one": ("native", False, Fanout.AUTO, 1),
    "broadcast": ("native", False, Fanout.XDP, 2),
    "clone": ("native", False, Fanout.TC, 2),
    "generic": ("generic", False, Fanout.AUTO, 1),
}


def send(topology: Topology, bodies: list[bytes], port: int, checksum: bool = True) -> tuple[str, int]:
    with udp(topology.publisher, (topology.publisher.address, 0)) as sock:
        if not checksum:
            sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        for body in bodies:
            sock.sendto(body, (topology.broker.address, port))
        address: tuple[str, int] = sock.getsockname()
        return address


@pytest.mark.netns
@pytest.mark.parametrize("case", CASES)
def test_every_path_hands_datagrams_on_whole_and_unchanged(case: str) -> None:
    mode, portable, fanout, groups = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    flows = Topic(id=300, name="flows", framing=Framing.FOREIGN, ports=PORTS, fanout=fanout)
    with build("straight") as topology, ExitStack() as stack:
        c = topology.subscriber
        ends = [[(c.address, 7000 + 10 * group + each) for each in range(2)] for group in range(groups)]
        sinks = [[stack.enter_context(udp(c, end)) for end in group] for group in ends]
        members = [Group(f"g{n}", tuple(Member(*end) for end in group)) for n, group in enumerate(ends)]
        broker = stack.enter_context(Broker(topology.broker, {flows: members}, mode=mode, portable=portable))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        sent = 0
        for port in PORTS:
            for checksum in (True, False):
                send(topology, BODIES, port, checksum)
                sent += len(BODIES)
        told = broker.wait_received("flows", sent)
        for group in sinks:
            got = []
            for sink in group:
                for _ in range(sent // 2):
                    data, sender = sink.recvfrom(65535)
                    assert sender == (topology.facing_subscriber, 9998)
                    got.append(data)
            assert sorted(got) == sorted(BODIES * 4)
        assert (told.fast, told.slow) == ((0, sent) if mode == "off" else (sent, 0))
        assert [group.tickets for group in told.groups] == [sent] * groups
        assert (told.problems, told.refused) == ((), {})


@pytest.mark.netns
@pytest.mark.parametrize(
    ("case", "pick"),
    [
        ("recvmmsg", Pick.SOURCE), ("portable", Pick.SOURCE_PORT), ("one", Pick.SOURCE_PORT),
        ("broadcast", Pick.SOURCE), ("clone", Pick.SOURCE_PORT), ("generic", Pick.SOURCE),
    ],
)  # fmt: skip
def test_every_path_picks_the_same_member_for_a_source(case: str, pick: Pick) -> None:
    mode, portable, fanout, groups = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    flows = Topic(300, "flows", framing=Framing.FOREIGN, ports=PORTS, fanout=fanout, pick=pick)
    with build("straight") as topology, ExitStack() as stack:
        c = topology.subscriber
        members = [
            Group(
                f"g{n}", tuple(Member(c.address, 7000 + 10 * n + each, weight=1 + each) for each in range(3))
            )
            for n in range(groups)
        ]
        sinks = {
            member.port: stack.enter_context(udp(c, (c.address, member.port)))
            for group in members
            for member in group.members
        }
        broker = stack.enter_context(Broker(topology.broker, {flows: members}, mode=mode, portable=portable))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        wanted: Counter[tuple[int, bytes]] = Counter()
        for number in range(60):
            bodies = [b"%d %d" % (number, turn) for turn in range(2)]
            source = send(topology, bodies, PORTS[number % 2])
            for group in members:
                member = group.members[slots_of(group.members)[slot_of(*source, pick)]]
                wanted.update((member.port, body) for body in bodies)
        broker.wait_received("flows", 120)
        for port, sink in sinks.items():
            mine = sum(count for (to, _), count in wanted.items() if to == port)
            got = Counter((port, sink.recv(100)) for _ in range(mine))
            assert got == Counter({key: count for key, count in wanted.items() if key[0] == port})
        told = broker.entry("flows")
        assert (told["problems"], told["pick"]) == ([], pick.value)
        # The status says what each was given.
        assert {
            member["port"]: member["ticketed"] for group in told["groups"] for member in group["members"]
        } == {port: sum(count for (to, _), count in wanted.items() if to == port) for port in sinks}


@pytest.mark.netns
@pytest.mark.parametrize("case", ["recvmmsg", "portable", "broadcast"])
def test_what_comes_in_fragments_arrives_whole(case: str) -> None:
    mode, portable, fanout, groups = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    traps = Topic(300, "traps", framing=Framing.FOREIGN, ports=(2162,), fanout=fanout)
    bodies = [bytes((size & 0xFF,)) * size for size in (100, 1472, 1473, 1473, 2000, 4000, 4000, 9000)]
    with build("straight") as topology, ExitStack() as stack:
        c = topology.subscriber
        sinks = [stack.enter_context(udp(c, (c.address, 7000 + n))) for n in range(groups)]
        members = [Group(f"g{n}", (Member(c.address, 7000 + n),)) for n in range(groups)]
        broker = stack.enter_context(
            Broker(topology.broker, {traps: members}, mode=mode, portable=portable, limits={"datagram": 9100})
        )
        if mode != "off":
            broker.wait_path("traps", Path.FAST)
        send(topology, bodies, 2162)
        for sink in sinks:
            assert sorted(sink.recv(10_000) for _ in bodies) == sorted(bodies)
        told = broker.wait_received("traps", len(bodies))
        assert (told.problems, told.refused) == ((), {})
        assert told.slow == (6 if mode != "off" else len(bodies))
        if mode != "off":
            assert broker.status()["paths"]["fast"]["passed"]["fragment"] >= 12


@pytest.mark.netns
@pytest.mark.parametrize("mode", ["off", "native"])
def test_what_is_for_other_ports_or_the_data_port_is_none_of_it(mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    flows = Topic(id=300, name="flows", framing=Framing.FOREIGN, ports=(2055,))
    with build("straight") as topology, ExitStack() as stack:
        sink = stack.enter_context(udp(topology.subscriber, (topology.subscriber.address, 7000)))
        groups = [Group("g", (Member(topology.subscriber.address, 7000),))]
        broker = stack.enter_context(Broker(topology.broker, {flows: groups}, mode=mode))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        send(topology, [b"other"], 2056)
        send(topology, [struct.pack("!BH", 255, 300) + b"by its id"], 9998)
        send(topology, [b""], 2055)
        send(topology, [b"own"], 2055)
        assert sink.recv(100) == b"own"
        until(lambda: broker.topic("flows").received >= 3)
        told = broker.topic("flows")
        assert told.refused == {"unknown_topic": 1, "empty": 1}
        assert told.fast + told.slow == 1


def test_a_topic_with_ports_is_made_changed_and_removed_while_the_broker_runs(tmp_path: FilePath) -> None:
    node = Node(tmp_path, "", state=str(tmp_path / "state"))
    admin = Admin(f"http://127.0.0.1:{node.api}")
    first, second, third = free_ports(3)
    with ExitStack() as stack:
        sink, source, taken = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        )
        for sock, port in ((sink, 0), (source, 0), (taken, third)):
            sock.bind(("127.0.0.1", port))
        sink.settimeout(LIMIT)
        member = [{"ip": "127.0.0.1", "port": sink.getsockname()[1]}]

        def comes(port: int) -> None:
            source.sendto(b"<34>text", ("127.0.0.1", port))
            assert sink.recv(100) == b"<34>text"

        async def make() -> None:
            made = await admin.add_topic("logs", framing=Framing.FOREIGN, ports=[first], member=member)
            assert made.topic.id >= NARROW
            assert made.topic.ports == (first,)
            comes(first)
            for ports, words in (([first], "is that of topic 'logs'"), ([second, third], "has this port"),
                                 ([node.data], "a port of its own"), ([], "without a port")):  # fmt: skip
                with pytest.raises(ApiRefused, match=words):
                    await admin.add_topic("more", framing=Framing.FOREIGN, ports=ports)
            with pytest.raises(ApiRefused, match="has this port"):
                await admin.set_topic("logs", ports=[second, third])
            comes(first)
            await admin.set_topic("logs", ports=[second])
            comes(second)
            is_free(first)

        async def remove() -> None:
            # It is there again, and takes what comes.
            comes(second)
            await admin.remove_topic("logs", drain=True)
            is_free(second)

        def is_free(port: int) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
                another.bind(("127.0.0.1", port))

        with node.broker():
            asyncio.run(make())
        with node.broker():
            asyncio.run(remove())


def test_no_client_of_tempos_takes_part_in_it(tmp_path: FilePath) -> None:
    (port,) = free_ports(1)
    topic = f'[[topic]]\nid = 300\nname = "logs"\nframing = "foreign"\nports = [{port}]\n'
    node = Node(tmp_path, f'{topic}[[topic]]\nid = 1\nname = "events"\n')
    with node.broker():
        with (
            pytest.raises(ControlRefused, match="is foreign"),
            Subscriber("127.0.0.1", "logs", control_port=node.control),
        ):
            pass
        with (
            Publisher("127.0.0.1", data_port=node.data, control_port=node.control) as publisher,
            pytest.raises(LocalError, match="is foreign"),
        ):
            publisher.publish("logs", b"text")
        with Subscriber("127.0.0.1", "#", control_port=node.control):
            topics = get(node.api, "/v1/status")["topics"]
            assert {each["name"]: len(each["groups"]) for each in topics} == {"logs": 0, "events": 1}
