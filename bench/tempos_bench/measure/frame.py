"""Builds the one Ethernet frame that live-frame measurements repeat. Pure; checksums complete."""

from __future__ import annotations

import socket
import struct

_ETHERTYPE_IPV4 = 0x0800
_TTL = 64
_DONT_FRAGMENT = 0x4000


def udp_frame(source: tuple[str, str, int], destination: tuple[str, str, int], payload: bytes) -> bytes:
    """Ethernet, IPv4 and UDP around ``payload``; each end is (MAC, IPv4 address, port)."""
    source_mac, source_ip, source_port = source
    destination_mac, destination_ip, destination_port = destination
    addresses = socket.inet_aton(source_ip) + socket.inet_aton(destination_ip)
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", source_port, destination_port, length, 0)
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
    # RFC 768: a computed 0 is sent as all ones, 0 means that there is none.
    udp_sum = checksum(pseudo + udp + payload) or 0xFFFF
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, _DONT_FRAGMENT, _TTL, socket.IPPROTO_UDP, 0)
    ip_sum = checksum(ip + addresses)
    return b"".join(
        (
            bytes.fromhex(destination_mac.replace(":", "")),
            bytes.fromhex(source_mac.replace(":", "")),
            _ETHERTYPE_IPV4.to_bytes(2, "big"),
            ip[:10],
            ip_sum.to_bytes(2, "big"),
            addresses,
            udp[:6],
            udp_sum.to_bytes(2, "big"),
            payload,
        )
    )


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
