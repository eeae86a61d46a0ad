"""The clients in C and in TypeScript: test vectors, and the real broker on both paths.

Each publishes and subscribes on topics of every layout, tells losses, and is a member again after a broker
that has lost its memory; what it tells closes the ledger.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path as File
from typing import Any

import msgpack
import pytest
from support.other_clients import VECTORS, Client, build_c, build_typescript
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Framing, Path, Quality, Topic, control, wire
from tempos.blocking import Publisher
from tempos.session import proof
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import Topology, build
from tempos_broker.control.decisions import topic_fields

NARROW = Topic(id=7, name="plant/line1", quality=Quality.SQ)
WIDE = Topic(id=40_000, name="wide")
OLD = Topic(id=3, name="old", framing=Framing.RAW)
#: Fewer than wait in any socket, however long nobody reads.
EVENTS = 100
LINES = "".join(f"{number}\n" for number in range(EVENTS))


@pytest.fixture(scope="module")
def built_c(tmp_path_factory: pytest.TempPathFactory) -> File:
    return build_c(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def built_typescript(tmp_path_factory: pytest.TempPathFactory) -> tuple[File, File]:
    return build_typescript(tmp_path_factory.mktemp("typescript"))


@pytest.fixture(params=["C", "TypeScript"])
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "C":
        folder = request.getfixturevalue("built_c")
        return Client((str(folder / "pub"),), (str(folder / "sub"),))
    program, folder = request.getfixturevalue("built_typescript")
    command = (str(program), str(folder / "src" / "command.js"))
    return Client((*command, "pub"), (*command, "sub"))


# Test vectors


def vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def printed(value: object) -> str:
    """A value of a control datagram as vectors.c prints it."""
    match value:
        case None:
            return "-"
        case bool():
            return "+" if value else "!"
        case int():
            return str(value)
        case str():
            return "'" + value.encode().hex()
        case bytes():
            return "." + value.hex()
        case list():
            return " ".join(("[", *map(printed, value), "]"))
        case dict():
            return " ".join(("{", *(f"{printed(key)} {printed(each)}" for key, each in value.items()), "}"))
    raise AssertionError(value)


def questions() -> Iterator[tuple[str, str]]:
    """What vectors.c is asked, and what it is to answer."""
    data = vectors("data.json")
    for each in data["decode"]:
        wanted = f"refused {each.get('refused')}"
        if "event" in each:
            bodies = ["." + body for body in each["event"]["bodies"]]
            names = ("topic", "flags", "epoch", "publisher", "sequence", "delivery_sequence", "sent_ns")
            numbers = [str(each["event"][name]) for name in names]
            wanted = " ".join((*numbers, each["event"]["envelope"] or "-", *bodies))
        yield f"decode {each['hex']}", wanted
    for each in data["encode"]:
        numbers = [str(each[name]) for name in ("topic", "publisher", "sequence", "sent_ns", "flags")]
        yield f"encode {' '.join(numbers)} {each['body']}", each["hex"]
    for each in vectors("gaps.json")["gaps"]:
        steps = [step[:3] if step[0] == "see" else step for step in each["steps"]]
        results = [str(step[3]) for step in each["steps"] if step[0] == "see"]
        sums = [str(each["end"][name]) for name in ("received", "missed", "late", "duplicates", "unstamped")]
        report = [f"{epoch}:{datagrams}" for epoch, datagrams in each["end"]["report"]]
        yield (
            "gaps " + " ".join(str(part) for step in steps for part in step),
            " ".join((*results, "|", *sums, *report)),
        )
    for each in vectors("control.json")["datagrams"]:
        message = msgpack.unpackb(bytes.fromhex(each["hex"]))
        yield f"unpack {each['hex']}", printed(message)
    for bad in ("", "92", "81a1", "a3ff", "c1", "d4", "91" * 40 + "00", "dfffffffff", "0000"):
        yield f"unpack {bad}", "refused"


def test_the_client_in_c_agrees_with_the_vectors(built_c: File) -> None:
    asked = list(questions())
    text = "".join(question + "\n" for question, _ in asked)
    done = subprocess.run(
        [built_c / "vectors"], input=text, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(asked)
    # Epochs are reported in any order.
    assert [sorted(answer.split()) for answer in answers] == [sorted(wanted.split()) for _, wanted in asked]


def test_the_client_in_typescript_agrees_with_the_vectors(built_typescript: tuple[File, File]) -> None:
    program, folder = built_typescript
    done = subprocess.run(
        [program, folder / "test" / "vectors.js", VECTORS],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert " 0 differ" in done.stdout


# The real broker


class Reader:
    """A subscriber's process; its events are the lines that it prints."""

    def __init__(self, node: Node, command: tuple[str, ...]) -> None:
        pipe = subprocess.PIPE
        self.process = node.call(
            lambda: subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()

    def lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline().strip() for _ in range(count)]

    def end(self) -> tuple[list[str], str]:
        """What else it printed, and what it says of its losses."""
        out, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, errors
        return out.split(), errors.strip()


@contextmanager
def reading(topology: Topology, client: Client, topic: Topic, group: str) -> Iterator[Reader]:
    reader = Reader(topology.subscriber, (*client.sub, topology.facing_subscriber, topic.name, group))
    try:
        assert reader.said.startswith(f"subscribed to {topic.name}"), reader.said
        yield reader
    finally:
        reader.process.kill()
        reader.process.communicate()


def publish(topology: Topology, client: Client, topic: Topic) -> None:
    topology.publisher.call(
        lambda: subprocess.run(
            [*client.pub, topology.broker.address, topic.name],
            input=LINES, text=True, timeout=LIMIT, check=True,
        )
    )  # fmt: skip


@pytest.mark.netns
@pytest.mark.parametrize("mode", ["off", "native"])
def test_it_publishes_and_subscribes_on_both_paths(client: Client, mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    topics = dict.fromkeys((NARROW, WIDE, OLD), ())
    with build("straight") as topology, ExitStack() as stack:
        broker = stack.enter_context(Broker(topology.broker, topics, mode=mode))
        readers = {
            topic: stack.enter_context(reading(topology, client, topic, "-" if topic is WIDE else "g"))
            for topic in topics
        }
        for topic in topics:
            if mode != "off":
                broker.wait_path(topic.name, Path.FAST)
            publish(topology, client, topic)
            assert readers[topic].lines(EVENTS) == LINES.split()
        address = topology.broker.address
        batches = topology.publisher.call(lambda: Publisher(address, linger=LIMIT).__enter__())
        with closing(batches):
            for body in (b"a", b"bc", b""):
                batches.publish(NARROW.name, body)
            batches.flush()
        assert readers[NARROW].lines(3) == ["a", "bc", ""]
        for topic, reader in readers.items():
            rest, losses = reader.end()
            received = EVENTS + (topic is NARROW)
            assert (rest, losses.partition(", unknown")[0]) == (
                [], f"received {received}, missed 0, late 0, duplicates 0",
            )  # fmt: skip
            status = broker.wait_delivered(topic.name, received)
            assert status.closed
            assert [group.delivered for group in status.groups] == [received]


@pytest.mark.netns
@pytest.mark.parametrize("mode", ["off", "native"])
def test_it_reports_probes_and_hands_none_out(client: Client, mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    topics = dict.fromkeys((NARROW, WIDE), ())
    with build("straight") as topology, ExitStack() as stack:
        broker = stack.enter_context(Broker(topology.broker, topics, mode=mode))
        path = Path.SLOW if mode == "off" else Path.FAST
        address = topology.broker.address
        for topic in topics:
            reader = stack.enter_context(reading(topology, client, topic, "grüppe"))
            if path is Path.FAST:
                broker.wait_path(topic.name, path)
            with closing(topology.publisher.call(lambda: Publisher(address).__enter__())) as pub:
                (report,) = pub.trace(topic.name, LIMIT, bool).reports
                (group,) = broker.entry(topic.name)["groups"]
                (member,) = group["members"]
                assert (report.group, report.ip, report.port) == ("grüppe", member["ip"], member["port"])
                assert (report.path, report.delivery_sequence) == (path, 0)
                assert report.one_way is not None
                assert 0 < report.one_way <= report.round_trip
                assert 0 <= report.inside <= report.round_trip
                pub.publish(topic.name, b"seen")
            assert reader.lines(1) == ["seen"]
            rest, losses = reader.end()
            assert (rest, losses.split(", late")[0]) == ([], "received 2, missed 0")
            assert broker.wait_delivered(topic.name, 2).closed


@pytest.mark.netns
def test_it_is_a_member_again_after_the_broker_has_lost_its_memory(client: Client) -> None:
    require_netns()
    with build("straight") as topology, ExitStack() as stack:
        with Broker(topology.broker, {NARROW: ()}, mode="off") as first:
            reader = stack.enter_context(reading(topology, client, NARROW, "g"))
            publish(topology, client, NARROW)
            assert reader.lines(EVENTS) == LINES.split()
            first.stop()
        with Broker(topology.broker, {NARROW: ()}, mode="off") as second:
            until(lambda: second.entry(NARROW.name)["groups"])
            publish(topology, client, NARROW)
            assert reader.lines(EVENTS) == LINES.split()
            rest, losses = reader.end()
            assert (rest, losses.split(", late")[0]) == ([], f"received {2 * EVENTS}, missed 0")
            assert second.wait_delivered(NARROW.name, EVENTS).closed


def moves(node: Node, old: str, new: str, gateway: str) -> None:
    """The node's one address there is another one from now on."""

    def ip(command: str) -> str:
        done = subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
        return done.stdout

    def move() -> None:
        links = json.loads(ip("-j addr"))
        (name,) = (
            link["ifname"] for link in links for each in link["addr_info"] if each["local"] == old
        )  # fmt: skip
        ip(f"addr del {old}/24 dev {name}")
        ip(f"addr add {new}/24 dev {name}")
        ip(f"route replace default via {gateway}")

    node.call(move)


@pytest.mark.netns
@pytest.mark.parametrize("topic", [NARROW, OLD], ids=["event", "raw"])
def test_it_goes_on_at_another_address_of_its_machine(client: Client, topic: Topic) -> None:
    require_netns()
    with build("straight") as topology, ExitStack() as stack:
        often = {"heartbeat": 0.2}
        broker = stack.enter_context(Broker(topology.broker, {topic: ()}, mode="off", control=often))
        reader = stack.enter_context(reading(topology, client, topic, "g"))
        command = [*client.pub, topology.broker.address, topic.name]
        pub = topology.publisher.call(lambda: subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        stack.callback(pub.wait)
        assert pub.stdin is not None
        stack.callback(pub.stdin.close)
        pub.stdin.write(LINES)
        pub.stdin.flush()
        assert reader.lines(EVENTS) == LINES.split()
        new = []
        for node, gateway in (
            (topology.subscriber, topology.facing_subscriber),
            (topology.publisher, topology.broker.address),
        ):
            new.append(node.address.rpartition(".")[0] + ".77")
            moves(node, node.address, new[-1], gateway)

        def members() -> list[str]:
            (group,) = broker.entry(topic.name)["groups"]
            return [member["ip"] for member in group["members"]]

        until(lambda: members() == new[:1])
        pub.stdin.write(LINES)
        pub.stdin.flush()
        assert reader.lines(EVENTS) == LINES.split()
        rest, losses = reader.end()
        assert (rest, losses.split(", late")[0]) == ([], f"received {2 * EVENTS}, missed 0")
        assert broker.wait_delivered(topic.name, 2 * EVENTS).closed


@pytest.mark.netns
def test_it_says_why_it_cannot(client: Client) -> None:
    require_netns()
    with build("straight") as topology, Broker(topology.broker, {NARROW: ()}, mode="off"):
        for command in (client.pub, client.sub):
            done = topology.subscriber.call(
                lambda command=command: subprocess.run(  # type: ignore[misc]
                    [*command, topology.facing_subscriber, "plant/nothing"],
                    input="", capture_output=True, text=True, timeout=LIMIT, check=False,
                )
            )  # fmt: skip
            assert done.returncode == 1
            assert "no topic is named 'plant/nothing'" in done.stderr


@pytest.mark.netns
def test_it_takes_events_from_the_broker_alone(client: Client) -> None:
    require_netns()
    with (
        build("straight") as topology,
        Broker(topology.broker, {NARROW: ()}, mode="off") as broker,
        reading(topology, client, NARROW, "g") as reader,
    ):
        (group,) = broker.entry(NARROW.name)["groups"]
        (member,) = group["members"]

        def forge() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for number in range(10):
                    forged = wire.encode_event(NARROW.id, 1, number, 1, b"forged")
                    stranger.sendto(forged, (member["ip"], member["port"]))

        topology.broker.call(forge)
        publish(topology, client, NARROW)
        assert reader.lines(EVENTS) == LINES.split()
        rest, losses = reader.end()
        assert rest == []
        assert f"received {EVENTS}, missed 0" in losses
        assert "foreign 10," in losses
        assert broker.wait_delivered(NARROW.name, EVENTS).closed


class Forgetful:
    """A broker that takes its one member for nobody once, and has events on their way before each proof."""

    def __init__(self) -> None:
        self.control, self.data = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for each in (self.control, self.data):
            each.bind(("127.0.0.1", 0))
            each.settimeout(LIMIT)
        self.sent = 0

    def close(self) -> None:
        self.control.close()
        self.data.close()

    def asked(self, op: str) -> tuple[control.Request, tuple[str, int]]:
        """The next request of a kind; what repeats itself is passed over."""
        while True:
            datagram, where = self.control.recvfrom(control.MAX_DATAGRAM)
            if (request := control.decode_request(datagram)).op == op:
                return request, where

    def events(self, member: tuple[str, int], count: int) -> None:
        for _ in range(count):
            event = bytearray(wire.encode_event(NARROW.id, 7, self.sent, 1, str(self.sent).encode()))
            wire.stamp(event, 1, self.sent)
            self.data.sendto(event, member)
            self.sent += 1

    def join(self, before: int) -> tuple[str, int]:
        """Take a member in, to whom so many events come before the proof."""
        request, where = self.asked("subscribe")
        assert request.fields["proof"] == b""
        refused = control.encode_error(request.id, control.Code.PROVE, "it comes to your port")
        self.control.sendto(refused, where)
        member = where[0], request.fields["port"]
        self.events(member, before)
        told = bytes(control.PROOF_BYTES)
        self.data.sendto(proof.encode(request.client, told), member)
        request, where = self.asked("subscribe")
        assert request.fields["proof"] == told
        fields = {"topic": topic_fields(NARROW), "group": "g", "epoch": 1, "instance": 1, "clock": 1}
        ok = control.encode_ok(request.id, **fields, lease_ms=1000, heartbeat_ms=100)
        self.control.sendto(ok, where)
        return member

    def play(self) -> None:
        self.events(self.join(0), 1)
        request, where = self.asked("heartbeat")
        self.control.sendto(control.encode_error(request.id, control.Code.UNKNOWN_MEMBER, "who?"), where)
        self.events(self.join(3), 1)
        request, where = self.asked("goodbye")
        self.control.sendto(control.encode_ok(request.id), where)


def test_what_comes_while_it_joins_again_is_no_less_an_event(client: Client) -> None:
    broker = Forgetful()
    with closing(broker), ThreadPoolExecutor(1) as other:
        playing = other.submit(broker.play)
        port = str(broker.control.getsockname()[1])
        done = subprocess.run(
            [*client.sub, "127.0.0.1", NARROW.name, "g", "5", port], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        playing.result(LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    assert "received 5, missed 0, late 0, duplicates 0, unknown 0, foreign 0, rejoined 1" in done.stderr
