"""The raw socket by which datagrams leave that keep the address and port of who sent them.

No UDP socket can have as many ports as there are senders, so the headers of these are made here and in the
compiled helper (`broker/native/batch_own.h`). The kernel routes them, but cuts none: what is too large for
the way leaves in fragments that are made here, too.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
from collections.abc import Iterator

from tempos import Unavailable

_IP_MTU = 14
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_DEFAULT_TTL = 64
_MORE = 0x2000
_SEND_BUFFER = 4 << 20

_ids = itertools.count(1)


def open_raw() -> socket.socket:
    """Raises :class:`Unavailable`, which says what it takes."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError as error:
        raise Unavailable(
            f'a group with source = "keep" needs a raw socket: {error.strerror}; that takes CAP_NET_RAW, '
            "which a broker has while it starts as root: put the topic into the file and restart, or "
            "leave the source to the broker"
        ) from error
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    sock.setblocking(False)
    return sock


def send_raw(
    sock: socket.socket,
    payload: bytes | bytearray,
    sender: tuple[str, int],
    to: tuple[str, int],
    ttl: int | None,
    tos: int,
) -> None:
    """Send a datagram as if it came from there; raises :class:`OSError`."""
    source, destination = socket.inet_aton(sender[0]), socket.inet_aton(to[0])
    length = _UDP.size + len(payload)
    pseudo = source + destination + struct.pack("!HH", socket.IPPROTO_UDP, length)
    header = _UDP.pack(sender[1], to[1], length, 0)
    body = _UDP.pack(sender[1], to[1], length, _checksum(pseudo + header + payload)) + payload

    def packet(part: bytes, number: int, offset: int) -> bytes:
        # What is 0 of identification and checksum the kernel fills in.
        left = _DEFAULT_TTL if ttl is None else ttl
        total = _IP.size + len(part)
        return (
            _IP.pack(0x45, tos, total, number, offset, left, socket.IPPROTO_UDP, 0, source, destination)
            + part
        )

    try:
        sock.sendto(packet(body, 0, 0), (to[0], 0))
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        number = next(_ids) % 0xFFFF + 1
        for offset, part in _fragments(body, to):
            sock.sendto(packet(part, number, offset), (to[0], 0))


def _fragments(body: bytes, to: tuple[str, int]) -> Iterator[tuple[int, bytes]]:
    """The parts of a datagram that the way carries, each with that field of its header."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(to)
        room = asked.getsockopt(socket.IPPROTO_IP, _IP_MTU) - _IP.size & ~7
    for at in range(0, len(body), room):
        yield at // 8 | (_MORE if at + room < len(body) else 0), body[at : at + room]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071), as UDP has it: never 0."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF
