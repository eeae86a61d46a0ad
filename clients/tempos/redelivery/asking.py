"""What a broker sends of what is to be handed out again, and its answers: datagrams and rows, without I/O.

That there is something comes from the data port, and again until it is asked for:

    offset 0   0, a topic that none can have
           1   7: something waits
           2   the number of the client (8 bytes, network byte order)
          10   topic (2 bytes)

Events come with a 2 in their reserved byte, and in the place of the delivery sequence with their number; or
several of one epoch in a datagram, whose numbers follow each other:

    offset 0   0, a topic that none can have
           1   8: what follows is handed out again
           2   topic (2 bytes)
           4   the number of the first (4 bytes)
           8   the low 8 bits of their epoch
           9   0
          10   each: its length (2 bytes), and the datagram as its publisher sent it
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tempos import _abi
from tempos.session import replayed

_HEAD = bytes((_abi.SERVICE, _abi.SERVICE_WAITING))
_WAITING = struct.Struct("!2sQH")
_SEVERAL = struct.Struct("!BBHIBB")
_LENGTH = struct.Struct("!H")
#: Bytes of a datagram with several of them: as every IPv4 path carries them, headers included. In front of
#: all, and of each.
MOST_BYTES, HEAD_BYTES, EACH_BYTES = 1200, _SEVERAL.size, _LENGTH.size


def encode_waiting(client: int, topic: int) -> bytes:
    """The datagram that tells it."""
    return _WAITING.pack(_HEAD, client, topic)


def decode_waiting(datagram: bytes) -> tuple[int, int] | None:
    """Client and topic that a datagram tells of; None: it is none of these."""
    if len(datagram) != _WAITING.size or datagram[:2] != _HEAD:
        return None
    _, client, topic = _WAITING.unpack(datagram)
    return client, topic


def encode_again(datagram: bytes, epoch: int, number: int) -> bytes:
    """An event that is handed out again."""
    return replayed.encode_event(datagram, epoch, number & 0xFFFFFFFF, _abi.REDELIVERED)


def decode_again(datagram: bytes) -> replayed.Replayed | None:
    """What such an event brings; None: it is none."""
    return replayed.decode_event(datagram, _abi.REDELIVERED)


class Several(NamedTuple):
    """Events of an epoch, of which the low 8 bits are told; ``number``: of the first, modulo 2^32."""

    topic: int
    number: int
    epoch: int
    datagrams: tuple[bytes, ...]


def encode_several(topic: int, number: int, epoch: int, datagrams: Iterable[bytes]) -> bytes:
    """The datagram with these events, as their publishers sent them."""
    parts = [_SEVERAL.pack(_abi.SERVICE, _abi.SERVICE_HANDED, topic, number & 0xFFFFFFFF, epoch & 0xFF, 0)]
    for each in datagrams:
        parts += (_LENGTH.pack(len(each)), each)
    return b"".join(parts)


def decode_several(datagram: bytes) -> Several | None:
    """The events that a datagram brings; None: it is none of these."""
    if len(datagram) < HEAD_BYTES or datagram[0] != _abi.SERVICE or datagram[1] != _abi.SERVICE_HANDED:
        return None
    _, _, topic, number, epoch, _ = _SEVERAL.unpack_from(datagram)
    at, size = HEAD_BYTES, len(datagram)
    found: list[bytes] = []
    while at + EACH_BYTES <= size:
        begin = at + EACH_BYTES
        at = begin + (datagram[begin - 2] << 8 | datagram[begin - 1])
        found.append(datagram[begin:at])
    return Several(topic, number, epoch, tuple(found)) if at == size else None


class Handed(NamedTuple):
    """What the broker says of a topic: of epochs before ``oldest`` it wants to hear nothing.

    This member has the ``lot`` of ``size`` events (0: none); those from ``first`` to ``end`` were sent, but
    for spans of them that are ``gone``: the first one, and how many.
    """

    topic: int
    oldest: int
    lot: int
    size: int
    first: int
    end: int
    gone: tuple[tuple[int, int], ...]


def handed_in(fields: Mapping[str, Any]) -> Iterator[Handed]:
    """The rows of an answer. Nonsense is left out."""
    rows = fields.get("handed")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, list) or len(row) != len(Handed._fields) or not isinstance(row[-1], list):
            continue
        *numbers, gone = row
        if all(type(each) is int and each >= 0 for each in numbers) and all(
            isinstance(span, list) and len(span) == 2 and all(type(n) is int and n >= 0 for n in span)
            for span in gone
        ):
            topic, oldest, lot, size, first, end = numbers
            yield Handed(topic, oldest, lot, size, first, end, tuple((at, many) for at, many in gone))
