"""What surrounds a client library in a measurement: the schedule, the bodies, the account of what came."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tempos_bench.measure import samples
from tempos_bench.peers.clock import LoopTimer, sharp_timers, sleep_until
from tempos_bench.peers.library import BLOCK, Plan, Recorder
from tempos_bench.peers.talk import MARK, filler

SIZE = 32


def body(sequence: int, run: int = 1, size: int = SIZE, sent_ns: int = 0) -> bytes:
    return MARK.pack(sent_ns or time.monotonic_ns(), sequence, run) + filler(size)


def plan(**changes: Any) -> Plan:
    command = {"size": SIZE, "run": 1, "seconds": 0.01, "rate": 0.0, "begin_ns": 0, "full": False}
    return Plan(command | changes)


def test_the_account_tells_received_repeated_and_stale_apart() -> None:
    recorder = Recorder()
    recorder.record(body(0))
    recorder.begin()
    for each in (body(0), body(1), body(1), body(0, run=7)):
        recorder.record(each)
    assert recorder.count == 4
    found = recorder.account(1, SIZE, room=2)
    assert (found["received"], found["repeated"], found["stale"], found["damaged"]) == (2, 1, 1, 0)
    assert len(samples.unpack(found["latency"])) == 2


def test_a_body_of_another_length_damages_the_account() -> None:
    recorder = Recorder()
    for each in (body(0), body(1, size=SIZE + 1)):
        recorder.record(each)
    found = recorder.account(1, SIZE, room=2)
    assert (found["received"], found["damaged"]) == (0, 2)


def test_nothing_came() -> None:
    found = Recorder().account(1, SIZE, room=2)
    assert (found["received"], found["last_ns"], found["by_member"]) == (0, 0, [0])


def test_without_a_rate_blocks_go_out_until_the_time_is_over() -> None:
    flat = plan(seconds=0.02)
    flat.begin()
    blocks = []
    while block := list(flat.next_block()):
        blocks.append(block)
    assert {len(block) for block in blocks} == {BLOCK}
    assert flat.account()["sent"] == BLOCK * len(blocks) > 0
    assert [MARK.unpack_from(one)[1] for one in blocks[-1]] == list(range(flat.sent - BLOCK, flat.sent))


def test_with_a_rate_send_times_are_the_schedule_and_lateness_is_told() -> None:
    paced = plan(rate=1000.0, seconds=0.1, begin_ns=time.time_ns() - 50_500_000)
    paced.begin()
    due = list(paced.those_due())
    assert 51 <= len(due) <= 100
    times = [MARK.unpack_from(one)[0] - paced.account()["began_ns"] for one in due]
    assert times == [n * 1_000_000 for n in range(len(due))]
    assert paced.account()["latest"] >= 0.05


def test_full_batches_wait_until_all_of_them_is_due() -> None:
    paced = plan(rate=1000.0, seconds=1.0, full=True)
    paced.begin()
    assert paced.next_due_ns() - paced.began_ns == (BLOCK - 1) * 1_000_000


def test_timers_wait_until_it_is_time_and_not_when_it_has_passed() -> None:
    sharp_timers()
    when = time.monotonic_ns() + 5_000_000
    sleep_until(when)
    assert time.monotonic_ns() >= when
    sleep_until(0)

    async def wait() -> None:
        timer = LoopTimer()
        for _ in range(3):
            when = time.monotonic_ns() + 2_000_000
            await asyncio.wait_for(timer.until(when), 10)
            assert time.monotonic_ns() >= when
        await timer.until(0)
        timer.close()

    asyncio.run(wait())


def test_a_body_that_cannot_hold_its_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for the mark"):
        plan(size=8)
