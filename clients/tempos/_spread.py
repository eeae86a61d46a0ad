"""Which member of a group gets what one source sends: a table of slots, filled by rendezvous hashing.

Each slot is the member's whose number there is the highest (Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", 1998). So a member that goes gives up its own slots and no others move, and
one that comes takes its share from all alike. A member of weight w has w numbers. Both data paths go by the
same table; the slot of a datagram is worked out alike in `fastpath/bpf/spread.h`.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import shake_128

from tempos._abi import SPREAD_SLOTS
from tempos.model import Member, Pick

_MASK = 0xFFFFFFFF


def slot_of(ip: str, port: int, pick: Pick) -> int:
    """The slot of what comes from there."""
    mixed: int = struct.unpack("!I", socket.inet_aton(ip))[0]
    if pick is Pick.SOURCE_PORT:
        mixed ^= port * 0x9E3779B1 & _MASK
    mixed ^= mixed >> 16
    mixed = mixed * 0x85EBCA6B & _MASK
    mixed ^= mixed >> 13
    mixed = mixed * 0xC2B2AE35 & _MASK
    mixed ^= mixed >> 16
    return mixed & SPREAD_SLOTS - 1


def slots_of(members: Sequence[Member]) -> tuple[int, ...]:
    """By slot, the place of the member that it is for; at least one member."""
    return _filled(tuple((str(member), member.weight) for member in members))


@lru_cache(64)
def _filled(members: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
    best = [-1] * SPREAD_SLOTS
    whose = [0] * SPREAD_SLOTS
    # In an order of their own: members that come and go in another one have the same slots.
    for place, (name, weight) in sorted(enumerate(members), key=lambda each: each[1]):
        for number in range(weight):
            for slot, drawn in enumerate(_numbers(name, number)):
                if drawn > best[slot]:
                    best[slot], whose[slot] = drawn, place
    return tuple(whose)


@lru_cache(1024)
def _numbers(name: str, number: int) -> array[int]:
    return array("Q", shake_128(f"{name} {number}".encode()).digest(8 * SPREAD_SLOTS))
