"""Typed façade over the C loops that send and receive prepared frames. Times are seconds, or ns by name."""

from __future__ import annotations

import errno
import socket
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tempos import wire
from tempos_bench.compiled.helper import check, helper
from tempos_bench.peers.talk import PeerRefused, Step, Talk

_NS = 1_000_000_000
_native = partial(helper, "stream")
#: Payload of a datagram that fits into an Ethernet frame; what a GSO buffer may hold of them.
_DATAGRAM, _GSO, _SEGMENTS = 1500 - wire.IP_UDP_OVERHEAD, 65000, 64
#: Bytes handed to a stream at once: as a client library that gathers what is due would.
_CHUNK = 65536
_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Sent:
    """``sent`` events between two CLOCK_REALTIME times; ``latest``: the most that one left late, seconds."""

    sent: int
    began_ns: int
    ended_ns: int
    latest: float


@dataclass(frozen=True, slots=True)
class Got:
    """What arrived of one run, each event once; ``latency_ns`` of the first ones, in order of arrival."""

    received: int
    repeated: int
    damaged: int
    stale: int
    first_ns: int
    last_ns: int
    by_member: tuple[int, ...]
    latency_ns: array[int]


def converse(address: str, port: int, steps: Sequence[Step]) -> socket.socket:
    """A TCP connection on which the handshake is done; raises :class:`PeerRefused` and :class:`OSError`."""
    sock = socket.create_connection((address, port), timeout=_LIMIT)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for step in steps:
            sock.sendall(step.send)
            data = b""
            # A byte at a time: what the server says after the handshake is for the loops in C.
            while not step.answered(data):
                more = sock.recv(1)
                if not more:
                    raise PeerRefused(f"{address}:{port} hung up after {data[:200]!r}")
                data += more
    except BaseException:
        sock.close()
        raise
    sock.setblocking(True)
    return sock


def send(
    sock: socket.socket,
    talk: Talk,
    run: int,
    *,
    count: int,
    begin_ns: int = 0,
    interval: float = 0.0,
    limit: float = 0.0,
    window: int = 0,
    full: bool = False,
    gso: bool = True,
) -> Sent:
    """Send ``count`` events, or as many as can be in ``limit`` seconds; each ``interval`` one, 0: no pause.

    ``full``: a batch leaves when it is full also where there is a schedule, not an event at a time.
    ``gso``: datagrams leave as buffers that the kernel cuts.
    """
    ffi, lib = _native()
    keep: list[Any] = []
    plan = ffi.new("struct tempos_send_plan *")
    _fill_send(ffi, plan, talk, run, keep, paced=interval > 0 and not full)
    plan.gso = gso and talk.datagrams and plan.units > 1
    plan.count = count - count % plan.events
    plan.begin_ns, plan.interval_ns, plan.limit_ns = begin_ns, int(interval * _NS), int(limit * _NS)
    plan.window = window
    result = ffi.new("struct tempos_send_result *")
    _check(ffi, lib.tempos_stream_send(sock.fileno(), plan, result), result)
    return Sent(result.sent, result.began_ns, result.ended_ns, result.latest_ns / _NS)


def receive(
    socks: Sequence[socket.socket],
    talk: Talk,
    run: int,
    *,
    end_fd: int,
    idle: float,
    expect: int,
    room: int = 0,
    echo: tuple[socket.socket, Talk] | None = None,
) -> Got:
    """Take events until ``end_fd`` is readable and then nothing comes for ``idle`` seconds.

    ``expect``: sequences below this are known; ``room``: events whose latency is kept; ``echo``: where
    every body is published again.
    """
    ffi, lib = _native()
    keep: list[Any] = []
    plan, latency = _receive_plan(ffi, talk, run, keep, expect=expect, room=room)
    plan.end_fd, plan.idle_ns = end_fd, int(idle * _NS)
    if echo is not None:
        back = ffi.new("struct tempos_send_plan *")
        _fill_send(ffi, back, echo[1], run, keep, paced=True)
        plan.echo_fd, plan.echo = echo[0].fileno(), back
    result = ffi.new("struct tempos_receive_result *")
    fds = [sock.fileno() for sock in socks]
    _check(ffi, lib.tempos_stream_receive(fds, len(fds), plan, result), result)
    return _got(ffi, result, latency, room, len(fds))


def ping(
    out: socket.socket, back: socket.socket, there: Talk, here: Talk, run: int, *, count: int,
    timeout: float, window: int,
) -> list[int]:  # fmt: skip
    """Round trips in nanoseconds, one event on its way at a time; one that does not come ends it."""
    ffi, lib = _native()
    keep: list[Any] = []
    plan = ffi.new("struct tempos_send_plan *")
    _fill_send(ffi, plan, there, run, keep, paced=True)
    plan.count, plan.window = count, window
    receive_plan, _ = _receive_plan(ffi, here, run, keep, expect=count, room=0)
    samples, answered = ffi.new("uint32_t[]", count), ffi.new("uint64_t *")
    result = ffi.new("struct tempos_receive_result *")
    code = lib.tempos_stream_ping(
        out.fileno(), back.fileno(), plan, receive_plan, int(timeout * _NS), samples, answered, result
    )
    _check(ffi, code, result)
    return list(samples[0 : answered[0]])


def fitting(talk: Talk, paced: bool) -> tuple[int, int]:
    """Events in a unit, and units in what is handed over at once."""
    frame = len(talk.head) + talk.body + len(talk.tail)
    if not talk.datagrams:
        return 1, max(_CHUNK // frame, 1)
    events = 1 if paced or not talk.head else max((_DATAGRAM - wire.HEADER_LEN) // frame, 1)
    unit = wire.HEADER_LEN + events * frame
    return events, 1 if paced else min(_GSO // unit, _SEGMENTS)


def _fill_send(ffi: Any, plan: Any, talk: Talk, run: int, keep: list[Any], *, paced: bool) -> None:
    _fill_talk(ffi, plan.talk, talk, run, keep)
    plan.events, plan.units = fitting(talk, paced)
    if paced and not talk.datagrams:
        # What has become due while the sender was held up leaves in one call.
        plan.units = min(plan.units, 64)


def _receive_plan(
    ffi: Any, talk: Talk, run: int, keep: list[Any], *, expect: int, room: int
) -> tuple[Any, Any]:
    plan = ffi.new("struct tempos_receive_plan *")
    _fill_talk(ffi, plan.talk, talk, run, keep)
    seen, latency = ffi.new("uint8_t[]", expect // 8 + 1), ffi.new("uint32_t[]", max(room, 1))
    keep += [seen, latency]
    plan.seen, plan.seen_bits, plan.latency_ns, plan.room = seen, expect, latency, room
    plan.echo_fd, plan.end_fd = -1, -1
    return plan, latency


def _fill_talk(ffi: Any, to: Any, talk: Talk, run: int, keep: list[Any]) -> None:
    def bytes_of(data: bytes) -> Any:
        keep.append(ffi.new("uint8_t[]", data or b"\0"))
        return keep[-1]

    frame = to.frame
    frame.head, frame.head_len = bytes_of(talk.head), len(talk.head)
    frame.tail, frame.tail_len = bytes_of(talk.tail), len(talk.tail)
    frame.id_at, frame.body_len = talk.id_at, talk.body
    for aside, known in zip(to.asides, talk.asides, strict=False):
        aside.head, aside.head_len, aside.len = bytes_of(known.head), len(known.head), known.length
        aside.answer, aside.answer_len = bytes_of(known.answer), len(known.answer)
        aside.acknowledges = known.acknowledges
    to.count, to.run, to.publisher = len(talk.asides), run, 1
    to.topic, to.datagrams = talk.topic, talk.datagrams
    to.receipt, to.receipt_len = bytes_of(talk.receipt), len(talk.receipt)
    to.receipt_id_at = talk.receipt_id_at


def _got(ffi: Any, result: Any, latency: Any, room: int, members: int) -> Got:
    samples: array[int] = array("I")
    samples.frombytes(ffi.buffer(latency, min(result.received, room) * 4))
    return Got(
        received=result.received,
        repeated=result.repeated,
        damaged=result.damaged,
        stale=result.stale,
        first_ns=result.first_ns,
        last_ns=result.last_ns,
        by_member=tuple(result.by_member[0:members]),
        latency_ns=samples,
    )


def _check(ffi: Any, code: int, result: Any) -> None:
    if code == -errno.EPROTO:
        raise PeerRefused(f"what came is no frame: {bytes(ffi.buffer(result.foreign, result.foreign_len))!r}")
    check(code)
