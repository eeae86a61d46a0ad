"""runqlat counts what the kernel counts, and pauses names who had the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.observing import LIMIT, Line, Observed
from support.privileges import require_kernel
from support.waiting import until

pytestmark = pytest.mark.kernel

#: Says what it is called, then wants the CPU until its input ends; on one core, with others.
_BUSY = """
import ctypes, os, sys, threading
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
os.sched_setaffinity(0, {int(sys.argv[2])})
print("ready", flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    pass
"""


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()


@contextmanager
def busy(comm: str, core: int) -> Iterator[int]:
    """A process that wants a core; its id."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _BUSY, comm, str(core)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()
        process.wait(LIMIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def account(pid: int) -> tuple[int, int]:
    """ns that the threads of a process have waited in their lives, and how often they were given a CPU."""
    waited = times = 0
    for each in Path(f"/proc/{pid}/task").iterdir():
        _, delay, count = (each / "schedstat").read_text().split()
        waited, times = waited + int(delay), times + int(count)
    return waited, times


def counted(lines: list[Line]) -> tuple[int, int, int]:
    """How many waits the histogram holds, and the least and the most us that they can have taken together."""
    (histogram,) = (line for line in lines if line["type"] == "histogram")
    buckets = histogram["buckets"]
    return (
        sum(count for _, _, count in buckets),
        sum(low * count for low, _, count in buckets),
        sum(high * count for _, high, count in buckets),
    )


@pytest.mark.parametrize("by", ["pid", "comm"])
def test_runqlat_counts_the_waits_that_the_kernel_counts(by: str) -> None:
    core = min(os.sched_getaffinity(0))
    with busy("runq-first", core) as first, busy("runq-second", core):
        asked = ("--pid", str(first)) if by == "pid" else ("--comm", "runq-first")
        outside = account(first)
        with Observed("runqlat", *asked) as tool:
            began = account(first)[1]
            # A wait that goes on while the tool begins is the kernel's alone: it counts waits as they end.
            until(lambda: account(first)[1] > began, "it is given the core again")
            inside = account(first)
            until(lambda: account(first)[1] >= inside[1] + 20, "it is given the core again and again")
            inside = tuple(now - before for now, before in zip(account(first), inside, strict=True))
            found, least, most = counted(tool.stop())
            outside = tuple(now - before for now, before in zip(account(first), outside, strict=True))
    assert inside[1] <= found <= outside[1]
    assert least <= outside[0] / 1e3
    assert inside[0] / 1e3 <= most


def test_pauses_names_who_had_the_cpu() -> None:
    core = min(os.sched_getaffinity(0))
    with (
        busy("pause-victim", core) as victim,
        busy("pause-culprit", core) as culprit,
        Observed("pauses", "--pid", str(victim), "--longer", "1") as tool,
    ):
        name = f"pause-culprit[{culprit}]"
        pause = tool.until(lambda line: name in line.get("ran", "") and "more" not in line["ran"])
        lines = tool.stop()
    assert (pause["pid"], pause["tid"], pause["comm"], pause["cpu"]) == (victim, victim, "pause-victim", core)
    assert pause["began"] == "pushed"
    assert pause["waited_ms"] >= 1
    # What ran meanwhile is all of the wait, to what a switch takes.
    ran = sum(map(float, re.findall(r" (\d+\.\d{3})", pause["ran"])))
    assert ran == pytest.approx(pause["waited_ms"], abs=0.2), pause
    blamed = [line for line in lines if line["type"] == "row" and line["pid"] == culprit]
    assert len(blamed) == 1
    assert blamed[0]["pauses"] >= 1
    assert blamed[0]["ran_ms"] > 0


def test_pauses_shorter_than_asked_for_are_not_shown() -> None:
    core = min(os.sched_getaffinity(0))
    with (
        busy("pause-victim", core) as victim,
        busy("pause-culprit", core),
        Observed("pauses", "--pid", str(victim), "--longer", "100000", "--duration", "0.5") as tool,
    ):
        tool.until(lambda line: line["type"] == "end")
    assert [line for line in tool.lines if line["type"] == "event"] == []
