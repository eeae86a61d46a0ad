"""SQ and BQ kept apart at the data port: a flood of best effort, whatever tells the classes apart."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.brokers import ON_LOOPBACK, get, serving
from support.ports import free_ports
from support.waiting import LIMIT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux selects between sockets")

#: Bytes: some hundred small datagrams, with what the kernel adds to each.
SMALL_BUFFER = 65536
CONFIG = (
    ON_LOOPBACK
    + """\
[state]
file = "off"
[limits]
receive_buffer = {buffer}
[quality]
sockets = "{sockets}"
[[topic]]
id = 1
name = "alarms"
framing = "raw"
class = "{alarms}"
member = [{{ ip = "127.0.0.1", port = {alarms_port} }}]
[[topic]]
id = 2
name = "logs"
framing = "raw"
class = "{logs}"
member = [{{ ip = "127.0.0.1", port = {logs_port} }}]
"""
)


class Node:
    """A broker with two topics, a bare socket as the member of each."""

    def __init__(self, folder: Path, sockets: str) -> None:
        self.data, self.control, self.api = free_ports(3)
        self.file, self.log, self.sockets = folder / "broker.toml", folder / "log", sockets
        self.sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sink in self.sinks:
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sink.bind(("127.0.0.1", 0))
            sink.settimeout(LIMIT)

    def configure(self, alarms: str, logs: str) -> None:
        alarms_port, logs_port = (sink.getsockname()[1] for sink in self.sinks)
        self.file.write_text(
            CONFIG.format(
                data=self.data, control=self.control, api=self.api, buffer=SMALL_BUFFER, sockets=self.sockets,
                alarms=alarms, logs=logs, alarms_port=alarms_port, logs_port=logs_port,
            )
        )  # fmt: skip

    @contextmanager
    def broker(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        with contextlib.ExitStack() as stack:
            for sink in self.sinks:
                stack.enter_context(sink)
            process = stack.enter_context(serving(self.file, self.log, *options))
            stack.callback(process.send_signal, signal.SIGCONT)
            yield process

    def status(self) -> dict[str, Any]:
        return get(self.api, "/v1/status")

    def accounted(self) -> dict[str, Any]:
        """The status once nothing is on its way any more."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            status = self.status()
            if not status["paths"]["slow"]["queued"] and self.seen(status) == self.sent:
                return status
        raise AssertionError(f"{self.sent} sent, {self.seen(status)} in the account: {status}")

    @staticmethod
    def seen(status: dict[str, Any]) -> int:
        overruns = sum(each["overruns"] for each in status["quality"]["classes"].values())
        return int(status["paths"]["slow"]["received"]) + overruns

    sent = 0

    def flood_while_stopped(self, process: subprocess.Popen[str], strict: int) -> None:
        """4,000 best-effort and 80 strict datagrams, mixed, into a broker that does not read."""
        process.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            publisher.connect(("127.0.0.1", self.data))
            for number in range(4000):
                publisher.send(bytes((3 - strict,)) + b"flood")
                if number % 50 == 0:
                    publisher.send(bytes((strict, number // 50)))
                    self.sent += 1
                self.sent += 1
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("options", [(), ("--portable",)], ids=["recvmmsg", "portable"])
def test_a_flood_into_a_stopped_broker_overflows_only_best_effort(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    if not options:
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    node = Node(tmp_path, "classic")
    node.configure("SQ", "BQ")
    with node.broker(*options) as process:
        node.flood_while_stopped(process, strict=1)
        assert [node.sinks[0].recv(10) for _ in range(80)] == [bytes((1, n)) for n in range(80)]
        first = node.accounted()
        quality = first["quality"]
        assert quality["sockets"] == "classic"
        assert quality["classes"]["SQ"]["overruns"] == 0
        assert quality["classes"]["BQ"]["overruns"] > 3000
        assert first["unattributed"] == {"socket_overrun": quality["classes"]["BQ"]["overruns"]}

        # The other way round, after a reload.
        node.configure("BQ", "SQ")
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        told = [process.stdout.readline(), process.stdout.readline()]
        assert all(line.startswith("reload: topic") for line in told), told
        drain(node.sinks[1])
        node.flood_while_stopped(process, strict=2)
        got = [node.sinks[1].recv(10) for _ in range(80)]
        assert got == [bytes((2, n)) for n in range(80)]
        second = node.accounted()["quality"]["classes"]
        assert second["SQ"]["overruns"] == 0
        assert second["BQ"]["overruns"] > quality["classes"]["BQ"]["overruns"] + 3000


def test_with_one_socket_it_says_so_and_strict_events_still_go_first(tmp_path: Path) -> None:
    """What the one buffer loses is lost to both classes; of what it holds SQ is sent before BQ."""
    node = Node(tmp_path, "one")
    node.configure("SQ", "BQ")
    # Both to one member, so that it sees the order.
    node.file.write_text(
        node.file.read_text()
        .replace(f"port = {node.sinks[1].getsockname()[1]}", f"port = {node.sinks[0].getsockname()[1]}")
        .replace(f"receive_buffer = {SMALL_BUFFER}", "receive_buffer = 1048576")
    )
    with node.broker() as process:
        process.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            publisher.connect(("127.0.0.1", node.data))
            for topic, count in ((2, 100), (1, 10)):
                for number in range(count):
                    publisher.send(bytes((topic, number)))
        process.send_signal(signal.SIGCONT)
        got = [node.sinks[0].recv(10) for _ in range(110)]
        assert Counter(datagram[0] for datagram in got) == {1: 10, 2: 100}
        assert [datagram[0] for datagram in got[:10]] == [1] * 10
        quality = node.status()["quality"]
        assert quality["sockets"] == "one"
        assert "configuration" in quality["reason"]
        assert (quality["classes"]["SQ"]["dscp"], quality["classes"]["BQ"]["dscp"]) == (46, 0)


def drain(sink: socket.socket) -> None:
    sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sink.recv(10)
    sink.settimeout(LIMIT)
