"""Hosts: what their file may say, what a plan prints, and what the guard does on the other side."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tempos import ConfigError, Unavailable
from tempos_bench import hosts, plan, scenario, suite
from tempos_bench.hosts import Host, RemoteNode
from tempos_bench.node import PYTHON, TEXT_FILE
from tempos_bench.rounds import cores

EXAMPLE = Path(__file__).parents[2] / "config" / "hosts.example.toml"
NAMES = ("edge1", "middle", "edge2")
LIMIT = 20


def test_the_example_describes_three_hosts() -> None:
    found = hosts.read(EXAMPLE, NAMES)
    assert [host.name for host in found.nodes] == list(NAMES)
    assert found.shapes == ("one-armed",)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(
        'shape = "ring"\nrunner = "ssh"\nport = 22\n[host.a]\nssh = ""\naddresses = []\ninterfaces = ["e"]\n'
        'cpus = ["x"]\nspeed = 1\n'
    )
    with pytest.raises(ConfigError) as refused:
        hosts.read(path, ("a", "a", "b"))
    text = str(refused.value)
    for fault in ("shape: 'ring'", "runner: 'ssh'", "port: unknown", "host.a.ssh: ''", "three different",
                  "host.a.addresses: []", "host.a.cpus: ['x']", "host.a.speed: unknown",
                  "host.b: missing"):  # fmt: skip
        assert fault in text


def test_every_scenario_can_run_on_hosts_or_says_why_not() -> None:
    assert set(hosts.ON_HOSTS) <= suite.MODULES.keys()
    for name in suite.MODULES:
        assert (hosts.why_not(name) is None) is (name in hosts.ON_HOSTS)


@pytest.mark.parametrize("name", hosts.ON_HOSTS)
def test_a_plan_names_every_program_and_runs_none(name: str) -> None:
    told = plan.plan(scenario.load(name, short=True), hosts.read(EXAMPLE, NAMES))
    lines = told.splitlines()
    assert "ssh -o BatchMode=yes root@middle.example" in lines[2]
    brokers = [line for line in lines if "-m tempos_broker" in line]
    assert brokers
    assert all(line.startswith("middle: ") and "--text" in line for line in brokers)
    assert any(line.startswith("edge1: ") for line in lines)
    assert any(line.startswith("edge2: ") for line in lines)
    assert 'listen = ["192.0.2.10"]' in told


def test_another_topology_than_the_hosts_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(EXAMPLE.read_text().replace('shape = "one-armed"', 'shape = "straight"'))
    with pytest.raises(Unavailable, match="'one-armed', the hosts are connected as 'straight'"):
        plan.plan(scenario.load("source-rtt", short=True), hosts.read(path, NAMES))


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
        [sys.executable, "-m", "tempos_bench.guard", *arguments],
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
