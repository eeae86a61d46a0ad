"""A schedule on a real interface: the kernel takes it and gives it back, or refuses and nothing changes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.privileges import require_netns
from support.waiting import LIMIT

from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.patience import patience

pytestmark = pytest.mark.netns

#: The timers of a busy machine are later each time that one looks.
RETRIES = 5
MODES = ((), ("--txtime",), ("--offload",))
#: Of `tc`: the command line is wrong; the kernel said no.
USAGE, REFUSED = 1, 2


class Machine:
    """A namespace with one end of a veth pair, and programs that run in it."""

    def __init__(self, namespace: Namespace, file: Path) -> None:
        self.call = namespace.call
        self._enter = ("nsenter", f"--net={namespace.path}", "--")
        self._file = str(file)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (*self._enter, *command), capture_output=True, text=True, check=False, timeout=LIMIT
        )

    def applied(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Apply a plan; where the timers of this machine are seen to be too late for it, what is proposed."""
        done = self.plan(*words, "--apply")
        for _ in range(RETRIES):
            if "timers here was" not in done.stderr:
                break
            told = re.findall(r"(--(?:margin|cycle|delta)) (\d+)", done.stderr)
            words = (*words, *(word for pair in told for word in pair))
            done = self.plan(*words, "--apply")
        return done

    def plan(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            sys.executable, "-m", "tempos", "tsn", "plan", "-c", self._file, "-i", "d0",
            "--cycle", "1000", "--link", "10000", "--traffic", "alarms=1000/s:64", "--margin", "100", *words,
        )  # fmt: skip

    def qdiscs(self) -> str:
        shown = self.run("tc", "-j", "qdisc", "show", "dev", "d0")
        assert shown.returncode == 0, shown.stderr
        return shown.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    require_netns()
    file = tmp_path / "x.toml"
    file.write_text('[[topic]]\nid = 1\nname = "alarms"\nclass = "SQ"\npath = "slow"\n')
    with Namespace("tsn") as namespace:
        made = Machine(namespace, file)
        veth = ("numtxqueues", "2", "type", "veth", "peer", "name", "d1")
        for command in (("add", "d0", *veth), ("set", "d0", "up"), ("set", "d1", "up")):
            done = made.run("ip", "link", *command)
            assert done.returncode == 0, done.stderr
        yield made


@pytest.mark.parametrize("mode", MODES, ids=["software", "txtime", "offload"])
def test_tc_understands_every_command(machine: Machine, mode: tuple[str, ...]) -> None:
    plan = json.loads(machine.plan(*mode, "--json").stdout)
    # Whether or not this kernel has the qdiscs: `tc` itself must find nothing wrong with the words.
    for command in plan["commands"]:
        done = machine.run(*command)
        assert done.returncode in (0, REFUSED), done.stderr
    wrong = [word.replace("base-time", "base-tim") for word in plan["commands"][0]]
    assert machine.run(*wrong).returncode == USAGE, "or the check above could not fail"


@pytest.mark.parametrize("mode", MODES, ids=["software", "txtime", "offload"])
def test_a_schedule_is_applied_and_undone_or_nothing_changes(machine: Machine, mode: tuple[str, ...]) -> None:
    before = machine.qdiscs()
    done = machine.applied(*mode)
    if done.returncode == 0:
        assert '"taprio"' in machine.qdiscs()
        again = machine.plan(*mode, "--apply")
        assert again.returncode == 1
        assert "has a schedule that was put there before" in again.stderr
        assert machine.plan("--undo", "--apply").returncode == 0
    else:
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("tempos tsn: `tc qdisc ")
        assert "Traceback" not in done.stderr
        assert "nothing was changed" in done.stderr or "was undone" in done.stderr
        assert machine.plan("--undo", "--apply").returncode == 1
    assert machine.qdiscs() == before


def test_what_somebody_set_up_stays(machine: Machine) -> None:
    assert machine.run("tc", "qdisc", "add", "dev", "d0", "root", "handle", "5:", "pfifo").returncode == 0
    before = machine.qdiscs()
    for words in (("--apply",), ("--undo", "--apply")):
        done = machine.plan(*words)
        assert done.returncode == 1
        assert "pfifo 5:" in done.stderr
    assert machine.qdiscs() == before


def test_an_interface_that_is_not_there(machine: Machine) -> None:
    done = machine.plan("-i", "d7", "--apply")
    assert done.returncode == 1
    assert "d7" in done.stderr


def test_a_plan_that_lets_nothing_through_is_refused_and_one_as_proposed_is_not(
    machine: Machine,
) -> None:
    before = machine.qdiscs()
    done = machine.plan("--margin", "0", "--apply")
    assert done.returncode == 1
    assert "no SQ event leaves at all; plan with --margin " in done.stderr
    assert done.stderr.endswith("nothing was changed\n")
    assert machine.qdiscs() == before
    for words in (("--margin", "100"), ("--margin", "0", "--anyway")):
        done = machine.applied(*words)
        # What the kernel says of it is another matter; what we said of it before is settled.
        assert done.returncode == 0 or done.stderr.startswith("tempos tsn: `tc qdisc "), done.stderr
        machine.plan("--undo", "--apply")


def test_sq_leaves_by_a_schedule_that_is_not_refused(machine: Machine) -> None:
    """A window that opens late stays open for long enough, whatever the timers are: no frame is stuck."""
    events, limit = 100, patience(30.0)
    done = machine.applied()
    if "qdisc kind is unknown" in done.stderr:
        pytest.skip("this kernel has no taprio")
    assert done.returncode == 0, done.stderr
    assert machine.run("ip", "addr", "add", "10.9.0.1/24", "dev", "d0").returncode == 0
    mac = ("lladdr", "02:00:00:00:00:02", "dev", "d0")
    assert machine.run("ip", "neigh", "add", "10.9.0.2", *mac).returncode == 0

    def travel() -> int:
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as there,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.bind(("d1", 0x0800))
            # As the broker marks SQ (quality.so_priority_sq).
            here.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            arrived, end = 0, time.monotonic() + limit
            for _ in range(events):
                here.sendto(bytes(64), ("10.9.0.2", 9))
                there.settimeout(max(0.001, end - time.monotonic()))
                # One after the other: each has to find an open window.
                while there.recv(2048)[23] != socket.IPPROTO_UDP:
                    pass
                arrived += 1
            return arrived

    assert machine.call(travel) == events
