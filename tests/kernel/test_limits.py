"""A topic's rate in the XDP program: exact to the datagram, from the bucket that the slow path takes from."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.packets import EVENT, RAW, datagram, event, partial, raw
from support.program import ADDRESSES, Rig, hops, plan

from tempos import Framing, Overflow, Reason, Topic
from tempos._abi import LIMIT_SHIFT
from tempos._rows import Rows
from tempos_bench.nodes.patience import patience
from tempos_bpf.objects import Verdict
from tempos_fastpath.layout import TOPIC_SIZE
from tempos_fastpath.structs import ffi
from tempos_fastpath.topics import SharedTopics

pytestmark = pytest.mark.kernel

SECOND = 10**9
DUE = ffi.offsetof("struct tempos_topic", "due")
FRAME = bytes(datagram(ADDRESSES, raw()))
LIMITED = replace(RAW, rate=1, burst=5)


class Memory:
    """The shared entries by hand."""

    def __init__(self, rig: Rig) -> None:
        self.array = rig.map("topics").mmap()

    @property
    def due(self) -> int:
        return self.array.load(RAW.id * TOPIC_SIZE + DUE)

    def set_ahead(self, seconds: float) -> None:
        """The next datagram is due so long from now; before the machine was started the clock is below 0."""
        due = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + round(seconds * SECOND)
        self.array.store(RAW.id * TOPIC_SIZE + DUE, due << LIMIT_SHIFT & 2**64 - 1)


def prepare(rig: Rig, topic: Topic) -> Memory:
    rig.topics.configure([topic, EVENT])
    rig.install(replace(plan(topic.id, hops(3), framing=Framing.RAW), limited=topic.rate > 0))
    memory = Memory(rig)
    memory.array.store(RAW.id * TOPIC_SIZE + DUE, 0)
    return memory


@pytest.mark.parametrize("burst", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("overflow", "reason", "verdict"),
    [
        (Overflow.DROP, Reason.OVER_RATE, Verdict.DROP),
        (Overflow.PASS, Reason.OVER_RATE_PASSED, Verdict.PASS),
    ],
)
def test_a_burst_is_exact_and_the_rest_goes_by_policy(
    rig: Rig, burst: int, overflow: Overflow, reason: Reason, verdict: Verdict
) -> None:
    prepare(rig, replace(LIMITED, burst=burst, overflow=overflow))
    verdicts = rig.program.run_each([FRAME] * (burst + 3))
    assert verdicts == [Verdict.REDIRECT] * burst + [verdict] * 3
    assert rig.counters() == {(RAW.id, Reason.FORWARDED): burst, (RAW.id, reason): 3}
    assert rig.tickets.read(RAW.id, 1, 0) == burst, "what is refused draws no ticket"
    assert rig.program.run(FRAME).data == FRAME, "and is not rewritten"


def test_topics_without_a_rate_do_not_touch_their_bucket(rig: Rig) -> None:
    memory = prepare(rig, RAW)
    assert set(rig.program.run_each([FRAME] * 500)) == {Verdict.REDIRECT}
    assert memory.due == 0


def test_a_rate_that_is_lifted_holds_nobody_though_the_route_still_says_limited(rig: Rig) -> None:
    prepare(rig, LIMITED)
    rig.program.run_each([FRAME] * 5)
    assert rig.run(FRAME).reason is Reason.OVER_RATE
    rig.topics.configure([RAW])
    assert set(rig.program.run_each([FRAME] * 50)) == {Verdict.REDIRECT}


@pytest.mark.parametrize(
    ("ahead_s", "granted"),
    [
        (-3600, 5), (-0.5, 5), (0.5, 4), (2.5, 2), (3.5, 1), (4.5, 0), (5.5, 0),
        # More than a bucket ever holds, by more than clocks differ: left by another limit or another boot.
        (7, 5), (1000, 5), (100 * 86400, 5),
    ],
)  # fmt: skip
def test_a_bucket_is_as_full_as_its_time_says(rig: Rig, ahead_s: float, granted: int) -> None:
    memory = prepare(rig, LIMITED)
    memory.set_ahead(ahead_s)
    verdicts = rig.program.run_each([FRAME] * 8)
    assert verdicts == [Verdict.REDIRECT] * granted + [Verdict.DROP] * (8 - granted)


def test_a_place_comes_free_when_it_is_due_and_not_before(rig: Rig) -> None:
    memory = prepare(rig, replace(LIMITED, rate=200, burst=1))
    for _ in range(20):
        while time.monotonic_ns() << LIMIT_SHIFT < memory.due:
            pass
        assert rig.program.run(FRAME).verdict == Verdict.REDIRECT
        due = memory.due
        verdict = rig.program.run(FRAME).verdict
        assert verdict == Verdict.DROP or time.monotonic_ns() << LIMIT_SHIFT >= due


def test_what_passes_for_another_reason_takes_no_place(rig: Rig) -> None:
    """The slow path, which decides about it, asks the same bucket: once is enough."""
    memory = prepare(rig, LIMITED)
    unfit = {
        Reason.TTL: bytes(datagram(ADDRESSES, raw(), ttl=1)),
        Reason.BAD_LENGTH: bytes(datagram(ADDRESSES, raw(), udp={"len": 60, "chksum": 0})),
        Reason.TOO_BIG: bytes(datagram(ADDRESSES, raw(bytes(1500)))),
    }
    for reason, frame in unfit.items():
        assert rig.run(frame).reason is reason
    assert memory.due == 0
    assert rig.run(partial(FRAME)).reason is Reason.FORWARDED
    assert memory.due != 0


def test_another_limit_begins_full_and_the_same_one_goes_on(rig: Rig) -> None:
    prepare(rig, LIMITED)
    assert rig.program.run_each([FRAME] * 9).count(Verdict.REDIRECT) == 5
    rig.topics.configure([replace(LIMITED, priority=7)])
    assert rig.run(FRAME).reason is Reason.OVER_RATE
    rig.topics.configure([replace(LIMITED, burst=3)])
    assert rig.program.run_each([FRAME] * 9).count(Verdict.REDIRECT) == 3
    # So it goes on for a process that finds the bucket left by another.
    later = SharedTopics(rig.map("topics").mmap(), Rows())
    later.configure([replace(LIMITED, burst=3)])
    assert later.take(RAW.id, 9) == 0
    later.close()


def test_both_paths_take_from_one_bucket(rig: Rig) -> None:
    prepare(rig, replace(LIMITED, burst=10))
    assert rig.program.run_each([FRAME] * 4) == [Verdict.REDIRECT] * 4
    assert rig.topics.take(RAW.id, 3) == 3
    assert rig.program.run_each([FRAME] * 2) == [Verdict.REDIRECT] * 2
    assert rig.topics.take(RAW.id, 9) == 1
    assert rig.topics.take(RAW.id, 9) == 0
    assert rig.run(FRAME).reason is Reason.OVER_RATE
    assert rig.topics.take(EVENT.id, 9) == 9


def test_the_excess_that_passes_is_not_limited_a_second_time(rig: Rig) -> None:
    prepare(rig, replace(LIMITED, overflow=Overflow.PASS))
    assert rig.program.run_each([FRAME] * 6)[-1] == Verdict.PASS
    assert rig.topics.take(RAW.id, 1000) == 1000


def _take_all(take: Callable[[], int], start: Callable[[], object]) -> int:
    """What one taker gets: once before all begin, then until nothing comes for a while."""
    got = take()
    start()
    misses = 0
    while misses < 1000:
        granted = take()
        got += granted
        misses = 0 if granted else misses + 1
    return got


def test_nothing_is_taken_twice_by_threads_processes_and_the_kernel(rig: Rig) -> None:
    """Every grant moves the bucket on by one interval, so its time tells exactly how many there were.

    The burst lasts longer than the test, so the bucket is never idle after the first grant.
    """
    burst = 100_000
    memory = prepare(rig, replace(LIMITED, burst=burst))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(5), context.SimpleQueue()
    frames = [FRAME] * 50

    def path() -> int:
        return rig.program.run_each(frames).count(Verdict.REDIRECT)

    def user() -> int:
        return rig.topics.take(RAW.id, 3)

    def apart(take: Callable[[], int]) -> None:
        results.put((take is path, _take_all(take, barrier.wait)))

    began = time.monotonic_ns()
    others = [context.Process(target=apart, args=(take,)) for take in (path, user, user)]
    for each in others:
        each.start()
    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(_take_all, user, barrier.wait) for _ in range(2)]
        shares = [each.result(timeout=patience(60)) for each in threads]
    told = [results.get() for _ in others]
    for each in others:
        each.join(60)
        assert each.exitcode == 0
    ended = time.monotonic_ns()
    shares += [share for _, share in told]
    total = sum(shares)
    first = memory.due - total * (SECOND << LIMIT_SHIFT)
    assert began << LIMIT_SHIFT <= first <= ended << LIMIT_SHIFT, shares
    assert burst <= total <= burst + (ended - began) // SECOND + 1
    (forwarded,) = [share for by_kernel, share in told if by_kernel]
    assert 0 < forwarded == rig.counters()[RAW.id, Reason.FORWARDED] == rig.tickets.read(RAW.id, 1, 0)


def test_a_frame_leaves_with_the_mark_of_its_class_whatever_it_came_with(rig: Rig) -> None:
    """DSCP of the class, ECN cleared, the IPv4 checksum right: for every byte that can come."""
    for tos in (0, 0xB8, 0xFC):
        rig.install(replace(plan(EVENT.id, hops(1), framing=Framing.EVENT), tos=tos))
        frames = [bytes(datagram(ADDRESSES, event(), tos=came)) for came in range(256)]
        for frame in frames:
            out = rig.program.run(frame).data
            assert out[15] == tos
            words = [int.from_bytes(out[at : at + 2], "big") for at in range(14, 34, 2)]
            assert sum(words) % 0xFFFF == 0, "one's complement sum of all words"
