"""Typed façade over the C loops that send by a schedule and record how long events take.

The programs `pace` and `gather` of this package are thin commands around it. An event's send time is its
schedule's, in CLOCK_REALTIME; it is late where its sender was held up, and by how much is recorded apart
(:attr:`Trace.late`). It arrives when the receiving node's kernel has it (SO_TIMESTAMPNS); how long it
then waited for the receiving program is recorded apart as well (:attr:`Trace.taken`).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tempos import wire
from tempos_bench.compiled.helper import check, helper

#: The smallest event that can be measured: the header, and how late it was sent.
LEAST_SIZE = wire.HEADER_LEN + 4

_NS = 1_000_000_000
_native = partial(helper, "latency")
_SO_ATTACH_FILTER = 26
#: Where a classic BPF program on a UDP socket finds the topic and the sequence of an event: behind the
#: UDP header.
_TOPIC_AT, _SEQUENCE_AT = 8, 16
_LD_WORD, _LD_BYTE, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x30, 0x94, 0x15, 0x06


@dataclass(frozen=True, slots=True)
class Lane:
    """One topic of a publisher: ``count`` events, one each ``interval`` seconds from ``phase`` seconds on."""

    topic: int
    interval: float
    count: int
    publisher: int
    phase: float = 0.0


@dataclass(frozen=True, slots=True)
class Paced:
    """What a lane sent. ``slipped``: turns that passed because the sender was too far behind.

    ``late`` and ``latest``: how far behind its schedule an event left, in the mean and at the most, seconds.
    """

    topic: int
    sent: int
    slipped: int
    late: float
    latest: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What came of one topic of one publisher, in the order of arrival; times in nanoseconds.

    ``transit``: from the schedule to the arrival; ``late``: what of it passed before the event was sent;
    ``taken``: from the arrival until the program had it; ``arrived``: when it came, from the first one on,
    microseconds; ``sequence``: which event it was. ``ahead``: events stamped before their send time,
    whose transit is kept as 0. ``first_ns`` and ``last_ns``: the first and last arrival, CLOCK_REALTIME.
    """

    topic: int
    received: int
    repeated: int
    reordered: int
    ahead: int
    first_ns: int
    last_ns: int
    transit: array[int]
    late: array[int]
    taken: array[int]
    arrived: array[int]
    sequence: array[int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose events to record: sequences below ``expect``, times of the first ``room`` of them."""

    topic: int
    publisher: int
    expect: int
    room: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """``foreign``: datagrams that belong to no trace; ``unstamped``: those the kernel did not stamp."""

    traces: tuple[Trace, ...]
    foreign: int
    unstamped: int
    calls: int


def pace(
    sock: socket.socket,
    lanes: Sequence[Lane],
    *,
    begin_ns: int,
    length: float,
    size: int,
    slip: float = 0.0,
    spin: float = 0.0,
    batch: int = 64,
    segments: int = 1,
) -> list[Paced]:
    """Send the lanes' events over a connected socket from ``begin_ns`` (CLOCK_REALTIME) on, for ``length`` s.

    A lane that is more than ``slip`` seconds behind goes on with what is due then (0: never, it catches
    up); the sender sleeps until ``spin`` seconds before an event and then looks at the clock. Raises
    :class:`OSError` for what the kernel refuses.
    """
    ffi, lib = _native()
    plan = ffi.new("struct tempos_pace_plan *")
    plan.wall_ns = begin_ns
    plan.begin_ns = begin_ns - (wall_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    plan.length_ns, plan.slip_ns, plan.spin_ns = int(length * _NS), int(slip * _NS), int(spin * _NS)
    plan.size, plan.batch, plan.segments = size, batch, segments
    native = ffi.new("struct tempos_lane[]", len(lanes))
    for to, lane in zip(native, lanes, strict=True):
        to.interval_ns, to.phase_ns = max(int(lane.interval * _NS), 1), int(lane.phase * _NS)
        to.count, to.publisher, to.topic = lane.count, lane.publisher, lane.topic
    result = ffi.new("struct tempos_pace_result *")
    check(lib.tempos_pace(sock.fileno(), plan, native, len(lanes), result))
    return [
        Paced(
            lane.topic,
            lane.sent,
            lane.slipped,
            lane.late_ns / lane.sent / _NS if lane.sent else 0.0,
            lane.latest_ns / _NS,
        )
        for lane in native
    ]


def gather(
    socks: Sequence[socket.socket],
    wanted: Sequence[Wanted],
    *,
    size: int,
    end_fd: int,
    idle: float,
    work: float = 0.0,
) -> Gathered:
    """Record what arrives until ``end_fd`` is readable and then nothing more comes for ``idle`` seconds.

    ``work``: seconds that the receiver is busy with each event, as an application would be.
    """
    ffi, lib = _native()
    plan = ffi.new("struct tempos_gather_plan *")
    plan.idle_ns, plan.work_ns = int(idle * _NS), int(work * _NS)
    plan.size, plan.end_fd = size, end_fd
    traces = ffi.new("struct tempos_trace[]", len(wanted))
    memory = []
    for trace, want in zip(traces, wanted, strict=True):
        columns = [ffi.new("uint32_t[]", want.room) for _ in range(5)]
        seen = ffi.new("uint8_t[]", want.expect // 8 + 1)
        memory += [*columns, seen]
        trace.transit_ns, trace.late_ns, trace.taken_ns, trace.arrived_us, trace.sequence = columns
        trace.topic, trace.publisher, trace.room = want.topic, want.publisher, want.room
        trace.seen, trace.seen_bits = seen, want.expect
    result = ffi.new("struct tempos_gather_result *")
    check(lib.tempos_gather([s.fileno() for s in socks], len(socks), plan, traces, len(wanted), result))

    def column(values: Any, count: int) -> array[int]:
        found = array("I")
        found.frombytes(ffi.buffer(values, count * 4))
        return found

    return Gathered(
        traces=tuple(
            Trace(
                trace.topic,
                trace.received,
                trace.repeated,
                trace.reordered,
                trace.ahead,
                trace.first_ns,
                trace.last_ns,
                *(
                    column(values, min(trace.received, trace.room))
                    for values in (
                        trace.transit_ns,
                        trace.late_ns,
                        trace.taken_ns,
                        trace.arrived_us,
                        trace.sequence,
                    )
                ),
            )
            for trace in traces
        ),
        foreign=result.foreign,
        unstamped=result.unstamped,
        calls=result.calls,
    )


def thin(sock: socket.socket, topic: int, keep_one_in: int) -> None:
    """Let the kernel drop, and count, all events of a topic at this socket but each nth by sequence.

    So a flood that costs the receiver next to nothing still shows its latency; how many were left out,
    :func:`tempos_bench.compiled.traffic.dropped` tells. 1 leaves out none.
    """
    # (code, jump if true, jump if false, constant); returned is how much of the packet is kept.
    steps = (
        (_LD_BYTE, 0, 0, _TOPIC_AT),
        (_IF_EQUAL, 0, 3, topic),
        (_LD_WORD, 0, 0, _SEQUENCE_AT),
        (_MODULO, 0, 0, keep_one_in),
        (_IF_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    # A packet of another topic must reach the line that keeps it, past the two that look at the sequence.
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def real_time(priority: int) -> str | None:
    """Ask for SCHED_FIFO with ``priority`` (0: leave it); why it was not given, or None."""
    if not priority:
        return None
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"no SCHED_FIFO: {error.strerror}"
    return None


def wall_ns() -> int:
    """The clock of send and arrival times."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


__all__ = [
    "LEAST_SIZE", "Gathered", "Lane", "Paced", "Trace", "Wanted",
    "gather", "pace", "real_time", "thin", "wall_ns",
]  # fmt: skip
