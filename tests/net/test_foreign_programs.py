"""What programs of others send to the broker, programs of others have as if it came to them direct."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from support.fetched import FETCHED, command, library, program
from support.nodes import udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Framing, Group, GroupOptions, Member, Pick, Topic
from tempos import Path as DataPath
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns]

SENDERS = tuple(f"10.77.0.{number}" for number in range(1, 7))


class Place:
    """Three nodes: senders, a broker, collectors."""

    def __init__(self, topology: Topology, folder: Path, stack: ExitStack) -> None:
        self.topology, self.folder, self._stack = topology, folder, stack

    def run(self, *arguments: object) -> None:
        """At the senders, to its end."""
        node = self.topology.publisher
        done = node.call(
            lambda: subprocess.run(
                [str(each) for each in arguments], capture_output=True, text=True, timeout=LIMIT, check=False
            )
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)

    def collector(self, port: int, arguments: Sequence[str]) -> Program:
        """One that listens at ``port``."""
        node = self.topology.subscriber
        started = node.start(arguments)
        until(lambda: node.call(lambda: _listens(port)) or not started.running, lambda: started.output)
        assert started.running, started.output
        return started

    def broker(
        self, topic: Topic, ports: Sequence[int], *, mode: str = "off", together: bool = True
    ) -> Broker:
        """``together``: collectors share what comes, else each has a copy."""
        c = self.topology.subscriber
        members = [Member(c.address, port) for port in ports]
        groups = [Group("collectors", tuple(members))] if together else [
            Group(f"collector-{member.port}", (member,)) for member in members
        ]  # fmt: skip
        limits = {"datagram": 9100}
        made = self._stack.enter_context(
            Broker(self.topology.broker, {topic: groups}, mode=mode, limits=limits)
        )
        if mode != "off":
            made.wait_path(topic.name, DataPath.FAST)
        return made

    def many_senders(self) -> None:
        """The node of the publisher has these addresses, too."""
        for address in SENDERS:
            self.run("ip", "address", "add", f"{address}/32", "dev", self.topology.publisher.interfaces[0])

    def be(self, sender: str) -> None:
        """What leaves for the broker from now on comes from there."""
        device = self.topology.publisher.interfaces[0]
        self.run("ip", "route", "replace", f"{self.topology.broker.address}/32", "dev", device, "src", sender)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    require_netns()
    with build("straight") as topology, ExitStack() as stack:
        yield Place(topology, tmp_path, stack)


def _listens(port: int) -> bool:
    return f":{port:04X} " in Path("/proc/thread-self/net/udp").read_text()


def topic(name: str, port: int, pick: Pick = Pick.TURN, **group: object) -> Topic:
    options = (GroupOptions("collectors", **group),) if group else ()  # type: ignore[arg-type]
    return Topic(300, name, framing=Framing.FOREIGN, ports=(port,), pick=pick, groups=options)


def read_whole(read: Callable[[], list[str]], wanted: int) -> list[str]:
    until(lambda: len(read()) >= wanted, read)
    return read()


def ledger_of(broker: Broker, name: str) -> dict[str, Any]:
    (found,) = (each for each in broker.ask("GET", "/v1/ledger")["topics"] if each["name"] == name)
    return found  # type: ignore[no-any-return]


def assert_whole(broker: Broker, name: str, events: int) -> None:
    told = broker.wait_received(name, events)
    assert (told.problems, told.refused) == ((), {})
    ledger = ledger_of(broker, name)
    assert ledger["balanced"], ledger


def test_two_log_servers_share_senders_and_see_their_addresses(place: Place) -> None:
    program("rsyslogd")
    files = []
    for number, port in enumerate((9001, 9002)):
        file = place.folder / f"{number}.log"
        setup = place.folder / f"{number}.conf"
        setup.write_text(
            f'global(workDirectory="{place.folder}")\n'
            'module(load="imudp")\n'
            'template(name="line" type="string" string="%fromhost-ip% %hostname% %msg%\\n")\n'
            f'input(type="imudp" address="{place.topology.subscriber.address}" port="{port}")\n'
            f'action(type="omfile" file="{file}" template="line")\n'
        )
        pid = place.folder / f"{number}.pid"
        place.collector(
            port, command("rsyslogd", "-n", "-i", pid, "-f", setup, "-M", library("rsyslog"), "-x")
        )
        files.append(file)
    broker = place.broker(topic("syslog", 514, Pick.SOURCE, keep=True), (9001, 9002))
    place.many_senders()
    for sender in SENDERS:
        place.be(sender)
        for number in range(3):
            place.run("logger", "--server", place.topology.broker.address, "--port", 514, "--udp",
                      "--rfc3164", f"number {number}")  # fmt: skip

    def lines() -> list[str]:
        return [line for file in files if file.exists() for line in file.read_text().splitlines()]

    got = [line.split() for line in read_whole(lines, 3 * len(SENDERS))]
    host = socket.gethostname().partition(".")[0]
    wanted = sorted((sender, host, str(number)) for sender in SENDERS for number in range(3))
    assert sorted((line[0], line[1], line[-1]) for line in got) == wanted
    parts = [{line.split()[0] for line in file.read_text().splitlines()} for file in files if file.exists()]
    assert sum(map(len, parts)) == len(SENDERS), "each sender's lines are in one place"
    assert_whole(broker, "syslog", len(wanted))


def test_traps_in_fragments_arrive_whole_from_their_senders(place: Place) -> None:
    program("snmptrapd")
    program("snmptrap")
    setup, log = place.folder / "snmptrapd.conf", place.folder / "traps"
    setup.write_text("disableAuthorization yes\ndoNotRetainNotificationLogs yes\n")
    place.collector(9001, command(
        "snmptrapd", "-f", "-n", "-C", "-c", setup, "-On", "-Lf", log, "-F", "%b %v\\n",
        f"udp:{place.topology.subscriber.address}:9001",
    ))  # fmt: skip
    broker = place.broker(topic("snmp-traps", 162, keep=True), (9001,))
    place.many_senders()
    texts = {sender: chr(ord("a") + at) * (4000 if at % 2 else 40) for at, sender in enumerate(SENDERS)}
    for sender, text in texts.items():
        place.be(sender)
        place.run(*command(
            "snmptrap", "-v", "2c", "-c", "public", f"{place.topology.broker.address}:162", "",
            "1.3.6.1.4.1.8072.2.3.0.1", "1.3.6.1.4.1.8072.2.3.2.1", "s", text,
        ))  # fmt: skip

    def told() -> list[str]:
        return (
            [line for line in log.read_text().splitlines() if "8072.2.3.2.1" in line] if log.exists() else []
        )

    lines = read_whole(told, len(SENDERS))
    assert len(lines) == len(SENDERS)
    for sender, text in texts.items():
        (line,) = (line for line in lines if f"[{sender}]" in line)
        assert f'"{text}"' in line
    assert_whole(broker, "snmp-traps", len(SENDERS))


def collectd(folder: Path, plugins: str) -> Path:
    """Its configuration; what it collects it writes below ``folder``."""
    folder.mkdir()
    setup = folder / "collectd.conf"
    setup.write_text(
        f'Hostname "{folder.name}"\nFQDNLookup false\nInterval 1\nBaseDir "{folder}"\n'
        f'PIDFile "{folder}/pid"\nPluginDir "{library("collectd")}"\n'
        f'TypesDB "{_types()}"\n{plugins}'
    )
    return setup


def _types() -> Path:
    fetched = FETCHED / "usr/share/collectd/types.db"
    return fetched if fetched.exists() else Path("/usr/share/collectd/types.db")


def receivers(place: Place, plugin: str, options: str) -> list[Path]:
    """Two that listen by a plug-in, and the folders into which they write what they got."""
    program("collectd")
    address = place.topology.subscriber.address
    folders = [place.folder / f"receiver{number}" for number in range(2)]
    for folder, port in zip(folders, (9001, 9002), strict=True):
        given = options.format(address=address, port=port)
        place.collector(port, command("collectd", "-f", "-C", collectd(
            folder,
            f"LoadPlugin {plugin}\n<Plugin {plugin}>\n{given}\n</Plugin>\n"
            f'LoadPlugin csv\n<Plugin csv>\n DataDir "{folder}/csv"\n</Plugin>\n',
        )))  # fmt: skip
    return folders


def values(folder: Path, pattern: str) -> list[float]:
    """The last value of each file."""
    found = []
    for file in folder.glob(pattern):
        lines = file.read_text().splitlines()
        if len(lines) > 1 and "," in lines[-1]:
            found.append(float(lines[-1].split(",")[1]))
    return found


@pytest.mark.parametrize("mode", ["off", "native"])
def test_values_of_collectd_arrive_at_both_collectors(place: Place, mode: str) -> None:
    if mode != "off":
        require_kernel()
    folders = receivers(place, "network", ' Listen "{address}" "{port}"')
    broker = place.broker(topic("collectd", 25826), (9001, 9002), mode=mode, together=False)
    queue = place.folder / "queue"
    queue.mkdir()
    for number in range(7):
        (queue / str(number)).touch()
    sender = collectd(
        place.folder / "sender",
        f'LoadPlugin network\n<Plugin network>\n Server "{place.topology.broker.address}" "25826"\n'
        "</Plugin>\n"
        f'LoadPlugin filecount\n<Plugin filecount>\n <Directory "{queue}">\n  Instance "queue"\n'
        " </Directory>\n</Plugin>\n",
    )
    sends = place.topology.publisher.start(command("collectd", "-f", "-C", sender))

    def received() -> list[list[float]]:
        return [values(folder, "csv/sender/filecount-queue/files-*") for folder in folders]

    until(lambda: received() == [[7.0], [7.0]], lambda: (received(), sends.output))
    sends.stop()
    ledger = ledger_of(broker, "collectd")
    assert ledger["balanced"], ledger
    told = broker.topic("collectd")
    assert (told.fast if mode == "off" else told.slow) == 0


@pytest.mark.parametrize("mode", ["off", "native"])
def test_counters_in_lines_of_statsd_sum_up_at_the_collector_of_their_sender(place: Place, mode: str) -> None:
    if mode != "off":
        require_kernel()
    folders = receivers(place, "statsd", ' Host "{address}"\n Port "{port}"')
    broker = place.broker(topic("statsd", 8125, Pick.SOURCE), (9001, 9002), mode=mode)
    place.many_senders()
    turns, lines = 20, 10
    with ExitStack() as stack:
        ends = [stack.enter_context(udp(place.topology.publisher, (sender, 0))) for sender in SENDERS]
        for turn in range(turns):
            for number, end in enumerate(ends):
                body = b"\n".join(b"from%d:1|c" % number for _ in range(lines))
                end.sendto(body, (place.topology.broker.address, 8125))
            # No socket has to hold more than it has room for.
            broker.wait_received("statsd", (turn + 1) * len(ends))

    def sums() -> dict[str, list[float]]:
        return {
            f"from{number}": [
                value
                for folder in folders
                for value in values(folder, f"csv/receiver*/statsd/derive-from{number}-*")
            ]
            for number in range(len(SENDERS))
        }

    wanted = {f"from{number}": [float(turns * lines)] for number in range(len(SENDERS))}
    until(lambda: sums() == wanted, sums)
    assert_whole(broker, "statsd", turns * len(SENDERS))


def sflow(agent: int, number: int) -> bytes:
    """A datagram of sFlow 5 with one sampled header."""
    frame = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=f"192.0.2.{agent + 1}", dst=f"198.51.100.{number + 1}")
        / UDP(sport=10_000 + number, dport=53)
        / Raw(bytes(20 + number))
    )
    padded = frame + bytes(-len(frame) % 4)
    header = struct.pack("!4I", 1, len(frame) + 4, 4, len(frame)) + padded
    record = struct.pack("!2I", 1, len(header)) + header
    sample = struct.pack("!8I", number + 1, 1, 1, number + 1, 0, 1, 2, 1) + record
    head = struct.pack("!2I4s4I", 5, 1, socket.inet_aton(f"10.9.0.{agent + 1}"), 0, number, 1000 * number, 1)
    return head + struct.pack("!2I", 1, len(sample)) + sample


@contextmanager
def sampled(place: Place, node: str, folder: Path, address: str, port: int) -> Iterator[None]:
    """sfcapd, which writes what it collects there when it ends.

    Of its socket's buffer each frame that XDP redirects takes most of a page, whatever it holds.
    """
    folder.mkdir()
    at = getattr(place.topology, node)
    started = at.start(command("sfcapd", "-w", folder, "-b", address, "-p", port, "-t", 3600, "-B", 1 << 21))
    until(lambda: at.call(lambda: _listens(port)) or not started.running, lambda: started.output)
    yield
    until(lambda: at.call(lambda: _waiting(port)) == 0)
    started.terminate()
    started.stop()


def _waiting(port: int) -> int:
    (line,) = (
        each
        for each in Path("/proc/thread-self/net/udp").read_text().splitlines()
        if each.split()[1].endswith(f":{port:04X}")
    )
    return int(line.split()[4].partition(":")[2], 16)


def _delivered() -> int:
    """Datagrams that sockets of this network were given."""
    names, numbers = (
        line.split()
        for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
        if line[:4] == "Udp:"
    )
    return int(numbers[names.index("InDatagrams")])


def flows(folder: Path) -> list[str]:
    told = subprocess.run(
        command("nfdump", "-q", "-R", folder, "-o", "fmt:%sa %sp %da %dp %ibyt", "-N"),
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return sorted(" ".join(line.split()) for line in told.stdout.splitlines() if line.strip())


@pytest.mark.parametrize("mode", ["off", "native"])
def test_samples_of_sflow_are_those_of_a_direct_run(place: Place, mode: str) -> None:
    for name in ("sfcapd", "nfdump"):
        program(name)
    if mode != "off":
        require_kernel()
    datagrams = [sflow(agent, number) for number in range(20) for agent in range(4)]
    there = place.topology.publisher.address
    with (
        sampled(place, "publisher", place.folder / "direct", there, 9009),
        udp(place.topology.publisher, (there, 0)) as end,
    ):
        for each in datagrams:
            end.sendto(each, (there, 9009))
    wanted = flows(place.folder / "direct")
    assert len(wanted) == len(datagrams)
    address = place.topology.subscriber.address
    with ExitStack() as stack:
        for number in range(2):
            stack.enter_context(
                sampled(place, "subscriber", place.folder / f"sflow{number}", address, 9001 + number)
            )
        broker = place.broker(topic("sflow", 6343), (9001, 9002), mode=mode, together=False)
        with udp(place.topology.publisher, (there, 0)) as end:
            for each in datagrams:
                end.sendto(each, (place.topology.broker.address, 6343))
        assert_whole(broker, "sflow", len(datagrams))
        node = place.topology.subscriber
        until(
            lambda: node.call(_delivered) == 2 * len(datagrams),
            lambda: (node.call(_delivered), broker.entry("sflow")),
        )
    assert [flows(place.folder / f"sflow{number}") for number in range(2)] == [wanted, wanted]
