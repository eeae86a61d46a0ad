"""How a member asks for what it misses, and what it is told: datagrams, without I/O.

Asked on the control port, beside the session: nothing waits for these answers, and what was asked for is
asked for again by :mod:`.gaps`, with what is missing by then. What a topic's members are sent to know of
losses at the end, when the topic is at rest, comes from the data port:

    offset 0   0, a topic that none can have
           1   3: what follows tells what was sent
           2   the number of the client (8 bytes, network byte order)
          10   topic (2 bytes)
          12   epoch (4 bytes)
          16   so many datagrams were sent to this member in it (4 bytes)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from tempos import _abi, auth
from tempos.control import Code, Missing
from tempos.repair.gaps import Span
from tempos.session.aside import Aside

_HEAD = bytes((_abi.SERVICE, _abi.SERVICE_SENT))
_SENT = struct.Struct("!2sQHII")


class Told(NamedTuple):
    """So many datagrams of an epoch were sent to the client of this number."""

    client: int
    topic: int
    epoch: int
    sent: int


def encode_told(told: Told) -> bytes:
    """The datagram that tells it."""
    return _SENT.pack(_HEAD, *told)


def decode_told(datagram: bytes) -> Told | None:
    """What a datagram tells; None: it is none of these."""
    if len(datagram) != _SENT.size or datagram[:2] != _HEAD:
        return None
    return Told(*_SENT.unpack(datagram)[1:])


class Answer(NamedTuple):
    """``gone``: what is not to be had any more. ``unknown``: who asked is no member."""

    gone: tuple[Span, ...] = ()
    unknown: bool = False


class Asking:
    """The requests of one client, ``client`` by its number; with a ``signer`` they are signed."""

    def __init__(self, client: int, signer: auth.Signer | None) -> None:
        self._aside = Aside(client, signer, 0x80000000)

    def request(self, port: int, missing: Sequence[Missing]) -> bytes:
        """The datagram that asks for these, from who receives at ``port``."""
        _, datagram = self._aside.request("repair", roomy=len(missing) > 4, port=port, missing=list(missing))
        return datagram

    def receive(self, data: bytes) -> Answer | None:
        """What a reply says; None: it is none to these requests."""
        reply = self._aside.receive(data)
        if reply is None:
            return None
        if reply.ok is None:
            return Answer(unknown=reply.error is not None and reply.error.code == Code.UNKNOWN_MEMBER)
        gone = reply.ok.get("gone")
        return Answer(tuple(_spans(gone)) if isinstance(gone, list) else ())


def _spans(rows: list[object]) -> list[Span]:
    return [
        Span(row[0], row[1], row[2], row[2] + row[3])
        for row in rows
        if isinstance(row, list) and len(row) == 4 and all(type(each) is int and each >= 0 for each in row)
    ]
