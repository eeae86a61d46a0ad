"""What a member must get, byte by byte, worked out without any of the code under test."""

from __future__ import annotations

import struct

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from support.packets import partial, pseudo_sum
from tempos_fastpath.plan import Hop


def expected(frame: bytes, member: Hop, *, generic: bool, epoch: int = 0, sequence: int = 0,
             stamped: bool = False, tos: int = 0, source_port: int | None = None) -> bytes:  # fmt: skip
    """The frame as one member must get it: built anew, every checksum in full.

    ``source_port``: another one than the port it was sent to.
    """
    packet = Ether(frame)
    padding = frame[14 + packet[IP].len :]
    out = bytearray(frame[: 14 + packet[IP].len])
    if stamped:
        out[45] = epoch & 0xFF
        out[54:58] = struct.pack("!I", sequence)
    old_check, was_partial = packet[UDP].chksum, packet[UDP].chksum == pseudo_sum(bytes(out))
    packet = Ether(bytes(out))
    packet.dst, packet.src = member.mac, member.source_mac
    packet[IP].tos = tos
    packet[IP].src, packet[IP].dst, packet[IP].ttl = member.source, member.ip, packet[IP].ttl - 1
    packet[UDP].sport = packet[UDP].dport if source_port is None else source_port
    packet[UDP].dport = member.port
    del packet[IP].chksum, packet[UDP].chksum
    built = bytes(Ether(bytes(packet)))
    if old_check == 0:
        built = built[:40] + b"\0\0" + built[42:]
    elif was_partial and generic:
        built = partial(built)
    return built + padding
