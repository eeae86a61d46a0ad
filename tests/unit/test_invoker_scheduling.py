"""How a worker is scheduled: what is told is what the kernel gave, and real time has a budget."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import functions
from support.workers import WorkerProcess

from tempos_invoker.worker import scheduling

FIRST = min(os.sched_getaffinity(0))


def may_have_real_time() -> bool:
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, before, os.sched_param(0))
    return True


needs_real_time = pytest.mark.skipif(not may_have_real_time(), reason="SCHED_FIFO is refused here")


@needs_real_time
@pytest.mark.parametrize(("wished", "got"), [(None, 0.8), (0.5, 0.5), (0, 0.0)])
def test_strict_quality_has_real_time_with_a_budget(tmp_path: Path, wished: float | None, got: float) -> None:
    library = functions.library(tmp_path, "hostile")
    wishes = {"fifo": 3, "cpus": [FIRST]} | ({} if wished is None else {"budget": wished})
    with WorkerProcess(mode="dlf", code=str(library), scheduling=wishes) as worker:
        told = worker.hello["scheduling"]
        assert (told["policy"], told["priority"], told["cpus"]) == ("fifo", 3, [FIRST])
        assert (told["budget"], told["reason"]) == (got, "")
        assert worker.ask(b"echo").output == b"echo"


@needs_real_time
def test_a_program_has_the_real_time_of_its_worker() -> None:
    with WorkerProcess(
        mode="spawn", args=["/bin/cat", "/proc/self/stat"], scheduling={"fifo": 3, "cpus": [FIRST]}
    ) as worker:
        behind = worker.ask(b"").output.rpartition(b")")[2].split()
        # Fields 40 and 41 of proc(5), of which the first two are before the bracket.
        assert (int(behind[40 - 3]), int(behind[41 - 3])) == (3, os.SCHED_FIFO)


def test_what_is_refused_is_told_and_keeps_nothing_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    got = scheduling.apply({"fifo": 3, "cpus": [FIRST]})
    assert (got["policy"], got["budget"]) == ("other", 0.0)
    assert f"CPUs {FIRST} cannot be had" in got["reason"]
    assert "SCHED_FIFO 3 was refused (Operation not permitted); needs CAP_SYS_NICE" in got["reason"]


def test_a_budget_makes_a_thread_sleep_whatever_it_does() -> None:
    """In a process of its own, for a budget is for good.

    Who has used up its budget is found at the ticks that it runs at, which it has to itself under real time
    alone: beside others it may get more until then. Whenever it is found, its window is slept to the end.
    """
    code = (
        "import json, time\n"
        "from tempos_invoker.worker.native import compiled\n"
        "lib = compiled()[1]\n"
        "assert lib.tempos_budget_start(0, 10) == lib.tempos_budget_start(20, 10) == -22\n"
        "assert lib.tempos_budget_start(10_000_000, 100_000_000) == 0\n"
        "wall, cpu = time.monotonic(), time.thread_time()\n"
        "while lib.tempos_budget_held() < 3 and time.thread_time() < cpu + 5: pass\n"
        "busy = (time.monotonic() - wall, lib.tempos_budget_held())\n"
        # Below the budget nothing happens, however long it goes on.
        "cpu = time.thread_time()\n"
        "for _ in range(20):\n"
        "    until = time.thread_time() + 0.0003\n"
        "    while time.thread_time() < until: pass\n"
        "    time.sleep(0.015)\n"
        "print(json.dumps([busy, (time.thread_time() - cpu, lib.tempos_budget_held() - busy[1])]))"
    )
    (wall, held), (later_booked, later) = json.loads(functions.python(code))
    # Each time to the end of a window of 0.1 s, of which the first began a moment before.
    assert held == 3
    assert wall > 0.29
    assert later <= later_booked / 0.01 + 1, "what was used before may count in the first window"
