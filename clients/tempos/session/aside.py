"""Requests beside the session: sent once, of which nothing waits for the answer. Datagrams, without I/O."""

from __future__ import annotations

from typing import Any

from tempos import auth, control
from tempos.control import Reply
from tempos.errors import WireError

#: Requests whose answers may still come.
KEPT = 64


class Aside:
    """Of the client of this number; ``apart``: keeps the ids of one kind from those of others.

    With a ``signer`` they are signed.
    """

    def __init__(self, client: int, signer: auth.Signer | None, apart: int) -> None:
        self._client = client
        self._signer = signer
        # Far from those of the session, which counts on from its client's number.
        self._next_id = (client ^ apart) & control.U32
        self._asked: dict[int, bytes] = {}

    def request(self, op: str, *, roomy: bool, **fields: Any) -> tuple[int, bytes]:
        """The id of a request, and its datagram."""
        self._next_id = request = (self._next_id + 1) & control.U32
        datagram = control.encode_request(op, request, self._client, roomy=roomy, **fields)
        nonce = b""
        if self._signer is not None:
            datagram, nonce = self._signer.sign(datagram)
        self._asked[request] = nonce
        while len(self._asked) > KEPT:
            del self._asked[next(iter(self._asked))]
        return request, datagram

    def receive(self, data: bytes) -> Reply | None:
        """A reply to one of these requests; None: it is none."""
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
        return reply
