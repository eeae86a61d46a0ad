"""runqlat and pauses count what the kernel counts, of one process and of 50; culprits are named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support.observing import Acting, Filtered, Line, Observed, acting
from support.privileges import require_kernel
from support.waiting import until

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]
_WATCHED = f"runq-{os.getpid()}"
_CORE = min(os.sched_getaffinity(0))
#: How often each process is given the core while it is watched, of 1 and of 50 that want it.
_TURNS = {1: 20, 50: 2}


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()


@contextmanager
def busy(comm: str, processes: int = 1, space: Namespace | None = None) -> Iterator[Acting]:
    """Processes that want the same core."""
    with acting("busy", comm=comm, core=_CORE, processes=processes, space=space) as acts:
        acts.go()
        yield acts


class Account(NamedTuple):
    """ns that threads have waited in their lives, and how often they were given a CPU."""

    waited: int
    times: int


class Thread(NamedTuple):
    """``idle``: it waits for something else than a CPU."""

    account: Account
    idle: bool


Process = dict[int, Thread]


def look(pid: int) -> Process:
    """The threads of a process."""
    found = {}
    for each in Path(f"/proc/{pid}/task").iterdir():
        idle = (each / "stat").read_text().rpartition(")")[2].split()[0] == "S"
        _, waited, times = map(int, (each / "schedstat").read_text().split())
        found[int(each.name)] = Thread(Account(waited, times), idle)
    return found


def has_had(now: Process, before: Process, times: int) -> bool:
    """Whether each thread that wants a CPU was given one so many times: its wait of before is over."""
    return all(
        thread.idle or thread.account.times >= before[each].account.times + times
        for each, thread in now.items()
        if each in before
    )


def since(before: list[Process], now: list[Process], which: set[int]) -> Account:
    """What has been added of these, together."""
    pairs = [
        (thread.account, before[each][thread_id].account if thread_id in before[each] else Account(0, 0))
        for each in which
        for thread_id, thread in now[each].items()
    ]
    return Account(
        sum(after.waited - earlier.waited for after, earlier in pairs),
        sum(after.times - earlier.times for after, earlier in pairs),
    )


@pytest.mark.parametrize("processes", [1, 50])
@pytest.mark.parametrize("tool", ["runqlat", "pauses"])
def test_waits_are_those_that_the_kernel_counts(space: Namespace | None, processes: int, tool: str) -> None:
    """Two bounds: what the kernel counted while all tools were surely at work, and from before to after."""
    more = ("--longer", "0.001") if tool == "pauses" else ()
    with busy(_WATCHED, processes, space) as first, busy("runq-second"):

        def looks() -> list[Process]:
            return [look(pid) for pid in first.pids]

        def all_given(times: int, since: list[Process]) -> bool:
            return all(has_had(now, before, times) for now, before in zip(looks(), since, strict=True))

        before = looks()
        with Filtered(tool, first, *more, comm=_WATCHED, everybody=False) as tools:
            began = looks()
            # A wait that goes on while the tool begins is the kernel's alone: it counts waits as they end.
            until(lambda: all_given(1, began), "they are given the core again")
            inside = looks()
            until(lambda: all_given(_TURNS[processes], inside), "they are given the core again and again")
            end = looks()
            found = [*tools.stop([{} for _ in first.pids])]
        after = looks()
    for lines, whom, _ in found:
        least, most = since(inside, end, {*whom}), since(before, after, {*whom})
        count, shortest, longest = (counted if tool == "runqlat" else paused)(lines)
        assert count <= most.times
        assert shortest <= most.waited / 1e3
        # Waits of less than a microsecond are no pauses.
        untold = most.times - count if tool == "pauses" else 0
        assert least.waited / 1e3 <= longest + untold
        assert tool == "pauses" or least.times <= count
        pids = {line["pid"] for line in lines if line["type"] == "event"}
        assert pids == ({first.pids[each] for each in whom} if tool == "pauses" else set())


def counted(lines: list[Line]) -> tuple[int, int, int]:
    """How many waits the histogram holds, and the least and the most us that they can have taken together."""
    (histogram,) = (line for line in lines if line["type"] == "histogram")
    buckets = histogram["buckets"]
    return (
        sum(count for _, _, count in buckets),
        sum(low * count for low, _, count in buckets),
        sum(high * count for _, high, count in buckets),
    )


def paused(lines: list[Line]) -> tuple[int, int, int]:
    """The same of pauses; the kernel and the tool look at the clock some hundred ns apart.

    Of a virtual machine the host may take the processor just then: a thousandth of all, and a millisecond
    once, is allowed for that.
    """
    waits = [line["waited_ms"] * 1e3 for line in lines if line["type"] == "event"]
    apart = len(waits) + sum(waits) / 1000 + 1000
    return len(waits), int(sum(waits) - apart), int(sum(waits) + apart) + 1


def test_pauses_names_who_had_the_cpu() -> None:
    with (
        busy("pause-victim") as victims,
        busy("pause-culprit") as culprits,
        Observed("pauses", "--pid", str(victims.pids[0]), "--longer", "1") as tool,
    ):
        (victim,), (culprit,) = victims.pids, culprits.pids
        name = f"pause-culprit[{culprit}]"
        pause = tool.until(lambda line: name in line.get("ran", "") and "more" not in line["ran"])
        lines = tool.stop()
    assert (pause["pid"], pause["comm"], pause["cpu"]) == (victim, "pause-victim", _CORE)
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
    with (
        busy("pause-victim") as victims,
        busy("pause-culprit"),
        Observed("pauses", "--pid", str(victims.pids[0]), "--longer", "100000", "--duration", "0.5") as tool,
    ):
        tool.until(lambda line: line["type"] == "end")
    assert [line for line in tool.lines if line["type"] == "event"] == []
