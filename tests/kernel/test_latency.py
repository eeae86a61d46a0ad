"""Latency seen from inside the kernel: what lands in which bucket, what does not, and that off is off."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.packets import EVENT, PUBLISHER, RAW, datagram, event, raw
from support.privileges import require_kernel, require_netns
from support.program import ADDRESSES, GATE, PORT, Rig, hops, plan

from tempos import Framing, LocalError, Reason
from tempos._abi import LATENCY_BEYOND, LATENCY_BUCKETS
from tempos.histogram import Histogram, Latency, bounds
from tempos.wire import encode_event
from tempos_bench.nodes.topology import build
from tempos_bpf.errors import ProgramRefused
from tempos_bpf.objects import BpfObject
from tempos_fastpath import clone, loading
from tempos_fastpath.layout import TAI_OFFSET_AT, decode_latency, encode_settings
from tempos_fastpath.loading import OBJECT, PROGRAM, TIMED
from tempos_fastpath.pulse import tai_offset
from tempos_fastpath.starting import start
from tempos_fastpath.structs import lib
from tempos_fastpath.survival.pins import LATENCY

pytestmark = pytest.mark.kernel

SECOND = 10**9


class TimedRig(Rig):
    """The measuring program, and what it has measured."""

    def clear(self) -> None:
        super().clear()
        rows = self.map(LATENCY)
        for topic in (RAW.id, EVENT.id):
            rows.clear_per_cpu(topic)
        self.set_tai_offset(tai_offset())

    def set_tai_offset(self, offset: int) -> None:
        with closing(self.map("pulse").mmap()) as pulse:
            pulse.store(TAI_OFFSET_AT, offset)

    def measured(self, topic: int) -> Latency:
        return decode_latency(self.map(LATENCY).lookup_per_cpu(topic) or ())


@pytest.fixture(scope="module", params=["native", "generic"])
def timed_rig(request: pytest.FixtureRequest) -> Iterator[TimedRig]:
    require_kernel()
    rig = TimedRig(generic=request.param == "generic", timed=True)
    yield rig
    rig.close()


@pytest.fixture
def timed(timed_rig: TimedRig) -> TimedRig:
    """With a route for a topic of each framing, and nothing measured yet."""
    timed_rig.clear()
    timed_rig.install(plan(EVENT.id, hops(3), framing=Framing.EVENT))
    timed_rig.install(plan(RAW.id, hops(2), framing=Framing.RAW))
    return timed_rig


def sent_at(wall_ns: int) -> bytes:
    return bytes(datagram(ADDRESSES, encode_event(EVENT.id, PUBLISHER, 5, wall_ns, b"body")))


def only_bucket(histogram: Histogram) -> tuple[int, int]:
    """Of one event: the bounds of where it is."""
    ((low, above, count),) = histogram.filled()
    assert count == 1
    return low, above


def test_c_and_python_agree_on_every_bucket() -> None:
    for index in range(LATENCY_BUCKETS):
        low, above = bounds(index)
        assert lib.tempos_bucket_of(low) == lib.tempos_bucket_of(above - 1) == index
    assert bounds(LATENCY_BUCKETS - 1)[1] == LATENCY_BEYOND


@pytest.mark.parametrize("age", [0, *(1 << power for power in range(10, 34, 3)), 16 * SECOND])
def test_the_time_since_it_was_sent_lands_in_its_bucket(timed: TimedRig, age: int) -> None:
    before = time.time_ns()
    frame = sent_at(before - age)
    assert timed.run(frame).reason is Reason.FORWARDED
    after = time.time_ns()
    since_sent = timed.measured(EVENT.id).since_sent
    assert age <= since_sent.longest <= after - before + age
    low, above = only_bucket(since_sent)
    assert low <= since_sent.longest < above
    assert (since_sent.count, since_sent.ahead, since_sent.beyond) == (1, 0, 0)


def test_send_times_that_cannot_be_are_counted_apart(timed: TimedRig) -> None:
    now = time.time_ns()
    for wrong in (now + SECOND, now + 3600 * SECOND, (1 << 64) - 1):
        timed.run(sent_at(wrong))
    for wrong in (0, 1, now - LATENCY_BEYOND, now - 3600 * SECOND):
        timed.run(sent_at(wrong))
    measured = timed.measured(EVENT.id)
    assert (measured.since_sent.ahead, measured.since_sent.beyond) == (3, 4)
    assert (measured.since_sent.measured, measured.since_sent.longest) == (0, 0)
    assert (measured.program.measured, measured.program.count) == (7, 7), "that is known all the same"


def test_leap_seconds_are_taken_out(timed: TimedRig) -> None:
    """As on a machine that was told of 37 more than this one was."""
    timed.set_tai_offset(tai_offset() + 37 * SECOND)
    timed.run(sent_at(time.time_ns() - 38 * SECOND))
    assert SECOND <= timed.measured(EVENT.id).since_sent.longest < 2 * SECOND
    assert tai_offset() % SECOND == 0


def test_each_event_that_is_forwarded_is_measured_once_and_no_other(timed: TimedRig) -> None:
    now = time.time_ns()
    events, raws = 500, 300
    timed.program.run_each([sent_at(now - SECOND)] * events)
    timed.program.run_each([bytes(datagram(ADDRESSES, raw()))] * raws)
    for passed in (event(version=3), event()[:10]):
        timed.run(bytes(datagram(ADDRESSES, passed)))
    timed.run(bytes(datagram(ADDRESSES, raw(), ttl=1)))
    assert timed.counters()[EVENT.id, Reason.FORWARDED] == events
    measured = timed.measured(EVENT.id)
    assert (measured.program.measured, measured.since_sent.measured) == (events, events)
    assert 0 < measured.program.longest < SECOND
    assert all(low >= 7 * SECOND / 8 for low, _, _ in measured.since_sent.filled())
    measured = timed.measured(RAW.id)
    assert (measured.program.measured, measured.since_sent.count) == (raws, 0), "raw datagrams carry no time"


def test_what_cannot_be_redirected_is_not_measured(timed: TimedRig) -> None:
    timed.install(plan(RAW.id, hops(1), framing=Framing.RAW), slot=5)
    assert timed.run(bytes(datagram(ADDRESSES, raw()))).reason is Reason.NO_EGRESS
    assert timed.measured(RAW.id).program.count == 0


@pytest.mark.parametrize(
    ("path", "plain", "measuring"),
    [(OBJECT, PROGRAM, TIMED), (clone.OBJECT, clone.PROGRAM, clone.TIMED)],
    ids=["xdp", "tc"],
)
def test_switched_off_nothing_of_it_is_loaded(path: Path, plain: str, measuring: str) -> None:
    require_kernel()
    settings = {"settings": encode_settings(PORT, [ADDRESSES.broker], GATE, generic=False)}
    # A program that refers to a map that is left out would not load.
    with (
        BpfObject(path, settings, without=[LATENCY]) as off,
        BpfObject(path, settings, also=[measuring]) as on,
    ):
        assert off.program(plain).info().verified_insns == on.program(plain).info().verified_insns
        assert off.program(plain).info().jited_bytes == on.program(plain).info().jited_bytes
        with pytest.raises(LocalError, match="no program"):
            off.program(measuring)
        with pytest.raises(LocalError, match="no map"):
            off.map(LATENCY)


@pytest.mark.netns
def test_where_the_kernel_refuses_it_events_are_forwarded_all_the_same_and_the_status_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_kernel()
    require_netns()

    def older(
        path: Path, rodata: object, share: object, *, also: Sequence[str] = (), **more: Any
    ) -> BpfObject:
        """A kernel without the clock that send times are compared with."""
        if also:
            log = "unknown func bpf_ktime_get_tai_ns#208\nprocessed 0 insns\n"
            raise ProgramRefused("tempos_timed", path.name, errno.EINVAL, "", log)
        return BpfObject(path, rodata, share, **more)

    async def scenario() -> None:
        offload = await start(
            listen=["0.0.0.0"], port=PORT, mode="native", interfaces=(), pin=False, latency=True
        )
        try:
            status = offload.status()
            assert status.mode == "native"
            said = "; latency is not measured: the kernel's verifier refused the program tempos_timed"
            assert said in status.reason
            assert status.reason.endswith("of fastpath.bpf.o: unknown func bpf_ktime_get_tai_ns#208")
            assert offload.latency([RAW.id]) == {}
        finally:
            await offload.close()

    monkeypatch.setattr(loading, "BpfObject", older)
    with build("straight") as topology:
        topology.broker.call(lambda: asyncio.run(scenario()))
