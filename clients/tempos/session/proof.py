"""The proof that whoever asks to be a member receives at the endpoint that it names.

A broker sends no event to an endpoint that has not shown that it gets what is sent there: else one forged
request would turn a topic's events on somebody who never asked. As with QUIC's Retry (RFC 9000, section
8.1) the broker keeps nothing in mind meanwhile: it gives a few bytes, and who repeats them got them. First
with the answer on the control port, so that nobody can have anything sent to an endpoint at another's
address; then from the data port to the endpoint itself, which may be another program's:

    client ── subscribe(port) ────────────────► control port
    client ◄── error "prove", proof ─────────── control port
    client ── subscribe(port, that proof) ────► control port
    endpoint ◄── service datagram: proof ────── data port
    client ── subscribe(port, that proof) ────► control port

The service datagram:

    offset 0   0, a topic that none can have
           1   1: what follows is a proof
           2   the number of the client that asks (8 bytes, network byte order), which no stranger knows
          10   the proof (16 bytes)

So a member also learns where its events will come from, as its own network sees it: from where the proof
came. An empty proof in a request asks for one, whatever the broker knows already.
"""

from __future__ import annotations

import struct

from tempos import _abi
from tempos.control import PROOF_BYTES

#: First bytes of a datagram with a proof.
_HEAD = bytes((_abi.SERVICE, _abi.SERVICE_PROOF))
_DATAGRAM = struct.Struct(f"!2sQ{PROOF_BYTES}s")
#: Bytes of a datagram with a proof.
SIZE = _DATAGRAM.size


def encode(client: int, proof: bytes) -> bytes:
    """The datagram that brings a proof to the client of this number."""
    return _DATAGRAM.pack(_HEAD, client, proof)


def decode(datagram: bytes) -> tuple[int, bytes] | None:
    """The client and its proof; None: the datagram brings none."""
    if len(datagram) != SIZE or datagram[:2] != _HEAD:
        return None
    _, client, proof = _DATAGRAM.unpack(datagram)
    return client, proof
