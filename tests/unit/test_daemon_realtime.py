"""Real time for an event loop: what is got, what is given back in time, what is told of a refusal."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time

import pytest

from tempos_bench.nodes.patience import patience
from tempos_daemon.realtime import SHARE, WINDOW, RealTime


def _policy(pid: int = 0) -> int:
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK


@pytest.fixture
def real_time() -> RealTime:
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        pytest.skip(f"real time cannot be had here: {error}")
    os.sched_setscheduler(0, before[0], before[1])
    return RealTime(1)


async def test_a_flood_has_its_share_and_is_ordinary_for_the_rest_of_the_window(real_time: RealTime) -> None:
    real_time.begin()
    try:
        assert real_time.told() == {
            "policy": "fifo", "priority": 1, "budget": SHARE, "held": 0, "reason": "",
        }  # fmt: skip
        seen = set()
        end = time.monotonic() + patience(20)
        while not (real_time.held > 1 and _policy() == os.SCHED_FIFO):
            assert time.monotonic() < end, real_time.told()
            busy = time.thread_time() + WINDOW / 20
            while time.thread_time() < busy:
                pass
            seen.add(_policy())
            await asyncio.sleep(0)
        assert seen == {os.SCHED_FIFO, os.SCHED_OTHER}
        # Nothing that it starts has it.
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.append(_policy()))
        thread.start()
        thread.join()
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})  # noqa: ASYNC221 - it copies what it has
        got.append(_policy(pid))
        os.kill(pid, 9)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it was killed
        assert got == [os.SCHED_OTHER] * 2
    finally:
        real_time.end()
    assert real_time.told()["policy"] == "other"


async def test_a_refusal_is_told_and_the_daemon_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    real_time = RealTime(40)
    real_time.begin()
    told = real_time.told()
    assert (told["policy"], told["budget"]) == ("other", 0.0)
    assert told["reason"] == (
        "SCHED_FIFO 40 was refused (Operation not permitted); needs CAP_SYS_NICE or RLIMIT_RTPRIO"
    )
    real_time.end()


async def test_who_does_not_ask_for_it_pays_nothing() -> None:
    real_time = RealTime(0)
    real_time.begin()
    assert real_time.told()["policy"] == "other"
    assert real_time.told()["reason"] == ""
    real_time.end()
