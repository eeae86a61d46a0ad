"""What publisher and broker tell each other of events that may not have come: datagrams, without I/O.

Requests go to the control port like others (``confirm``), beside the session: nothing waits for the answers,
and what is not answered is asked again with what there is by then. What lacks comes from there, too, unasked:

    offset 0   0, a topic that none can have
           1   6: what follows is asked for again
           2   the number of the client that asked (8 bytes, network byte order)
          10   topic (2 bytes)
          12   for so many milliseconds back it is certain what came (4 bytes)
          16   ranges: the first number (4 bytes), how many (2 bytes)

What is sent again goes to the control port: :func:`tempos.wire.as_again`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tempos import _abi, auth
from tempos.control import Code, Confirm
from tempos.session.aside import KEPT, Aside

LACKING = bytes((_abi.SERVICE, _abi.SERVICE_LACKING))
_HEAD = struct.Struct("!2sQHI")
_RANGE = struct.Struct("!IH")
#: Keeps the ids of these requests apart from those of others.
_APART = 0x80000000


class Unkept(IntEnum):
    """Why a broker cannot say of a topic's events what came."""

    NO_JOURNAL = 1
    NO_MEMBER = 2
    GONE = 3
    NO_ROOM = 4
    #: The whole of it: it knows no such question, or refuses it.
    REFUSED = 5


WORDS = {
    Unkept.NO_JOURNAL: "the topic has no journal, or is raw (give it one: journal = N)",
    Unkept.NO_MEMBER: "the topic has no member, so the broker keeps nothing",
    Unkept.GONE: "the broker has no such topic any more",
    Unkept.NO_ROOM: "the broker follows no more publishers of the topic",
    Unkept.REFUSED: "the broker confirms nothing",
}


class Lacks(NamedTuple):
    """The broker lacks these [first, count) numbers, which are of 32 bits."""

    topic: int
    certain_ms: int
    ranges: tuple[tuple[int, int], ...]


class Came(NamedTuple):
    """All below ``upto`` has come but for ``lacking``, [first, end); certain so far back."""

    topic: int
    certain_ms: int
    upto: int
    lacking: tuple[tuple[int, int], ...]


class Cannot(NamedTuple):
    """The broker cannot say it of a topic. ``text``: what it says, if it refuses."""

    topic: int
    why: Unkept
    text: str = ""


def decode_lacking(datagram: bytes, client: int) -> Lacks | None:
    """What a datagram asks this client for; None: it is none of these."""
    rest = len(datagram) - _HEAD.size
    if rest <= 0 or rest % _RANGE.size or datagram[:2] != LACKING:
        return None
    _, of, topic, certain = _HEAD.unpack_from(datagram)
    if of != client:
        return None
    return Lacks(topic, certain, tuple(_RANGE.iter_unpack(datagram[_HEAD.size :])))


class Asked:
    """The requests of one publisher, ``client`` by its number; with a ``signer`` they are signed."""

    def __init__(self, client: int, signer: auth.Signer | None) -> None:
        self.client = client
        self._aside = Aside(client, signer, _APART)
        self._rows: dict[int, Sequence[Confirm]] = {}

    def request(self, publisher: int, rows: Sequence[Confirm]) -> bytes:
        """The datagram that asks about these."""
        request, datagram = self._aside.request(
            "confirm", roomy=True, publisher=publisher, confirm=list(rows)
        )
        self._rows[request] = rows
        while len(self._rows) > KEPT:
            del self._rows[next(iter(self._rows))]
        return datagram

    def receive(self, data: bytes) -> list[Came | Cannot] | None:
        """What an answer says; None: it is none to these requests."""
        reply = self._aside.receive(data)
        if reply is None:
            return None
        rows = self._rows.pop(reply.id)
        if reply.ok is None:
            if reply.error is not None and reply.error.code in (Code.UNKNOWN_OPERATION, Code.NOT_ALLOWED):
                return [Cannot(row.topic, Unkept.REFUSED, str(reply.error)) for row in rows]
            return []
        told = reply.ok.get("confirmed")
        return [found for row in told if (found := _row(row))] if isinstance(told, list) else []


def _row(row: object) -> Came | Cannot | None:
    if not isinstance(row, list) or not row or type(row[0]) is not int:
        return None
    if len(row) == 2 and row[1] in Unkept.__members__.values():
        return Cannot(row[0], Unkept(row[1]))
    if len(row) != 4 or not isinstance(row[3], list) or len(row[3]) % 2:
        return None
    if not all(type(each) is int and each >= 0 for each in (*row[1:3], *row[3])):
        return None
    pairs = zip(row[3][::2], row[3][1::2], strict=True)
    return Came(row[0], row[1], row[2], tuple((first, first + count) for first, count in pairs))
