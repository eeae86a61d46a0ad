"""Scenarios on hosts, with a stand-in for ssh that runs the line of shell in a namespace.

Everything else is the real thing: quoting, the guard, texts, signals, questions answered by a program. Each
of the hosts booted at another time, where the kernel has namespaces for that: CLOCK_MONOTONIC of the one says
nothing to the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from support.privileges import require_kernel, require_netns
from support.processes import still_alive

from tempos import Framing, Quality, TemposError, Topic, Unavailable
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.nodes import hosts
from tempos_bench.nodes.hosts import Hosts
from tempos_bench.nodes.node import PYTHON, ProgramFailed
from tempos_bench.nodes.remote import RemoteNode
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Report
from tempos_bench.runs import scenario
from tempos_bench.runs.run import Run, running
from tempos_bench.suite import fanout_exact

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

STAND_IN = """\
import os, sys
(uptime, namespace), *line = sys.argv[1].split(), *sys.argv[2:]
booted = ["unshare", "--time", "--monotonic", uptime, "--boottime", uptime, "--fork"] if int(uptime) else []
os.execvp("nsenter", ["nsenter", f"--net={namespace}", *booted, "sh", "-c", " ".join(line)])
"""
SHAPE = "one-armed"
#: Seconds that publisher, broker and subscriber have been up longer than this machine.
UPTIMES = (1_000, 500_000, 3_000_000)
#: Generous, for the machine may be busy: whether clocks agree is not what these are about.
CLOCK_OFFSET = 0.5


@cache
def has_time_namespaces() -> bool:
    try:
        return not subprocess.run(("unshare", "--time", "true"), capture_output=True, check=False).returncode
    except OSError:
        return False


@pytest.fixture
def topology() -> Iterator[Topology]:
    require_kernel()
    require_netns()
    with build(SHAPE) as built:
        yield built


@pytest.fixture
def three(topology: Topology, tmp_path: Path) -> Hosts:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    lines = [
        f"runner = {json.dumps([sys.executable, str(tmp_path / 'stand_in.py')])}",
        f"clock_offset = {CLOCK_OFFSET}",
    ]
    for node, uptime in zip((topology.publisher, topology.broker, topology.subscriber), UPTIMES, strict=True):
        holder = node.start(("sleep", "infinity"))
        lines += [
            f"[host.{node.name}]",
            f'ssh = "{uptime if has_time_namespaces() else 0} /proc/{holder.pid}/ns/net"',
            f"python = {json.dumps(sys.executable)}",
            f"addresses = {json.dumps(list(node.addresses))}",
            "cpus = [0]",
        ]
    (tmp_path / "hosts.toml").write_text("\n".join(lines) + "\n")
    return hosts.read(tmp_path / "hosts.toml", ("A", "B", "C"))


def blasted(found: Report) -> None:
    values = {row.name: row.value for row in found.rows}
    assert values["native, one-armed: lost"] == values["generic, one-armed: lost"] == 0
    assert values["native, straight: lost"] is None


def bounced(found: Report) -> None:
    assert {row.name: row.value for row in found.rows}["lost"] == 0
    assert {path["mode"] for path in found.paths if path["path"] == "fast"} == {"native", "generic"}


def arrived(found: Report) -> None:
    assert {row.name: row.value for row in found.rows}["native: received, with a pause"] == 100


def counted(found: Report) -> None:
    """What must be 0 on one machine is 0 on three."""
    targets = scenario.load(found.scenario).targets
    zero = [row for row in found.rows if row.name in targets and str(targets[row.name]) == "== 0"]
    assert zero
    assert [(row.name, row.value) for row in zero if row.value] == []


def ran(found: Report) -> None:
    values = {row.name: row.value for row in found.rows}
    assert values["native, dense"]
    assert values["generic, dense"]


@pytest.mark.parametrize(
    ("name", "changes", "check"),
    [
        ("blast", ["datagrams=3000"], blasted),
        ("source-rtt", ["rounds=1", "packets=30"], bounced),
        ("source-loss", ["repetitions=1", "datagrams=3000"], arrived),
        ("source-time", ["samples=1", "sparse=20", "rate=1000.0", "dense=1000"], ran),
        ("broker-kill", ["rate=2000.0", "kills=1", "beat=0.2"], counted),
        ("path-moves", ["rate=2000.0", "moves=2"], counted),
    ],
)
def test_a_scenario_runs_on_hosts_as_it_does_here(
    three: Hosts, name: str, changes: list[str], check: Callable[[Report], None]
) -> None:
    found = scenario.run(scenario.load(name, changes=changes), Run(place=three))

    assert {one["node"] for one in found.topologies[0]["interfaces"]} == {"A", "B", "C"}
    assert {one["node"]: one["kernel"] for one in found.topologies[0]["hosts"]} == dict.fromkeys(
        "ABC", found.machine["kernel"]
    )
    check(found)


def test_every_group_gets_every_event_on_hosts(three: Hosts) -> None:
    cases = [fanout_exact.Case(groups, 3, None) for groups in (2, 17)]
    parameters = fanout_exact.Parameters(events=30, rate=3000.0, payload=45)
    with running(Run(place=three)):
        account = fanout_exact.measure(parameters, "native", SHAPE, cases)
    assert (account.faulty, account.events, account.elsewhere) == ([], 60, 0)
    assert account.deliveries == 30 * (2 + 17)


def test_latencies_between_hosts_are_told_with_what_is_known_of_their_clocks(three: Hosts) -> None:
    run = Run(place=three)
    topic = Topic(1, "SQ", quality=Quality.SQ, framing=Framing.EVENT)
    with running(run), build() as topology, ExitStack() as stack:
        load = Load(stack, topology, [9001], size=32)
        with load.broker([Subject(topic, 9001)], mode="off"):
            heard = load.play([Flow(topic, 500.0)], 0.2)["SQ"]
    outcome = heard.outcome
    assert (outcome.sent, outcome.delivered, outcome.lost) == (100, 100, 0)
    assert len(heard.latency) == outcome.latency.count == outcome.program.count == 100
    # As they are on one machine: nothing is compared that counts from when a host booted.
    assert outcome.latency.max < 1e6 * CLOCK_OFFSET
    (note,) = [note for note in run.notes if "the subscriber's clock against the publisher's" in note]
    assert note.endswith("latencies are not corrected by it")


def test_each_host_has_a_clock_of_its_own_that_schedules_begin_by(three: Hosts) -> None:
    node = RemoteNode(three.nodes[2], three.runner)
    up = ("-c", "import time; print(time.monotonic())")
    if has_time_namespaces():
        there = float(node.start((PYTHON, *up)).wait_line())
        assert there - time.monotonic() == pytest.approx(UPTIMES[2], abs=60)
    assert node.trip() > 0
    before = time.time_ns()
    assert node.soon(5.0) >= before + 5_000_000_000
    node.close()


def test_a_host_tells_what_runs_there_and_lends_a_folder(three: Hosts) -> None:
    node = RemoteNode(three.nodes[1], three.runner)
    program = node.start((PYTHON, "-c", "import os; print(os.getpid(), flush=True); input()"), talk=True)
    assert program.pid == int(program.wait_line())
    assert node.inquire("used", pids=[program.pid])[0] > 0
    assert node.inquire("peak", pid=program.pid) > 1_000_000
    with pytest.raises(TemposError, match=r"B: .*No such file"):
        node.inquire("peak", pid=1 << 30)
    with node.folder() as folder:
        Path(folder, "state").write_text("something")
        lender = node.start(("true",)).pid
    assert not Path(folder).exists()
    program.kill()
    assert still_alive({program.pid, lender}, 10) == set()
    node.close()


def test_what_needs_this_machine_is_refused_and_failures_show_their_output(three: Hosts) -> None:
    node = RemoteNode(three.nodes[1], three.runner)
    with pytest.raises(Unavailable, match="B is another host"):
        node.call(lambda: None)
    program = node.start((PYTHON, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(ProgramFailed, match=r"exit code 3\n(.*\n)*why"):
        program.result(20)
    node.close()
