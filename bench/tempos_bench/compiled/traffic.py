"""Typed façade over the C traffic loops: everything that sends, counts or answers test datagrams.

The programs `blast`, `sink`, `echo`, `ping` and `forward` of this package are thin commands around it.
Sizes are payload bytes, times are seconds unless the name says nanoseconds.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tempos import Framing
from tempos_bench.compiled.helper import check, helper

#: Asked of the kernel for every socket that counts: what we measure is not the receiver.
BUFFER = 128 * 1024 * 1024

_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8
_SO_ATTACH_FILTER = 26
_BPF_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
_NS = 1_000_000_000
_native = partial(helper, "traffic")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IPv4 address and a UDP port."""

    ip: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``IP:PORT``; a ValueError names what is wrong with it."""
        ip, _, port = text.partition(":")
        try:
            socket.inet_aton(ip)
            return cls(ip, int(port))
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not IP:PORT") from error

    @property
    def number(self) -> int:
        return int.from_bytes(socket.inet_aton(self.ip), "big")

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What to send: ``interval`` seconds from one to the next (0: no pause), ``segments`` > 1: UDP GSO.

    ``first``: the sequence of the first one.
    """

    topic: int
    count: int
    size: int = 32
    framing: Framing = Framing.EVENT
    interval: float = 0.0
    limit: float = 0.0
    segments: int = 1
    publisher: int = 1
    first: int = 0


@dataclass(frozen=True, slots=True)
class Blasted:
    """``refused``: calls that had to be repeated. Times are CLOCK_MONOTONIC nanoseconds."""

    sent: int
    refused: int
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Sunk:
    """What arrived. ``overrun``: dropped for want of socket buffer, ``bad_checksums``: by the whole node.

    ``by_port`` and ``by_topic`` have their keys as text, as JSON wants them.
    """

    received: int
    damaged: int
    repeated: int
    overrun: int
    bad_checksums: int
    first_ns: int
    last_ns: int
    by_port: dict[str, int]
    by_topic: dict[str, int]


@dataclass(frozen=True, slots=True)
class Events:
    """Test events of a topic as they must arrive: in this epoch (u8), so many, of ``size`` payload bytes."""

    topic: int
    epoch: int
    count: int
    size: int
    publisher: int = 1


@dataclass(frozen=True, slots=True)
class Audited:
    """What one member got. ``missing``: of its own share; the others are explained in traffic.cdef."""

    received: int
    missing: int
    damaged: int
    repeated: int
    redelivered: int


def open_socket(bind: Endpoint | None = None, connect: Endpoint | None = None) -> socket.socket:
    """A UDP socket with the largest buffers the kernel grants."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for forced, plain in ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF)):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
    if bind is not None:
        sock.bind((bind.ip, bind.port))
    if connect is not None:
        sock.connect((connect.ip, connect.port))
    return sock


def end_on_sigterm() -> None:
    """From now on SIGTERM ends a :func:`blast`, which gives back what it has sent."""
    _, lib = _native()
    check(lib.tempos_end_on_sigterm())


def blast(socks: socket.socket | Sequence[socket.socket], datagrams: Datagrams) -> Blasted:
    """Send over a connected socket, or over several that take turns."""
    ffi, lib = _native()
    result = ffi.new("struct tempos_blast_result *")
    fds = [sock.fileno() for sock in ([socks] if isinstance(socks, socket.socket) else socks)]
    check(lib.tempos_blast(fds, len(fds), _plan(ffi, datagrams), result))
    return Blasted(result.sent, result.refused, result.began_ns, result.ended_ns)


def sink(
    socks: Sequence[socket.socket], expected: int, size: int, framing: Framing, first: float, idle: float
) -> Sunk:
    """Count and check until ``expected`` came, or none for ``idle`` seconds (``first`` for the first)."""
    ffi, lib = _native()
    plan = ffi.new("struct tempos_sink_plan *")
    plan.expected, plan.seen_bits, plan.size = expected, expected, size
    plan.first_ns, plan.idle_ns = int(first * _NS), int(idle * _NS)
    plan.framing = _framing(framing)
    seen = ffi.new("uint8_t[]", expected // 8 + 1)
    result = ffi.new("struct tempos_sink_result *")
    bad_before = udp_counters()["InCsumErrors"]
    check(lib.tempos_sink([s.fileno() for s in socks], len(socks), plan, seen, result))
    return Sunk(
        received=result.received,
        damaged=result.damaged,
        repeated=result.repeated,
        overrun=sum(map(dropped, socks)),
        bad_checksums=udp_counters()["InCsumErrors"] - bad_before,
        first_ns=result.first_ns,
        last_ns=result.last_ns,
        by_port={str(s.getsockname()[1]): result.by_socket[i] for i, s in enumerate(socks)},
        by_topic={str(topic): n for topic, n in enumerate(result.by_topic) if n},
    )


def audit(
    socks: Sequence[socket.socket], groups: Sequence[int], events: Events, first: float, idle: float
) -> list[Audited]:
    """Receive for every member of every group; each must get exactly its share of each event.

    ``groups`` gives the group of each socket, whose members take turns in the order they stand here.
    """
    ffi, lib = _native()
    members = ffi.new("struct tempos_audit_member[]", len(socks))
    sizes = Counter(groups)
    turns: Counter[int] = Counter()
    for member, group in zip(members, groups, strict=True):
        member.group = group
        member.share = share(events.count, sizes[group], turns[group])
        turns[group] += 1
    plan = ffi.new("struct tempos_audit_plan *")
    plan.expected, plan.events = events.count * len(sizes), events.count
    plan.first_ns, plan.idle_ns = int(first * _NS), int(idle * _NS)
    plan.publisher, plan.size, plan.topic, plan.epoch = (
        events.publisher,
        events.size,
        events.topic,
        events.epoch,
    )
    row = events.count // 8 + 1
    sequences = ffi.new("uint8_t[]", row * (max(groups) + 1))
    deliveries = ffi.new("uint8_t[]", row * len(socks))
    fds = [sock.fileno() for sock in socks]
    check(lib.tempos_audit(fds, members, len(socks), plan, sequences, deliveries, row))
    return [
        Audited(m.received, max(0, m.share - m.received), m.damaged, m.repeated, m.redelivered)
        for m in members
    ]


def share(events: int, members: int, turn: int) -> int:
    """How many of ``events`` go to the member whose turn it is after ``turn`` others."""
    return (events - turn + members - 1) // members


class Seen:
    """Which sequences came, over all the collectors that share it."""

    def __init__(self, datagrams: int, size: int) -> None:
        """At most ``datagrams`` events of ``size`` payload bytes are expected."""
        ffi, _ = _native()
        self.plan = ffi.new("struct tempos_sink_plan *")
        self.plan.seen_bits, self.plan.size = datagrams, size
        self.plan.framing = _framing(Framing.EVENT)
        self.bits = ffi.new("uint8_t[]", datagrams // 8 + 1)


class Collector:
    """Counts the events of one member by the epoch they carry; ``take`` whenever its socket is ready."""

    def __init__(self, sock: socket.socket, seen: Seen) -> None:
        ffi, self._lib = _native()
        self._sock = sock
        self._seen = seen
        self._result = ffi.new("struct tempos_collect_result *")

    def joined(self, epoch: int) -> None:
        """The member is in the route from this epoch on (u8); some of it may have come before it knew."""
        ahead = (each - epoch & 0xFF for each in self.by_epoch())
        self._result.epoch = epoch + max((each for each in ahead if each < 128), default=0) & 0xFF

    def take(self) -> int:
        """Take all that waits; how many datagrams that was."""
        before = self._result.received
        check(self._lib.tempos_collect(self._sock.fileno(), self._seen.plan, self._seen.bits, self._result))
        return int(self._result.received - before)

    @property
    def received(self) -> int:
        return int(self._result.received)

    @property
    def epoch(self) -> int:
        """The newest that came (u8)."""
        return int(self._result.epoch)

    @property
    def damaged(self) -> int:
        return int(self._result.damaged)

    @property
    def repeated(self) -> int:
        return int(self._result.repeated)

    def by_epoch(self) -> dict[int, int]:
        """Events by epoch (u8), where there are any."""
        return {epoch: count for epoch, count in enumerate(self._result.by_epoch) if count}


def echo(sock: socket.socket, reply_to: Endpoint | None, topic: int | None) -> None:
    """Answer every datagram, to its sender or ``reply_to``, with its topic changed; until a signal comes."""
    _, lib = _native()
    ip, port = (reply_to.number, reply_to.port) if reply_to else (0, 0)
    check(lib.tempos_echo(sock.fileno(), ip, port, -1 if topic is None else topic))


def ping(sock: socket.socket, to: Endpoint, datagrams: Datagrams, timeout: float) -> list[int]:
    """Round trips in nanoseconds, one datagram on its way at a time; a lost one gives no sample."""
    ffi, lib = _native()
    samples = ffi.new("uint64_t[]", datagrams.count)
    answered = ffi.new("uint64_t *")
    plan = _plan(ffi, datagrams)
    check(lib.tempos_ping(sock.fileno(), to.number, to.port, plan, int(timeout * _NS), samples, answered))
    return list(samples[0 : answered[0]])


def forward(sock: socket.socket, members: Sequence[Endpoint], *, each: bool = False) -> dict[str, int]:
    """Forward to ``members`` in turn, or to ``each``, until a signal interrupts; returns what was done."""
    ffi, lib = _native()
    result = ffi.new("struct tempos_forward_result *")
    ips, ports = [m.number for m in members], [m.port for m in members]
    with suppress(InterruptedError):
        go = lib.tempos_forward_to_each if each else lib.tempos_forward
        check(go(sock.fileno(), ips, ports, len(members), result))
    return {"received": result.received, "sent": result.sent, "refused": result.refused}


def discard(sock: socket.socket) -> None:
    """Let the kernel drop, and count, what reaches this socket: a receiver that costs no process time."""
    code = ctypes.create_string_buffer(_BPF_RETURN_NOTHING)
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def dropped(sock: socket.socket) -> int:
    """Datagrams the kernel dropped at this socket so far: SO_RXQ_OVFL, but not only with the next one."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(info)[_MEMINFO_DROPS])


def udp_counters() -> dict[str, int]:
    """The UDP counters of this network namespace, by the kernel's names (`InCsumErrors`, ...)."""
    names, values = (
        line.split()[1:]
        for line in Path("/proc/net/snmp").read_text().splitlines()
        if line.startswith("Udp:")
    )
    return dict(zip(names, map(int, values), strict=True))


def now_ns() -> int:
    """The clock of every time in this module."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def as_record(value: Blasted | Sunk | Audited) -> dict[str, Any]:
    """A result as a JSON object."""
    return asdict(value)


def _plan(ffi: Any, datagrams: Datagrams) -> Any:
    plan = ffi.new("struct tempos_blast_plan *")
    plan.count, plan.size, plan.topic = datagrams.count, datagrams.size, datagrams.topic
    plan.interval_ns, plan.limit_ns = int(datagrams.interval * _NS), int(datagrams.limit * _NS)
    plan.segments, plan.publisher, plan.first = datagrams.segments, datagrams.publisher, datagrams.first
    plan.framing = _framing(datagrams.framing)
    return plan


def _framing(framing: Framing) -> int:
    _, lib = _native()
    return int(lib.TEMPOS_FRAMING_EVENT if framing is Framing.EVENT else lib.TEMPOS_FRAMING_RAW)
