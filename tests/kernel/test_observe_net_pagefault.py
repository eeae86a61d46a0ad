"""net-pagefault tells each role of each process, and faults of whole processes as getrusage counts them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.observing import LIMIT, Filtered, Line, Observed, acting, called, inode, rows

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]
COUNT = 6


def faults_when_it_waits(pid: int) -> dict[str, int]:
    """What getrusage would tell the process then: of one that runs on it is out of date when it is told.

    It waits where it is told to go on, not for anything on its way there; and alone, for a thread that was
    joined is not gone for that: it has faults of its own as it ends.
    """
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        waits = Path(f"/proc/{pid}/wchan").read_text().endswith("pipe_read")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if waits and fields[0] == "S" and fields[17] == "1":
            return {"min_flt": int(fields[7]), "maj_flt": int(fields[9])}
    raise AssertionError(f"{pid} does not come to rest")


@pytest.mark.parametrize(("processes", "version", "leave"), [(1, 6, False), (1, 4, True), (50, 4, False)])
def test_who_used_the_network_and_had_page_faults(
    space: Namespace | None, processes: int, version: int, leave: bool
) -> None:
    use = {"count": COUNT, "pages": 100, "version": version, "leave": leave}
    # Of what was there before, the faults since it began; so who sees all of them begins first.
    with (
        Observed("net-pagefault") as tool,
        acting("net_use", processes=processes, space=space, **use) as acts,
    ):
        # It says that it is ready, and has faults until it waits: before the tools that count from here on.
        before = {pid: faults_when_it_waits(pid) for pid in acts.pids}
        with Filtered("net-pagefault", acts, everybody=False) as tools:
            done = acts.go()
            if not leave:
                for each in done:
                    each |= faults_when_it_waits(each["pid"])
            lines = tool.stop()
            for chosen, whom, _ in tools.stop(done):
                told(chosen, whom, version, space, before)
            assert {line["pid"] for line in chosen if line["type"] == "row"} == {
                each["pid"] for each in whom.values()
            }
    told(lines, dict(enumerate(done)), version, space, {})
    if leave:
        (row,) = (row for row in rows(lines, "faults") if row["pid"] == done[0]["pid"])
        assert row["cpu_ms"] == pytest.approx(done[0]["cpu"] * 1e3, abs=5)


def told(
    lines: list[Line],
    whom: dict[int, dict[str, Any]],
    version: int,
    space: Namespace | None,
    before: dict[int, dict[str, int]],
) -> None:
    """That each of these is told of in each role; ``before``: the faults that they had had already."""
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    local = "127.0.0.1" if version == 4 else "::1"
    ends = {"ipver": version, "saddr": local, "daddr": local, "netns": where}
    blind = {each.split(":")[0] for each in lines[0]["left_out"]}
    for index, each in whom.items():
        who = {"pid": each["pid"], "comm": called(index)}

        def of(table: str, **more: object) -> list[Line]:
            kept = {"type": "row", "table": table, **who, **more}  # noqa: B023 - called at once
            return [row for row in rows(lines, table) if kept.items() <= row.items()]

        assert [row["count"] for row in of("connect", **ends, dport=each["port"])] == [COUNT]
        assert [row["count"] for row in of("accept", **ends, lport=each["port"])] == [COUNT]
        (sent,) = of("udp_sent", **ends, dport=each["udp_port"])
        assert (sent["count"], sent["bytes"]) == (COUNT, COUNT * 100)
        named = of("udp_received", **ends, lport=each["udp_port"])
        assert [(row["count"], row["bytes"]) for row in named] == [(4, 400)]
        nameless = of("udp_received", saddr="*", lport=each["udp_port"])
        assert [row["count"] for row in nameless] == ([] if blind else [2])
        pings = of("other", protocol="ICMP" if version == 4 else "ICMPV6", daddr=local)
        # The answers, which the kernel sends while the process is still sending, are not its own.
        assert [row["count"] for row in pings] == [COUNT]
        (faults,) = of("faults")
        had = before.get(each["pid"], {"min_flt": 0, "maj_flt": 0})
        for kind in had:
            assert faults[kind] == each[kind] - had[kind]
        assert faults["min_flt"] > 2 * each["pages"]
        assert faults["cpu_ms"] > 0


#: The tool in a process that says, on standard error, when C shows its tables.
_TELLING = """
import sys
from tempos.cli.main import main
from tempos_bpf.shown import Shown

def loop(self, *how):
    print("shown without Python", file=sys.stderr, flush=True)
    return before(self, *how)

before, Shown.loop = Shown.loop, loop
sys.exit(main(["observe", "net-pagefault", *sys.argv[1:]]))
"""


def test_what_is_shown_without_python_is_what_python_shows() -> None:
    with acting("net_use", count=COUNT, pages=100) as acts, ExitStack() as stack:
        (pid,) = acts.pids
        before = faults_when_it_waits(pid)
        tool = subprocess.Popen(
            [sys.executable, "-c", _TELLING, "--interval", "0.1", "--pid", str(pid)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert tool.stdout is not None
        assert tool.stderr is not None
        for each in (tool.stdout, tool.stderr):
            stack.callback(each.close)
        stack.callback(tool.wait)
        stack.callback(tool.kill)
        # While nothing has happened yet; all that is used then is new to it.
        tool.stderr.readline()
        acts.go()
        faults = faults_when_it_waits(pid)["min_flt"] - before["min_flt"]
        tool.stderr.readline()
        looks: list[str] = []
        for line in tool.stdout:
            if not re.fullmatch(_CLOCK, line):
                if looks:
                    looks[-1] += line
                continue
            if len(looks) > 1 and looks[-1] == looks[-2] and _faults_of(pid, looks[-1]) == faults:
                break
            looks.append("")
        tool.send_signal(signal.SIGINT)
        # Behind what was on its way: what Python shows at the end.
        last = re.split(_CLOCK, tool.stdout.read())[-1]
        assert tool.wait(LIMIT) == 0
    assert last.removeprefix(looks[-1]).endswith("lost: nothing\n")
    assert last.startswith(looks[-1])


_CLOCK = r"\d\d:\d\d:\d\d\n"


def _faults_of(pid: int, look: str) -> int:
    """In the last table, the minor ones."""
    rows = [line.split() for line in look.splitlines() if line.split()[:1] == [str(pid)]]
    return int(rows[-1][3]) if rows else -1
