"""Events out of the journal, as the broker sends them to a member that asked for what was before it.

An ``event`` is as long as it was, so that what came whole goes whole. Its reserved byte (at 2; at 25 in a
wide header) is 1, and where a live one has its delivery sequence are the low 32 bits of its position in the
journal. A ``raw`` one has a head of eight bytes in front:

    offset 0   0, a topic that none can have
           1   4: what follows is out of a journal
           2   the topic's id (2 bytes, network byte order)
           4   the low 32 bits of its position (4 bytes)
           8   the datagram
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tempos import _abi, wire

_RAW = struct.Struct("!BBHI")
#: What a raw event may have, for the whole to go by a way of 1,500 bytes.
MOST_RAW = 1472 - _RAW.size
_NUMBER = struct.Struct("!I")


class Replayed(NamedTuple):
    """``number``: the low 32 bits of its position; ``datagram``: as the publisher sent it, with its epoch."""

    topic: int
    number: int
    datagram: bytes


def encode_event(datagram: bytes, epoch: int, position: int, mark: int = _abi.REPLAYED) -> bytes:
    """An ``event`` of this position; ``mark``: what it is sent for."""
    copy = bytearray(datagram)
    copy[_reserved_at(datagram)] = mark
    wire.stamp(copy, epoch, position)
    return bytes(copy)


def encode_raw(topic: int, position: int, datagram: bytes) -> bytes | None:
    """A ``raw`` datagram of this position; None: it would be too long."""
    if len(datagram) > MOST_RAW:
        return None
    return _RAW.pack(_abi.SERVICE, _abi.SERVICE_REPLAYED, topic, position & 0xFFFFFFFF) + datagram


def decode(datagram: bytes) -> Replayed | None:
    """What a datagram brings; None: it is none of these."""
    if len(datagram) > _RAW.size and datagram[0] == _abi.SERVICE and datagram[1] == _abi.SERVICE_REPLAYED:
        _, _, topic, number = _RAW.unpack_from(datagram)
        return Replayed(topic, number, datagram[_RAW.size :])
    return decode_event(datagram)


def decode_event(datagram: bytes, mark: int = _abi.REPLAYED) -> Replayed | None:
    """What an ``event`` brings that was sent for this; None: it was not."""
    if len(datagram) < wire.HEADER_LEN or datagram[0] == _abi.SERVICE:
        return None
    at = _reserved_at(datagram)
    if len(datagram) < wire.body_at(datagram) or datagram[at] != mark:
        return None
    (number,) = _NUMBER.unpack_from(datagram, _abi.OFFSET_DELIVERY_SEQUENCE)
    plain = bytearray(datagram)
    plain[at] = 0
    return Replayed(wire.topic_in(datagram), number, bytes(plain))


def _reserved_at(datagram: bytes) -> int:
    return _abi.WIDE_FLAGS_AT + 1 if datagram[0] == _abi.WIDE else _abi.OFFSET_RESERVED
