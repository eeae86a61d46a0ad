"""Topologies: every address reaches every other, and nothing outlives the runner, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.privileges import require_kernel, require_netns
from support.processes import Spaces, descendants, still_alive
from support.waiting import LIMIT

from tempos import Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes import leftovers
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import SHAPES, build

pytestmark = pytest.mark.netns


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_netns()


def _udp(node: Node, address: str) -> socket.socket:
    def work() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(LIMIT)
        sock.bind((address, 0))
        return sock

    return node.call(work)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_address_reaches_every_other(shape: str) -> None:
    with build(shape) as topology:
        nodes = (topology.publisher, topology.broker, topology.subscriber)
        ends = [(node, address) for node in nodes for address in node.addresses]
        for source, source_address in ends:
            for target, target_address in ends:
                with _udp(source, source_address) as sender, _udp(target, target_address) as receiver:
                    sender.sendto(b"hello", receiver.getsockname())
                    assert receiver.recvfrom(100) == (b"hello", sender.getsockname())


class _Mishap(Exception):
    pass


def _use_and_fail(shape: str, made: set[int], inside: Spaces) -> None:
    others = descendants(os.getpid())
    with build(shape) as topology:
        program = topology.broker.start(("sh", "-c", "echo up; exec sleep 1000"), ready="up")
        made |= descendants(os.getpid()) - others
        for node in (topology.publisher, topology.broker, topology.subscriber):
            node.call(lambda: inside.add("/proc/thread-self/ns/net"))
        assert program.pid in made
        assert len(inside) == 3
        assert len(set(inside.used().values())) == 3
        raise _Mishap


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_left_of_a_topology(shape: str) -> None:
    interfaces = socket.if_nameindex()
    made: set[int] = set()
    with Spaces() as inside:
        with pytest.raises(_Mishap):
            _use_and_fail(shape, made, inside)

        assert still_alive(made, LIMIT) == set()
        assert not inside.inhabited(LIMIT)
    assert socket.if_nameindex() == interfaces


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_runner_that_is_ended(number: signal.Signals) -> None:
    """The demo in full flight: namespaces, broker with its XDP programs, publisher, subscriber."""
    demo = subprocess.Popen(
        (sys.executable, "-m", "tempos_bench", "demo"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stderr is not None
    with demo.stderr, Spaces() as inside:
        progress = next(line for line in demo.stderr if "slow path" in line)
        made = descendants(demo.pid)
        assert len(made) >= 3, progress
        for pid in made:
            inside.add(f"/proc/{pid}/ns/net")
        assert len(inside) >= 2, progress
        demo.send_signal(number)
        code = demo.wait(LIMIT)
        rest = demo.stderr.read()

        assert code == (-signal.SIGKILL if number is signal.SIGKILL else 130), rest
        assert still_alive(made, LIMIT) == set()
        assert not inside.inhabited(LIMIT)


def test_what_a_runner_that_was_killed_has_pinned_is_removed_by_the_next_one() -> None:
    require_kernel()
    program = """
from tempos import Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build
with build("straight") as topology:
    group = Group("g", (Member(topology.subscriber.address, 9001),))
    Broker(topology.broker, {Topic(1, "events"): (group,)}, mode="native").wait_path("events", Path.FAST)
    print("pinned", flush=True)
    input()
"""
    command = (sys.executable, "-c", program)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "pinned\n"
        made = descendants(runner.pid)
        name = f"bench-{runner.pid}"
        assert name not in leftovers.left(), "its runner lives"
        # All at once, as where a machine runs out of memory: nobody is there to do anything about another.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (runner.pid, *made):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
    assert still_alive(made, LIMIT) == set()
    assert name in leftovers.left()
    leftovers.sweep.cache_clear()
    leftovers.sweep()
    assert name not in leftovers.left()


def test_whose_pins_are_nobodys_business(tmp_path: Path) -> None:
    """Brokers' of people, whatever they are called, and those of runners that live."""
    names = ("edge-1", "bench", "my bench-999999999", f"bench-{os.getpid()}", "bench-999999999-x")
    for name in (*names, "bench-999999999", "lives-999999999-7"):
        (tmp_path / name).mkdir()
    assert leftovers.left(tmp_path) == ["bench-999999999", "lives-999999999-7"]
    assert leftovers.left(tmp_path / "none") == []


def test_nothing_stays_pinned_of_a_broker_that_is_killed() -> None:
    require_kernel()
    with build("one-armed") as topology:
        broker = Broker(topology.broker, {Topic(1, "events"): ()}, mode="native")
        (pinned,) = (
            folder for folder in leftovers.PINS.glob("*/*") if folder.parent.name == f"bench-{os.getpid()}"
        )
        os.kill(broker.pid, signal.SIGKILL)
        broker.program.wait(LIMIT)
        assert list(pinned.iterdir())
    assert not pinned.exists()
