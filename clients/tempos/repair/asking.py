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

from tempos import _abi, auth, control
from tempos.control import Code, Missing
from tempos.errors import WireError
from tempos.repair.gaps import Span

_HEAD = bytes((_abi.SERVICE, _abi.SERVICE_SENT))
_SENT = struct.Struct("!2sQHII")
#: Requests whose answers may still come.
KEPT = 64


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
        self._client = client
        self._signer = signer
        # Far from those of the session, which counts on from its client's number.
        self._next_id = (client ^ 0x80000000) & control.U32
        self._asked: dict[int, bytes] = {}

    def request(self, port: int, missing: Sequence[Missing]) -> bytes:
        """The datagram that asks for these, from who receives at ``port``."""
        self._next_id = request = (self._next_id + 1) & control.U32
        roomy = len(missing) > 4
        datagram = control.encode_request(
            "repair", request, self._client, roomy=roomy, port=port, missing=list(missing)
        )
        nonce = b""
        if self._signer is not None:
            datagram, nonce = self._signer.sign(datagram)
        self._asked[request] = nonce
        while len(self._asked) > KEPT:
            del self._asked[next(iter(self._asked))]
        return datagram

    def receive(self, data: bytes) -> Answer | None:
        """What a reply says; None: it is none to these requests."""
        if not self._asked or len(data) > control.MAX_DATAGRAM:
            return None
        nonce = b""
        try:
            if self._signer is not None:
                nonce, _, data = self._signer.open(data)
            reply = control.decode_reply(data)
        except WireError:
            return None
        if reply.id not in self._asked or self._asked[reply.id] != nonce:
            return None
        del self._asked[reply.id]
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
