"""What a member must get, byte by byte, worked out without any of the code under test."""

from __future__ import annotations

import socket
import struct

from support.packets import partial, pseudo_sum
from tempos_fastpath.network.legs import Hop

#: Of a frame of Ethernet with IPv4 without options and UDP: where the latter two begin.
_IP, _UDP = 14, 34
_PLAIN = b"\x08\x00\x45"


def expected(frame: bytes, member: Hop, *, generic: bool, epoch: int = 0, sequence: int = 0,
             stamped: bool = False, tos: int = 0, source_port: int | None = None) -> bytes:  # fmt: skip
    """The frame as one member must get it: written anew, every checksum in full.

    ``source_port``: another one than the port it was sent to.
    """
    assert frame[12:15] == _PLAIN, "offsets are those of IPv4 without options"
    end = _IP + int.from_bytes(frame[16:18], "big")
    out, padding = bytearray(frame[:end]), frame[end:]
    if stamped:
        out[45] = epoch & 0xFF
        out[54:58] = struct.pack("!I", sequence)
    had_none, was_partial = not any(out[40:42]), int.from_bytes(out[40:42], "big") == pseudo_sum(bytes(out))
    out[:12] = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in (member.mac, member.source_mac))
    out[15], out[22] = tos, out[22] - 1
    out[26:34] = socket.inet_aton(member.source) + socket.inet_aton(member.ip)
    out[34:36] = out[36:38] if source_port is None else struct.pack("!H", source_port)
    out[36:38] = struct.pack("!H", member.port)
    out[24:26] = out[40:42] = bytes(2)
    out[24:26] = struct.pack("!H", _checksum(out[_IP:_UDP]))
    if was_partial and generic and not had_none:
        return partial(bytes(out)) + padding
    if not had_none:
        of_addresses = pseudo_sum(bytes(out)).to_bytes(2, "big")
        # A sum of 0 would say that there is none.
        out[40:42] = struct.pack("!H", _checksum(of_addresses + out[_UDP:]) or 0xFFFF)
    return bytes(out) + padding


def _checksum(data: bytes | bytearray) -> int:
    """The Internet's, RFC 1071: the one's complement of the sum in one's complement."""
    # 2^16 is 1 there, so all of it may be one number.
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    return 0xFFFF - (number % 0xFFFF or 0xFFFF * (number > 0))
