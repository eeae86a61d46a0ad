"""Probes and their reports: pure functions over bytes, but for the name of this machine's clock.

A *probe* is an ``event`` datagram with the flags TRACE and ENVELOPE: a request as far as brokers go, so both
paths treat it as any event, and its answers find their way back. Its body is ``struct tempos_probe`` of
`fastpath/bpf/abi.h` and zeros. The first part of it, the *marks*, is written by a broker's slow path; the
fast path leaves it as it is, which tells that it was the fast path. A member's client hands no probe out, but
answers with a *report*: the same marks, what it knows of itself, and no byte more than the probe has. Of
encrypted topics all is encrypted but the marks, so only who has the key can ask.
"""

from __future__ import annotations

import contextlib
import socket
import time
from functools import cache
from pathlib import Path as File
from typing import NamedTuple

from tempos import _abi
from tempos.errors import WireError
from tempos.requests import envelope

#: Bytes of a group's name that a report tells at most, and of the body of a probe.
GROUP_LEN = 255
LENGTH = _abi.PROBE_LEN + GROUP_LEN
MARKS_LEN = _abi.PROBE_MARKS_LEN
FLAGS = _abi.FLAG_TRACE | _abi.FLAG_ENVELOPE

_VERSION = _abi.PROBE_VERSION_1
_UNKNOWN = bytes(8)
_ANY = "0.0.0.0"  # noqa: S104 - stands for an address that is not known
_HEAD = _abi.EVENT_HEADER_LEN + envelope.LENGTH
#: Goes on while the machine sleeps.
_SINCE_START = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Told(NamedTuple):
    """What a report says. Times: wall clocks in ns, 0 where they are not known; clocks: names of 8 bytes."""

    slow: bool
    broker_clock: bytes
    taken_ns: int
    left_ns: int
    clock: bytes
    received_ns: int
    ip: str
    port: int
    group: str


@cache
def clock() -> bytes:
    """The name of this machine's clock: machines that differ differ in it; zeros where it is not known."""
    with contextlib.suppress(OSError, ValueError):
        text = File("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return bytes.fromhex(text.replace("-", "")[:16])
    return _UNKNOWN


def since_start() -> float:
    """Seconds since this machine started, however often its clock was set."""
    return time.clock_gettime(_SINCE_START)


def are_one(one: bytes, other: bytes) -> bool:
    """Whether two names are those of one clock, as far as is known."""
    return one == other != _UNKNOWN


def blank(length: int = LENGTH) -> tuple[bytes, bytes]:
    """The body of a probe in so many bytes, PROBE_LEN at least: its marks, and the rest."""
    return bytes((_VERSION,)) + bytes(MARKS_LEN - 1), bytes(length - MARKS_LEN)


def parted(datagram: bytes) -> bytes:
    """A datagram laid out as a narrow one, without the marks if it is a probe or a report."""
    if len(datagram) < _HEAD + MARKS_LEN or datagram[_abi.OFFSET_VERSION_FLAGS] & FLAGS != FLAGS:
        return datagram
    return datagram[:_HEAD] + datagram[_HEAD + MARKS_LEN :]


def marked(datagram: bytes, at: int, marks: bytes) -> bytes:
    """Put marks in front of the body, which begins at byte ``at``."""
    return datagram[:at] + marks + datagram[at:]


def marks_of(datagram: bytes, at: int) -> bytes | None:
    """The marks of a probe whose body begins at byte ``at``; None where it is none that can be answered."""
    marks = datagram[at : at + MARKS_LEN]
    return marks if len(marks) == MARKS_LEN and marks[0] == _VERSION else None


def mark(datagram: bytes, at: int, taken_ns: int) -> bytes:
    """What a slow path makes of a probe whose body begins at byte ``at``, taken and sent at this time."""
    if marks_of(datagram, at) is None:
        return datagram
    stamp = taken_ns.to_bytes(8, "big")
    marks = bytes((_VERSION, _abi.PROBE_SLOW)) + bytes(6) + clock() + stamp + stamp
    return datagram[:at] + marks + datagram[at + MARKS_LEN :]


def tell(room: int, received_ns: int, ip: str, port: int, group: str) -> bytes | None:
    """What a member puts behind the marks, in ``room`` bytes; None: that is too little."""
    name = group.encode()[: min(GROUP_LEN, room - (_abi.PROBE_LEN - MARKS_LEN))]
    # Not in the midst of a character.
    name = name.decode(errors="ignore").encode()
    fields = (bytes(6), _UNKNOWN, 0, 0, clock(), received_ns, *_place(ip, port), 0, len(name))
    told = _abi.PROBE.pack(_VERSION, 0, *fields)[MARKS_LEN:] + name
    return told if len(told) <= room else None


def read(body: bytes) -> Told:
    """A report in clear, marks and all; raises :class:`WireError`."""
    if len(body) < _abi.PROBE_LEN or body[0] != _VERSION:
        raise WireError("not the report of a probe, or one of a later version")
    _, path, _, broker_clock, taken_ns, left_ns, clock_, received_ns, ip, port, _, length = (
        _abi.PROBE.unpack_from(body)
    )
    group = body[_abi.PROBE_LEN : _abi.PROBE_LEN + length].decode(errors="replace")
    return Told(
        path == _abi.PROBE_SLOW, broker_clock, taken_ns, left_ns, clock_, received_ns,
        socket.inet_ntoa(ip.to_bytes(4, "big")), port, group,
    )  # fmt: skip


def _place(ip: str, port: int) -> tuple[int, int]:
    try:
        return int.from_bytes(socket.inet_aton(ip), "big"), port
    except OSError:
        return _place(_ANY, port)
