"""What members prove with (:mod:`tempos.session.proof`), without that the broker keeps anything of anybody.

A proof is about the time at which it was made, and a keyed hash of it, of what it proves and of whom it is
for: address, port, client, and the address of ours that was asked. So it is good for nobody else, nor for
long.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import socket
import struct

from tempos import DATA_PORT
from tempos.control import PROOF_BYTES
from tempos_broker.account.accounts import Holder

#: Seconds for which a proof is good: longer than a client asks on.
LIFETIME = 30
#: Seconds within which who asks again is given the same: while a crowd waits, each answer that says something
#: new would be followed at once.
SAME = 10
_WHEN = struct.Struct("!I")
_U32 = 0xFFFFFFFF


class Step(enum.Enum):
    """What one proves: that its address is its own, that its endpoint is."""

    ADDRESS = b"tempos address"
    ENDPOINT = b"tempos endpoint"


class Proofs:
    """``secret``: random bytes that die with this broker; who has a proof of a former one gets another.

    ``data_port``: where events come from, and the proof of an endpoint.
    """

    def __init__(self, secret: bytes | None = None, data_port: int = DATA_PORT) -> None:
        self.data_port = data_port
        self._secret = os.urandom(32) if secret is None else secret

    def grant(self, step: Step, holder: Holder, asked: str | None, now: float) -> bytes:
        """A proof for who asked at an address of ours (None: not known which); ``now``: monotonic seconds."""
        when = _WHEN.pack((int(now) - int(now) % SAME) & _U32)
        return when + self._hash(when, step, holder, asked)

    def holds(self, proof: bytes, step: Step, holder: Holder, asked: str | None, now: float) -> bool:
        """Whether this is one that was granted to just this holder, and lately."""
        when, rest = proof[: _WHEN.size], proof[_WHEN.size :]
        if len(proof) != PROOF_BYTES or (int(now) - _WHEN.unpack(when)[0]) & _U32 >= LIFETIME + SAME:
            return False
        return hmac.compare_digest(rest, self._hash(when, step, holder, asked))

    def _hash(self, when: bytes, step: Step, holder: Holder, asked: str | None) -> bytes:
        assert holder.client is not None, "only clients are to prove anything"
        whom = struct.pack("!4sHQ4s", _packed(holder.ip), holder.port, holder.client, _packed(asked))
        size = PROOF_BYTES - _WHEN.size
        return hashlib.blake2b(when + whom, digest_size=size, key=self._secret, person=step.value).digest()


def _packed(ip: str | None) -> bytes:
    return bytes(4) if ip is None else socket.inet_aton(ip)


def told_port(proofs: Proofs | None) -> dict[str, int]:
    """Where events are taken, as an answer tells it to who knows the usual port alone."""
    return {} if proofs is None or proofs.data_port == DATA_PORT else {"data_port": proofs.data_port}
