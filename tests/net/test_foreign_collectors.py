"""Real exporters and real collectors behind the broker: flow records are those of a run without it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap
from support.fetched import command, program
from support.ports import free_ports
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Framing, Group, Member, Pick, Topic
from tempos import Path as DataPath
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns]

_FIELDS = "fmt:%sa %sp %da %dp %pr %ipkt %ibyt"
EXPORTERS, FLOWS = 6, 20
In = Callable[[Callable[[], object]], object]


def capture(folder: Path, exporter: int) -> Path:
    """What an exporter has seen: flows of its own, of one to three packets."""
    file = folder / f"{exporter}.pcap"
    wrpcap(str(file), [
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=f"192.0.2.{exporter + 1}", dst=f"198.51.100.{flow + 1}")
        / UDP(sport=10_000 + flow, dport=53)
        / Raw(bytes(20 + flow))
        for flow in range(FLOWS)
        for _ in range(1 + flow % 3)
    ])  # fmt: skip
    return file


def softflowd(file: Path, to: str) -> tuple[str, ...]:
    """NetFlow 9, whose templates come before the data."""
    return command(
        "softflowd", "-r", file, "-n", to, "-v", "9", "-c", "none", "-p", file.with_suffix(".pid")
    )  # fmt: skip


def fprobe(file: Path, to: str) -> tuple[str, ...]:
    """NetFlow 5; a flow ends with the capture, which it reads as what tcpdump writes."""
    return ("sh", "-c", 'exec "$@" <"$0"', str(file), *command(
        "fprobe", "-i", "-", "-f", "ip", "-n", "5", "-d", "1", "-s", "1", "-l", "2", to
    ))  # fmt: skip


EXPORTER = {"softflowd": softflowd, "fprobe": fprobe}


def export(node: In, exporter: str, file: Path, to: str) -> None:
    called = EXPORTER[exporter](file, to)
    node(lambda: subprocess.run(called, check=True, capture_output=True, timeout=LIMIT))


@contextmanager
def collector(node: In, folder: Path, address: str, port: int) -> Iterator[Path]:
    """It writes what it collects there when it ends."""
    folder.mkdir()
    called = command("nfcapd", "-w", folder, "-b", address, "-p", port, "-t", "3600")

    def start() -> object:
        return subprocess.Popen(called, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def waits() -> int:
        told = str(node(lambda: Path("/proc/thread-self/net/udp").read_text())).splitlines()
        (line,) = (each for each in told if each.split()[1].endswith(f":{port:04X}"))
        return int(line.split()[4].partition(":")[2], 16)

    process = node(start)
    assert isinstance(process, subprocess.Popen)
    with process:
        try:
            here = f":{port:04X} "
            until(lambda: here in str(node(lambda: Path("/proc/thread-self/net/udp").read_text())))
            yield folder
            # What it has not read when it is told to end, it never reads.
            until(lambda: waits() == 0)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)


def records(folder: Path) -> list[str]:
    """By flow, its packets and bytes: an exporter on a busy machine may tell of one in two records."""
    called = command("nfdump", "-q", "-R", folder, "-o", _FIELDS, "-N")
    told = subprocess.run(called, check=True, capture_output=True, text=True).stdout
    # Where all exporters went to the other collector it says so in words.
    counts: dict[str, tuple[int, int]] = {}
    for line in told.splitlines():
        if line.strip()[:1].isdigit():
            *flow, packets, octets = line.split()
            before = counts.get(" ".join(flow), (0, 0))
            counts[" ".join(flow)] = before[0] + int(packets), before[1] + int(octets)
    return sorted(f"{flow} {packets} {octets}" for flow, (packets, octets) in counts.items())


@pytest.mark.parametrize("exporter", EXPORTER)
@pytest.mark.parametrize("mode", ["off", "native"])
def test_records_at_two_groups_of_collectors_are_those_of_a_direct_run(
    mode: str, exporter: str, tmp_path: Path
) -> None:
    require_netns()
    for name in (exporter, "nfcapd", "nfdump"):
        program(name)
    if mode != "off":
        require_kernel()
    captures = [capture(tmp_path, exporter) for exporter in range(EXPORTERS)]
    (port,) = free_ports(1)
    with collector(lambda work: work(), tmp_path / "direct", "127.0.0.1", port) as direct:
        for each in captures:
            export(lambda work: work(), exporter, each, f"127.0.0.1:{port}")
    wanted = records(direct)
    assert len(wanted) == EXPORTERS * FLOWS

    netflow = Topic(300, "netflow", framing=Framing.FOREIGN, ports=(2055,), pick=Pick.SOURCE_PORT)
    with build("straight") as topology:
        c = topology.subscriber
        flows = tuple(Member(c.address, 9001 + n) for n in range(2))
        groups = [Group("flows", flows), Group("archive", (Member(c.address, 9003),))]
        with ExitStack() as stack:
            two = [
                stack.enter_context(collector(c.call, tmp_path / f"flows{n}", c.address, 9001 + n))
                for n in range(2)
            ]
            archive = stack.enter_context(collector(c.call, tmp_path / "archive", c.address, 9003))
            broker = stack.enter_context(Broker(topology.broker, {netflow: groups}, mode=mode))
            if mode != "off":
                broker.wait_path("netflow", DataPath.FAST)
            for each in captures:
                export(topology.publisher.call, exporter, each, f"{topology.broker.address}:2055")
            told = broker.wait_received("netflow", EXPORTERS)
            assert (told.problems, told.refused) == ((), {})
            assert (told.fast if mode == "off" else told.slow) == 0
    assert records(archive) == wanted
    parts = [records(each) for each in two]
    assert sorted(parts[0] + parts[1]) == wanted
    # An exporter's templates and data are at one collector: nobody has a part of its flows.
    exporters = [{line.split()[0] for line in part} for part in parts]
    assert not exporters[0] & exporters[1]
