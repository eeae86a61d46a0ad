"""Scenarios on hosts, with a stand-in for ssh that runs the line of shell in a namespace.

Everything else is the real thing: quoting, the guard, texts, signals, the control API by way of a program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.privileges import require_kernel, require_netns

from tempos import Unavailable
from tempos_bench import hosts, scenario
from tempos_bench.hosts import Hosts, RemoteNode
from tempos_bench.node import PYTHON, ProgramFailed
from tempos_bench.run import Run
from tempos_bench.topology import Topology, build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

STAND_IN = """\
import os, sys
namespace, *line = sys.argv[1:]
os.execvp("nsenter", ["nsenter", f"--net={namespace}", "sh", "-c", " ".join(line)])
"""
SHAPE = "one-armed"


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
        f"shape = {json.dumps(SHAPE)}",
        f"runner = {json.dumps([sys.executable, str(tmp_path / 'stand_in.py')])}",
    ]
    for node in (topology.publisher, topology.broker, topology.subscriber):
        holder = node.start(("sleep", "infinity"))
        lines += [
            f"[host.{node.name}]",
            f'ssh = "/proc/{holder.pid}/ns/net"',
            f"python = {json.dumps(sys.executable)}",
            f"addresses = {json.dumps(list(node.addresses))}",
            f"interfaces = {json.dumps(list(node.interfaces))}",
            "cpus = [0]",
        ]
    (tmp_path / "hosts.toml").write_text("\n".join(lines) + "\n")
    return hosts.read(tmp_path / "hosts.toml", ("A", "B", "C"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("blast", ["datagrams=3000"]),
        ("source-rtt", ["rounds=1", "packets=30"]),
        ("source-loss", ["repetitions=1", "datagrams=3000"]),
    ],
)
def test_a_scenario_runs_on_hosts_as_it_does_here(three: Hosts, name: str, changes: list[str]) -> None:
    found = scenario.run(scenario.load(name, changes=changes), Run(place=three))

    values = {row.name: row.value for row in found.rows}
    assert {one["node"] for one in found.topologies[0]["interfaces"]} == {"A", "B", "C"}
    if name == "blast":
        assert values["native, one-armed: lost"] == values["generic, one-armed: lost"] == 0
        assert values["native, straight: lost"] is None
    elif name == "source-rtt":
        assert values["lost"] == 0
        assert {path["mode"] for path in found.paths if path["path"] == "fast"} == {"native", "generic"}
    else:
        assert values["native: received, with a pause"] == 100


def test_what_needs_this_machine_is_refused_and_failures_show_their_output(three: Hosts) -> None:
    node = RemoteNode(three.nodes[1], three.runner)
    with pytest.raises(Unavailable, match="B is another host"):
        node.call(lambda: None)
    program = node.start((PYTHON, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(Unavailable, match="has no number here"):
        _ = program.pid
    with pytest.raises(ProgramFailed, match=r"exit code 3\n(.*\n)*why"):
        program.result(20)
    node.close()
