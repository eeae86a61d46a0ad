"""The numbers of system calls, of a machine's own programs and of its 32-bit ones, for calls.h."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import NamedTuple

from tempos import Unavailable

#: As many numbers has a table of the programs.
MAX_CALLS = 512


class Numbers(NamedTuple):
    """Of one system call; None: 32-bit programs have none of their own, they go through `socketcall`."""

    own: int
    narrow: int | None


#: x86-64 and i386.
_X86 = {
    "accept": Numbers(43, None),
    "accept4": Numbers(288, 364),
    "bind": Numbers(49, 361),
    "connect": Numbers(42, 362),
    "creat": Numbers(85, 8),
    "listen": Numbers(50, 363),
    "open": Numbers(2, 5),
    "openat": Numbers(257, 295),
    "openat2": Numbers(437, 437),
    "pread64": Numbers(17, 180),
    "preadv": Numbers(295, 333),
    "preadv2": Numbers(327, 378),
    "read": Numbers(0, 3),
    "readv": Numbers(19, 145),
    "rename": Numbers(82, 38),
    "renameat": Numbers(264, 302),
    "recvfrom": Numbers(45, 371),
    "recvmmsg": Numbers(299, 337),
    "recvmsg": Numbers(47, 372),
    "renameat2": Numbers(316, 353),
    "sendfile": Numbers(40, 187),
    "sendmmsg": Numbers(307, 345),
    "sendmsg": Numbers(46, 370),
    "sendto": Numbers(44, 369),
    "socket": Numbers(41, 359),
    "socketpair": Numbers(53, 360),
    "unlink": Numbers(87, 10),
    "splice": Numbers(275, 313),
    "unlinkat": Numbers(263, 301),
    "write": Numbers(1, 4),
    "writev": Numbers(20, 146),
    "io_uring_enter": Numbers(426, 426),
}
#: What no tool that goes by system calls sees.
BLIND = (
    "what io_uring does: it makes no system calls",
    "what 32-bit programs do by the old call socketcall",
)


def are_known() -> bool:
    """Whether this machine's numbers are."""
    return platform.machine() == "x86_64"


def known() -> None:
    """Raises :class:`Unavailable` on a machine whose numbers are not known here."""
    if not are_known():
        raise Unavailable(f"the numbers of system calls are known for x86-64, not for {platform.machine()}")


def table(kinds: Mapping[str, int]) -> bytes:
    """The variable `calls` of the programs: each number -> what the call is to the tool; for x86-64."""
    filled = bytearray(2 * MAX_CALLS)
    for name, kind in kinds.items():
        numbers = _X86[name]
        filled[numbers.own] = kind
        if numbers.narrow is not None:
            filled[MAX_CALLS + numbers.narrow] = kind
    return bytes(filled)
