"""What a fast path does without its broker, and how the next one takes over: real processes, SIGKILL."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.nodes import udp
from support.offloader import launch
from support.survival import BROKER, EPOCH, LIMIT, TOPIC, Traffic, set_of

from tempos.wire import encode_event
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology
from tempos_bpf.links import query_xdp
from tempos_bpf.maps import pinned_map
from tempos_fastpath.survival import ownership
from tempos_fastpath.survival.orphans import Installed, installed, orphans, remove

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

SUBSCRIBER = "10.0.2.2"


def carried(topology: Topology) -> dict[str, tuple[int, str] | None]:
    """Program id and mode on each of the broker's interfaces."""

    def look() -> dict[str, tuple[int, str] | None]:
        found = {name: query_xdp(index) for index, name in socket.if_nameindex() if name != "lo"}
        return {name: (each.program_id, each.mode) if each else None for name, each in found.items()}

    return topology.broker.call(look)


def here(topology: Topology) -> dict[str, Installed]:
    namespace = topology.broker.call(ownership.current_namespace)
    return {each.identity.name: each for each in installed() if each.identity.namespace == namespace}


def installs(program: Program, port: int, **more: object) -> str:
    command = {"do": "install", "topic": TOPIC, "epoch": EPOCH, "members": [[SUBSCRIBER, port]], **more}
    return str(program.ask(command))


def sequence_of(event: bytes) -> int:
    """The delivery sequence of an event of the epoch."""
    assert event[3] == EPOCH
    return int.from_bytes(event[12:16], "big")


def drain(sock: socket.socket, wanted: int) -> list[int]:
    """The delivery sequences of so many events."""
    return [sequence_of(sock.recv(2000)) for _ in range(wanted)]


def test_a_rate_holds_without_its_broker_and_its_bucket_goes_on_to_the_next(topology: Topology) -> None:
    """No more than burst and rate in all, before the kill, after it, and under the next broker."""
    limit = {"rate": 1, "burst": 5}
    event = encode_event(TOPIC, 1, 0, 0, b"body")

    def send() -> None:
        for _ in range(20):
            source.sendto(event, BROKER)

    with udp(topology.subscriber, (SUBSCRIBER, 0)) as sink, udp(topology.publisher) as source:
        port = sink.getsockname()[1]
        began = time.monotonic()
        first = launch(topology.broker)
        first.wait_line("ready")
        installs(first, port, **limit)
        send()
        first.kill()
        send()
        second = launch(topology.broker)
        second.wait_line("ready")
        installs(second, port, **limit)
        send()
        counters: dict[str, int] = {}
        while counters.get("forwarded", 0) + counters.get("over_rate", 0) < 60:
            assert time.monotonic() < began + LIMIT, counters
            counters = second.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})["counters"]
        assert 5 <= counters["forwarded"] <= 5 + time.monotonic() - began
        drain(sink, counters["forwarded"])
        second.ask({"do": "close", "keep": False})


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_sigkill_under_traffic_loses_nothing_and_the_next_one_takes_over(
    topology: Topology, mode: str
) -> None:
    with udp(topology.subscriber, (SUBSCRIBER, 0)) as sink, udp(topology.publisher) as source:
        port = sink.getsockname()[1]
        first = launch(topology.broker, mode=mode)
        first.wait_line("ready")
        installs(first, port)
        with Traffic(source, 100, [sink]) as traffic:
            for _ in range(3):
                traffic.wait(3000)
                first.kill()
                traffic.wait(3000)
                second = launch(topology.broker, mode=mode)
                second.wait_line("ready")
                assert f"taken over in {mode} mode" in second.output
                assert second.ask({"do": "adopted"}) == {str(TOPIC): EPOCH}
                traffic.wait(1000)
                installs(second, port)
                assert second.ask({"do": "adopted"}) == {}
                first = second
        state = first.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})
        assert state["counters"] == {"forwarded": traffic.sent}
        sequences = list(map(sequence_of, traffic.taken[0]))
        assert sequences == list(range(traffic.sent)), "lost, doubled or begun anew"
        assert state["counters"] == {"forwarded": traffic.sent}
        assert state["tickets"] == traffic.sent
        first.ask({"do": "close", "keep": False})
    assert carried(topology) == {"eth0": None, "eth1": None}
    assert not set_of(topology).folder.exists()


def test_another_version_is_replaced_without_a_gap_and_begins_anew(topology: Topology) -> None:
    with udp(topology.subscriber, (SUBSCRIBER, 0)) as sink, udp(topology.publisher) as source:
        port = sink.getsockname()[1]
        first = launch(topology.broker)
        first.wait_line("ready")
        installs(first, port)
        source.sendto(encode_event(TOPIC, 1, 0, 0, b""), BROKER)
        sink.recv(2000)
        first.kill()
        with pinned_map(set_of(topology).path("identity")) as identity:
            identity.update(0, b"another!")
        before = carried(topology)
        second = launch(topology.broker)
        assert "tickets and counters begin anew" in second.wait_line("ready")
        after = carried(topology)
        assert all(after.values())
        assert not set(after.values()) & set(before.values())
        assert second.ask({"do": "adopted"}) == {}
        state = second.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})
        assert (state["tickets"], state["counters"]) == (0, {})
        # What it pinned in their place is adopted again by one of its own version.
        installs(second, port)
        second.kill()
        third = launch(topology.broker)
        third.wait_line("ready")
        assert third.ask({"do": "adopted"}) == {str(TOPIC): EPOCH}


def test_a_changed_configuration_is_taken_over_as_far_as_it_fits(topology: Topology) -> None:
    first = launch(topology.broker, mode="native")
    first.wait_line("ready")
    installs(first, 9999)
    assert first.ask({"do": "close", "keep": True}) is None
    first.stop()
    assert {name: each[1] for name, each in carried(topology).items() if each} == {
        "eth0": "native",
        "eth1": "native",
    }
    # Another mode cannot be had without taking the old one off; an interface less is taken off.
    second = launch(topology.broker, mode="generic", interfaces=["eth0"])
    second.wait_line("ready")
    assert second.ask({"do": "adopted"}) == {str(TOPIC): EPOCH}
    modes = {name: each[1] if each else None for name, each in carried(topology).items()}
    assert modes == {"eth0": "generic", "eth1": None}
    second.ask({"do": "withdraw", "topic": TOPIC})
    assert second.ask({"do": "adopted"}) == {}
    second.kill()
    # One that shall not be pinned takes over, too, and leaves nothing, however it ends.
    third = launch(topology.broker, mode="generic", interfaces=["eth0"], pin=False)
    third.wait_line("ready")
    assert not set_of(topology).folder.exists()
    third.kill()
    assert carried(topology) == {"eth0": None, "eth1": None}


def test_latency_goes_on_with_the_next_broker_that_measures_and_ends_with_one_that_does_not(
    topology: Topology,
) -> None:
    with udp(topology.subscriber, (SUBSCRIBER, 0)) as sink, udp(topology.publisher) as source:
        port = sink.getsockname()[1]
        pin = set_of(topology).path("latency")

        def serve(latency: bool, events: int) -> list[int] | None:
            """By a broker that is killed in the end: what it has measured by then."""
            program = launch(topology.broker, latency=latency)
            program.wait_line("ready")
            installs(program, port)
            for _ in range(events):
                source.sendto(encode_event(TOPIC, 1, 0, time.time_ns(), b""), BROKER)
            drain(sink, events)
            measured = program.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})["measured"]
            assert pin.exists() == latency
            program.kill()
            return measured

        assert serve(latency=True, events=3) == [3, 3]
        assert serve(latency=True, events=4) == [7, 7]
        assert serve(latency=False, events=5) is None
        assert serve(latency=True, events=6) == [6, 6]
        program = launch(topology.broker, latency=True)
        program.wait_line("ready")
        program.ask({"do": "withdraw", "topic": TOPIC})
        program.ask({"do": "measure_anew", "topic": TOPIC})
        measured = program.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})["measured"]
        assert measured is None, "another topic stands there from now on"
        program.kill()


def test_a_name_and_an_interface_have_one_owner(topology: Topology) -> None:
    first = launch(topology.broker, interfaces=["eth0"])
    first.wait_line("ready")
    same = launch(topology.broker, interfaces=["eth1"]).wait_line("refused")
    assert "a broker named 'default' already has a fast path in this network namespace" in same
    assert f"process {first.pid}" in same
    other = launch(topology.broker, name="other", interfaces=["eth0"]).wait_line("refused")
    assert f"eth0 belongs to the fast path of the broker 'default' (process {first.pid})" in other
    assert (here(topology)["default"].alive, here(topology).keys()) == (True, {"default"})
    first.kill()
    dead = launch(topology.broker, name="other", interfaces=["eth0", "eth1"]).wait_line("refused")
    assert "the broker 'default', which is gone" in dead
    assert "tempos fastpath clean default" in dead
    assert carried(topology)["eth0"] is not None, "what is not ours stays"
    assert carried(topology)["eth1"] is None, "who refuses leaves nothing"
    # A living one that is not pinned is found as well.
    fresh = launch(topology.broker, name="unpinned", interfaces=["eth1"], pin=False)
    fresh.wait_line("ready")
    taken = launch(topology.broker, name="other", interfaces=["eth1"]).wait_line("refused")
    assert f"'unpinned' (process {fresh.pid})" in taken


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("tempos")), "fastpath", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(30), check=False)


def test_orphans_are_listed_and_removed_by_command(topology: Topology) -> None:
    name = f"orphan {os.getpid()}"
    program = launch(topology.broker, name=name)
    program.wait_line("ready")
    installs(program, 9999)
    (alive,) = (each for each in json.loads(run_command("list", "--json").stdout) if each["name"] == name)
    assert (alive["alive"], alive["pid"], alive["topics"]) == (True, program.pid, [TOPIC])
    assert alive["interfaces"] == [{"name": f"eth{i}", "mode": "native"} for i in (0, 1)]
    refused = run_command("clean", name)
    assert refused.returncode == 1
    assert f"the broker '{name}' (process {program.pid}) is alive" in refused.stderr
    program.kill()
    assert f"{name}: eth0 (native), eth1 (native); broker gone, pid was {program.pid}; topics {TOPIC}" in (
        run_command("list").stdout
    )
    assert name in {each.identity.name for each in orphans()}
    cleaned = run_command("clean", name)
    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert cleaned.stdout.startswith(f"removed {name}: eth0")
    assert carried(topology) == {"eth0": None, "eth1": None}
    assert here(topology) == {}
    assert name not in {each.identity.name for each in orphans()}
    nothing = run_command("clean", name)
    assert (nothing.returncode, nothing.stdout.strip()) == (1, f"no fast path of a broker named '{name}'")
    assert run_command("clean").returncode == 2


def test_what_was_forced_off_a_living_broker_stays_off(topology: Topology) -> None:
    program = launch(topology.broker)
    program.wait_line("ready")
    installs(program, 9999)
    remove(here(topology)["default"], force=True)
    assert carried(topology) == {"eth0": None, "eth1": None}
    topology.broker.call(lambda: _touch("eth1"))
    end = time.monotonic() + LIMIT
    while (state := program.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH}))["mode"] != "none":
        assert time.monotonic() < end, state
    assert carried(topology) == {"eth0": None, "eth1": None}


def _touch(interface: str) -> None:
    """Change something that the kernel tells everybody about."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        index = socket.if_nametoindex(interface)
        netlink.neigh("replace", dst="10.0.2.77", lladdr="02:00:00:00:00:77", ifindex=index)


def test_with_user_space_gone_the_policy_pass_hands_everything_up(topology: Topology) -> None:
    """Stopped counts as gone, and is no more once it goes on; killed stays gone."""
    up = udp(topology.broker, BROKER)
    with udp(topology.subscriber, (SUBSCRIBER, 0)) as sink, udp(topology.publisher) as source, up:
        program = launch(topology.broker, when_gone="pass", gone_after=0.3)
        program.wait_line("ready")
        installs(program, sink.getsockname()[1])

        def lands(first: socket.socket, second: socket.socket) -> socket.socket:
            source.sendto(encode_event(TOPIC, 1, 0, 0, b"where"), BROKER)
            ready, _, _ = select.select([first, second], [], [], LIMIT)
            ready[0].recv(2000)
            return ready[0]

        def until(wanted: socket.socket) -> None:
            end = time.monotonic() + LIMIT
            while lands(sink, up) is not wanted:
                assert time.monotonic() < end

        assert lands(sink, up) is sink
        os.kill(program.pid, signal.SIGSTOP)
        until(up)
        os.kill(program.pid, signal.SIGCONT)
        until(sink)
        counters = program.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})["counters"]
        assert counters["broker_gone"] >= 1
        program.kill()
        until(up)
        after = launch(topology.broker, when_gone="pass", gone_after=0.3)
        after.wait_line("ready")
        until(sink)
        after.kill()
        # `continue` costs nothing and asks nobody.
        last = launch(topology.broker)
        last.wait_line("ready")
        os.kill(last.pid, signal.SIGSTOP)
        assert lands(sink, up) is sink
        os.kill(last.pid, signal.SIGCONT)
