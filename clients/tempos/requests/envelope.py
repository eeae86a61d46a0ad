"""The envelope of requests and replies: pure functions over bytes.

An ``event`` datagram with the flag ENVELOPE has 32 bytes between header and body (``struct
tempos_envelope`` in `fastpath/bpf/abi.h`): version and kind, for an error why, a return address, and a token.

* A *request* goes to the topic's members like any event. What tells it apart from every other one is its
  header: topic, publisher and sequence.
* A *reply*, or an *error* in its place, repeats header and envelope of its request, but for the kind and
  the time. It goes to the broker's data port, which sends it on to the return address.
* The return address is made and sealed by the broker; clients carry it about without looking into it, but
  for the port at the end. The token is the asker's: only who was given the request can answer it.

Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tempos import _abi
from tempos.errors import WireError

#: Bytes of an envelope, of a return address in it, and of a token.
LENGTH = _abi.ENVELOPE_LEN
ADDRESS_LEN = _abi.ENVELOPE_TOKEN - _abi.ENVELOPE_PORT
TOKEN_LEN = LENGTH - _abi.ENVELOPE_TOKEN

_VERSION = _abi.ENVELOPE_VERSION << 4
_REQUEST = bytes((_VERSION | _abi.KIND_REQUEST, 0))
_KINDS = {_VERSION | kind: kind for kind in (_abi.KIND_REQUEST, _abi.KIND_REPLY, _abi.KIND_ERROR)}
#: The kinds that answer, by the byte that says so.
ANSWERS = {byte: kind for byte, kind in _KINDS.items() if kind != _abi.KIND_REQUEST}
_SENT_NS = struct.Struct("!Q")
_AFTER_SENT_NS = _abi.OFFSET_SENT_NS + _SENT_NS.size


class Envelope(NamedTuple):
    """What a client reads of one. ``code``: why, of an error (``ERROR_*`` of the ABI)."""

    kind: int
    code: int
    address: bytes
    token: bytes


def request(address: bytes, token: bytes) -> bytes:
    """The envelope of a request."""
    return _REQUEST + address + token


def is_request(datagram: bytes, at: int) -> bool:
    """Whether the envelope that begins at byte ``at`` is a whole one of a request."""
    return len(datagram) >= at + LENGTH and datagram[at] == _REQUEST[0]


def port_of(datagram: bytes, at: int) -> int:
    """Where a reply goes, at the broker that the request came from; the envelope begins at byte ``at``."""
    high = at + _abi.ENVELOPE_DATA_PORT
    return datagram[high] << 8 | datagram[high + 1]


def read(datagram: bytes, at: int) -> Envelope:
    """The envelope that begins at byte ``at``; raises :class:`WireError` for one that is cut or unknown."""
    envelope = datagram[at : at + LENGTH]
    kind = _KINDS.get(envelope[0]) if len(envelope) == LENGTH else None
    if kind is None:
        told = f"version {envelope[0] >> 4}, kind {envelope[0] & 15}" if envelope else "none"
        raise WireError(
            f"an envelope of {len(envelope)} bytes ({told}); understood are {LENGTH} bytes of version "
            f"{_abi.ENVELOPE_VERSION}, kinds {', '.join(map(str, _KINDS.values()))}",
            _abi.Reason.BAD_ENVELOPE,
        )
    return Envelope(
        kind,
        envelope[_abi.ENVELOPE_CODE],
        envelope[_abi.ENVELOPE_PORT : _abi.ENVELOPE_TOKEN],
        envelope[_abi.ENVELOPE_TOKEN :],
    )


def answer(head: bytes, at: int, now_ns: int, *, kind: int = _abi.KIND_REPLY, code: int = 0) -> bytes:
    """Header and envelope of a reply. ``head``: those of its request, whose envelope begins at ``at``."""
    return (
        head[: _abi.OFFSET_SENT_NS]
        + _SENT_NS.pack(now_ns)
        + head[_AFTER_SENT_NS:at]
        + bytes((_VERSION | kind, code))
        + head[at + _abi.ENVELOPE_PORT : at + LENGTH]
    )
