"""Hosts: what their file may say, what a plan prints, and what the guard does on the other side."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import LIMIT

from tempos import ConfigError, Unavailable
from tempos_bench import suite
from tempos_bench.nodes import hosts, machine
from tempos_bench.nodes.hosts import Hosts
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, ProgramFailed
from tempos_bench.nodes.remote import Host, RemoteNode
from tempos_bench.report import plot
from tempos_bench.report.figures import as_text
from tempos_bench.runs import plan, scenario
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import Run

EXAMPLE = Path(__file__).parents[2] / "config" / "hosts.example.toml"
NAMES = ("edge1", "middle", "edge2")
ADDRESSES = ("root@192.0.2.11", "root@192.0.2.10", "root@192.0.2.12")


def test_the_example_describes_three_hosts() -> None:
    found = hosts.read(EXAMPLE, NAMES)
    assert [host.name for host in found.nodes] == list(NAMES)
    assert found.shapes == ("one-armed",)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(
        'shape = "ring"\nrunner = "ssh"\nport = 22\nclock_offset = 0\n[host.a]\nssh = ""\naddresses = []\n'
        'interfaces = ["e"]\ncpus = ["x"]\nspeed = 1\n[host.c]\nssh = "c"\naddresses = ["c.example"]\n'
    )
    with pytest.raises(ConfigError) as refused:
        hosts.read(path, ("a", "a", "b", "c"))
    text = str(refused.value)
    for fault in ("shape: 'ring'", "runner: 'ssh'", "port: unknown", "host.a.ssh: ''", "three different",
                  "host.a.addresses: []", "host.a.cpus: ['x']", "host.a.speed: unknown", "clock_offset: 0",
                  "host.c.addresses: ['c.example']", "host.b: missing"):  # fmt: skip
        assert fault in text


def test_a_host_is_an_address_where_no_file_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = hosts.read(None, ADDRESSES)
    assert found.shapes == ("one-armed",)
    assert found.nodes[0] == Host(ADDRESSES[0], ADDRESSES[0], "python3", ("192.0.2.11",))
    with pytest.raises(ConfigError, match=r"hosts.toml: .*No such file.*\[user@\]IPv4"):
        hosts.read(None, ("edge1", *ADDRESSES[1:]))
    with pytest.raises(ConfigError, match="No such file"):
        hosts.read(tmp_path / "missing.toml", ADDRESSES)


def test_the_number_of_addresses_is_the_shape_and_must_fit_a_given_one(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    middle = '[host.middle]\nssh = "m"\naddresses = ["192.0.2.10", "198.51.100.10"]\n'
    path.write_text(middle)
    assert hosts.read(path, ("192.0.2.11", "middle", "root@198.51.100.12")).shape == "straight"
    path.write_text(f'shape = "one-armed"\n{middle}interfaces = ["e"]\n')
    with pytest.raises(ConfigError) as refused:
        hosts.read(path, ("192.0.2.11", "middle", "192.0.2.12"))
    assert "middle.addresses: 2 given, the broker of 'one-armed' has 1" in str(refused.value)
    assert "middle.interfaces: as many as addresses" in str(refused.value)


def test_every_scenario_can_run_on_hosts_or_says_why_not() -> None:
    assert set(hosts.ON_HOSTS) <= suite.MODULES.keys()
    for name in suite.MODULES:
        assert (hosts.why_not(name) is None) is (name in hosts.ON_HOSTS)
    stay = suite.MODULES.keys() - set(hosts.ON_HOSTS)
    measured = {"redirect", "program-time", "scale", "slowdown", "fanout-rate", "fanout-many", "journal-cost"}
    assert stay == {
        *measured,
        "fleet-churn",
        "fleet-join",
        "fleet-kill",
        "fleet-scale",
        "invoke",
        "invoke-chaos",
        "invoke-peers",
        "observe-pauses",
        "observe-peers",
        "observe-sources",
        "lives",
        "loop-free",
        "redelivery",
        "roaming",
        "soak",
        "strangers",
        "topic-churn",
        "topics-scale",
        "collector-churn",
        "director",
        "confirmed-peers",
        "repair",
        "webhooks",
        "workflows",
    }
    assert all("BPF test runs" in (hosts.why_not(name) or "") for name in measured)


def shaped(name: str, tmp_path: Path) -> Hosts:
    """Hosts that are connected as a scenario wants them."""
    if name != "round-trip":
        return hosts.read(EXAMPLE, NAMES)
    path = tmp_path / "hosts.toml"
    path.write_text(
        EXAMPLE.read_text()
        .replace('shape = "one-armed"', 'shape = "straight"')
        .replace('["192.0.2.10"]', '["192.0.2.10", "198.51.100.10"]')
        .replace('["enp1s0"]             # straight', '["enp1s0", "enp2s0"] # straight')
    )
    return hosts.read(path, NAMES)


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("name", hosts.ON_HOSTS)
def test_a_plan_names_every_program_and_runs_none(
    name: str, short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a plan starts nothing")

    loaded, place = scenario.load(name, short=short), shaped(name, tmp_path)
    monkeypatch.setattr(machine, "describe", dict)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(time, "sleep", refuse)
    lines = plan.plan(loaded, place).splitlines()

    assert "ssh -o BatchMode=yes root@middle.example" in lines[2]
    brokers = [line for line in lines if "-m tempos_broker" in line]
    assert all(line.startswith("middle: ") and "--text" in line for line in brokers)
    assert any(line.startswith("edge1: ") for line in lines)
    if name == "source-ping":
        assert any(line.startswith("note: left out: all but direct") for line in lines)
        return
    assert brokers
    assert any(line.startswith("edge2: ") for line in lines)
    assert any('    listen = ["192.0.2.10"' in line for line in lines)


@pytest.mark.parametrize("name", ["qos-fast", "qos-rate", "qos-workflows", "peers-latency"])
def test_a_run_whose_clocks_never_agreed_can_be_told_drawn_and_kept(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    never = dataclasses.replace(hosts.read(EXAMPLE, NAMES), clock_offset=-1.0)
    found = scenario.run(
        scenario.load(name, short=True), Run(place=plan.Plan(never), sleep=lambda seconds: None)
    )
    timed = [row for row in found.rows if row.unit == "us" and "trip" not in row.name]
    assert all(row.value is None for row in timed)
    assert not any(record["count"] for record in found.samples)
    assert "left out" in " ".join(found.notes)
    assert as_text(found)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))
    # Loads, round trips and costs may still have pictures, latencies have none.
    assert [path.stem for path in plot.draw(found, tmp_path) if "bars" not in path.stem] == []


def test_what_an_address_does_not_say_is_asked_of_the_host() -> None:
    told = plan.plan(scenario.load("churn", short=True), hosts.read(None, ADDRESSES))
    assert 'interfaces = ["asked of the host"]' in told
    assert (
        "root@192.0.2.12: python3 -m tempos_bench.nodes.guard -- python3 -m tempos_bench.programs.members"
        in told
    )
    assert "--cpu" not in told


def test_a_program_that_a_plan_knows_no_answer_of_fails_it() -> None:
    node = plan.PlanNode(
        Host("h", "h", "python3", ("192.0.2.1",)), ("ssh",), plan.Plan(hosts.read(None, ADDRESSES))
    )
    with pytest.raises(ProgramFailed, match="not known to a plan"):
        node.role("awake").result(1)
    with pytest.raises(ProgramFailed, match="not known to a plan"):
        node.start(("something", "else")).result(1)


def test_another_topology_than_the_hosts_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="'straight', the hosts are connected as 'one-armed'"):
        plan.plan(scenario.load("round-trip", short=True), hosts.read(EXAMPLE, NAMES))
    with pytest.raises(Unavailable, match="'one-armed', the hosts are connected as 'straight'"):
        plan.plan(scenario.load("source-rtt", short=True), shaped("round-trip", tmp_path))


def test_cores_of_this_machine_become_those_of_the_host() -> None:
    first, other = cores()

    def pinned(*cpus: int, cpu: int = first) -> str:
        host = Host("h", "h", "/their python", ("192.0.2.1",), ("e",), cpus)
        return RemoteNode(host, ("ssh",)).line((PYTHON, "-m", "x", "a b"), cpu, None)

    assert shlex.split(pinned(4, 5))[3:5] == ["--cpu", "4"]
    assert shlex.split(pinned(4, 5, cpu=other))[4] == ("5" if other != first else "4")
    assert "--cpu" not in pinned()
    assert shlex.split(pinned())[-4:] == ["/their python", "-m", "x", "a b"]


def guard(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tempos_bench.nodes.guard", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(program: subprocess.Popen[str], line: str) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()
    return program.stdout.readline()


def test_the_guard_hands_on_text_input_signals_and_the_exit_code() -> None:
    code = f"import sys; print(open('{TEXT_FILE}').read(), flush=True); print(input(), flush=True); input()"
    with guard("--text", "--", sys.executable, "-c", code) as program:
        assert say(program, json.dumps("its text")) == "its text\n"
        assert say(program, "=a line") == "a line\n"
        assert program.stdin is not None
        program.stdin.write(f"!{int(signal.SIGKILL)}\n")
        program.stdin.flush()
        assert program.wait(LIMIT) == 128 + signal.SIGKILL


def test_the_guard_ends_its_program_with_us() -> None:
    with guard(
        "--", "sh", "-c", "trap 'echo ended; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        assert program.stdin is not None
        program.stdin.close()
        assert program.stdout.readline() == "ended\n"
        assert program.wait(LIMIT) == 3
