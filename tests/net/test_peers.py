"""Each peer that is installed: its server, the raw generator and the client library, over loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.ports import free_ports
from support.processes import still_alive
from support.waiting import LIMIT

from tempos_bench.measure import samples
from tempos_bench.nodes.installed import distribution
from tempos_bench.nodes.node import Node, Program, ProgramFailed, local
from tempos_bench.peers.ground import MEMBERS
from tempos_bench.peers.servers import SERVERS, Server, server
from tempos_bench.peers.usage import Running, measured
from tempos_bench.peers.ways import PACKAGES

pytest.importorskip("tempos_bench._stream", reason="the stream helper is not compiled")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the harness runs on Linux"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
]

HOME = "127.0.0.1"
RAW = [(one.name, wire) for one in SERVERS for wire in one.wires]
LIBRARY = [*RAW, ("Zenoh", "zenoh")]


@pytest.fixture
def node() -> Iterator[Node]:
    here = local()
    yield here
    here.close()


class Peer:
    """A server on loopback, and how to reach it."""

    def __init__(self, node: Node, one: Server) -> None:
        (self.port,) = free_ports(1)
        self.one, self.node = one, node
        self.program = one.start(node, address=HOME, port=self.port)
        self.run = 0

    def end(self, program: str, do: str, speaks: str, *more: object) -> Program:
        speak = "--wire" if program == "raw" else "--client"
        port = self.port + (self.one.subscribers if do == "subscribe" else 0)
        words = ("--do", do, speak, speaks, "--connect", f"{HOME}:{port}", "--topic", "r")
        return self.node.role(f"peers.{program}", *words, *more, ready=True, talk=True)

    def play(self, publisher: Program, subscriber: Program, rate: float, seconds: float) -> tuple[Any, Any]:
        self.run += 1
        begin = {"size": 32, "run": self.run, "idle": 0.2, "expect": 10_000_000, "room": 100_000}
        assert subscriber.ask(begin, LIMIT) == {"begun": True}
        command = {
            "size": 32,
            "run": self.run,
            "seconds": seconds,
            "rate": rate,
            "begin_ns": 0,
            "full": False,
        }
        return publisher.ask(command, LIMIT), subscriber.ask("end", LIMIT)

    def play_until_heard(self, publisher: Program, subscriber: Program) -> None:
        """Not every protocol says when a subscription holds."""
        for _ in range(50):
            if self.play(publisher, subscriber, 1000.0, 0.05)[1]["received"]:
                return
        raise AssertionError("no event came through")


def installed(name: str, speaks: str = "") -> Server:
    one = server(name)
    if lacking := one.missing(local()):
        pytest.skip(lacking)
    if speaks and distribution(PACKAGES[speaks]) is None:
        pytest.skip(f"{PACKAGES[speaks]} is not installed (pip install 'tempos[peers]')")
    return one


@pytest.mark.parametrize(("name", "wire"), RAW)
def test_the_raw_generator_loses_nothing_and_keeps_a_schedule(node: Node, name: str, wire: str) -> None:
    peer = Peer(node, installed(name))
    subscriber, publisher = peer.end("raw", "subscribe", wire), peer.end("raw", "publish", wire)
    peer.play_until_heard(publisher, subscriber)

    sent, got = peer.play(publisher, subscriber, 2000.0, 0.2)
    assert (sent["sent"], got["received"], got["repeated"], got["stale"]) == (400, 400, 0, 0)
    assert len(samples.unpack(got["latency"])) == 400
    # The last event is due 399 intervals after the first.
    assert got["last_ns"] - sent["began_ns"] >= 199_500_000

    ends = [Running(node, publisher.pid)]
    with measured(Running(node, peer.program.pid), ends, [node]) as usage:
        sent, got = peer.play(publisher, subscriber, 0.0, 0.1)
    # As fast as it can: Mosquitto throws away what a starved subscriber does not take (QoS 0).
    least = 400 if name == "Mosquitto" else sent["sent"]
    assert 400 < sent["sent"] >= got["received"] >= least
    assert 0 < usage.server < usage.all
    assert usage.peak > 1_000_000


@pytest.mark.parametrize(("name", "client"), LIBRARY)
def test_the_client_library_loses_nothing_and_keeps_a_schedule(node: Node, name: str, client: str) -> None:
    peer = Peer(node, installed(name, client))
    subscriber, publisher = peer.end("library", "subscribe", client), peer.end("library", "publish", client)
    peer.play_until_heard(publisher, subscriber)

    sent, got = peer.play(publisher, subscriber, 1000.0, 0.2)
    assert (sent["sent"], got["received"], got["repeated"], got["damaged"]) == (200, 200, 0, 0)
    assert got["last_ns"] - sent["began_ns"] >= 199_000_000
    sent, got = peer.play(publisher, subscriber, 0.0, 0.05)
    assert got["received"] == sent["sent"] > 0


@pytest.mark.parametrize(("name", "wire"), [("NATS", "nats"), ("Mosquitto", "mqtt0"), ("Mosquitto", "mqtt1")])
def test_one_member_of_a_group_gets_each_event(node: Node, name: str, wire: str) -> None:
    peer = Peer(node, installed(name))
    subscriber = peer.end("raw", "subscribe", wire, "--group", "workers", "--members", MEMBERS)
    _, got = peer.play(peer.end("raw", "publish", wire), subscriber, 2000.0, 0.2)
    assert (got["received"], got["repeated"], len(got["by_member"])) == (400, 0, MEMBERS)
    assert sum(got["by_member"]) == 400
    assert min(got["by_member"]) > 0


@pytest.mark.parametrize(("name", "wire"), RAW)
def test_round_trips(node: Node, name: str, wire: str) -> None:
    peer = Peer(node, installed(name))
    hear = f"{HOME}:{peer.port + peer.one.subscribers}"
    more = ("--back", "q", "--hear", hear)
    echo, ping = peer.end("raw", "echo", wire, *more), peer.end("raw", "ping", wire, *more)
    for run in range(1, 20):
        begin = {"size": 32, "run": run, "idle": 0.02, "expect": 50, "room": 0}
        assert echo.ask(begin, LIMIT) == {"begun": True}
        asked_ns = time.monotonic_ns()
        found = ping.ask({"size": 32, "run": run, "count": 50}, LIMIT)["samples_ns"]
        # One after the other, and each by one clock.
        assert sum(found) <= time.monotonic_ns() - asked_ns
        assert echo.ask("end", LIMIT)["repeated"] == 0
        if len(found) == 50:
            break
    assert len(found) == 50
    assert min(found) > 0


_RUNNER = """
import sys, time
from tempos_bench.nodes.node import local
from tempos_bench.peers.servers import server
program = server(sys.argv[1]).start(local(), address="127.0.0.1", port=int(sys.argv[2]))
print(program.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", [one.name for one in SERVERS])
def test_no_server_outlives_a_runner_that_is_killed(name: str) -> None:
    installed(name)
    (port,) = free_ports(1)
    command = (sys.executable, "-c", _RUNNER, name, str(port))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert still_alive({pid}, 0) == {pid}
        runner.kill()
    assert not still_alive({pid}, LIMIT)


def test_a_server_that_does_not_start_says_why(node: Node) -> None:
    one = installed("Redis")
    (port,) = free_ports(1)
    with pytest.raises(ProgramFailed, match=f"Redis takes no connections on port {port}"):
        # No address of this machine, by RFC 5737.
        one.start(node, address="192.0.2.1", port=port)


def test_what_is_not_installed_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert (
        server("NATS").missing(local())
        == "NATS left out: nats-server is not installed (apt-get install nats-server)"
    )
