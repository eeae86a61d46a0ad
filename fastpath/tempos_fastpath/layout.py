"""Plans as the bytes of the kernel's structs, and counters back; the layouts are those of abi.h.

Pure functions over bytes. The structs are cffi's, compiled from the header: nothing is copied by hand.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tempos import Framing, Overflow, Quality, Reason, _abi
from tempos_fastpath.native import constant, struct_bytes, struct_from, struct_new, struct_size
from tempos_fastpath.plan import Hop, Plan

TICKET_SIZE = struct_size("struct tempos_ticket")
ROUTE_SIZE = struct_size("struct tempos_route")

TOPIC_SIZE = struct_size("struct tempos_topic")

QUALITIES = {quality: constant(f"TEMPOS_{quality.name}") for quality in Quality}
OVERFLOWS = {overflow: constant(f"TEMPOS_OVERFLOW_{overflow.name}") for overflow in Overflow}
_FRAMINGS = {framing: constant(f"TEMPOS_FRAMING_{framing.name}") for framing in Framing}
#: The first byte of an IPv4 header: version 4, five words.
_IP_VERSION_IHL = 0x45


def ticket_slot(topic: int, epoch: int, group: int) -> int:
    """Index into the ``tickets`` array; two epochs of a topic live side by side."""
    return (topic * 2 + (epoch & 1)) * _abi.MAX_GROUPS + group


def encode_settings(port: int, listen: Sequence[str], *, generic: bool, gone_after_ns: int = 0) -> bytes:
    """``struct tempos_settings``: what the program knows when it is loaded."""
    settings = struct_new("struct tempos_settings")
    settings.gone_after_ns = gone_after_ns
    settings.port = socket.htons(port)
    settings.generic = generic
    settings.listen_count = len(listen)
    for index, address in enumerate(listen):
        settings.listen[index] = _address(address)
    return struct_bytes(settings)


def encode_route(plan: Plan, slots: Mapping[int, int]) -> bytes:
    """``struct tempos_route`` of a plan; ``slots`` gives the egress slot of each interface index."""
    route = struct_new("struct tempos_route")
    route.epoch = plan.epoch
    route.ticket_base = ticket_slot(plan.topic, plan.epoch, 0)
    route.mtu = plan.mtu
    route.framing = _FRAMINGS[plan.framing]
    route.group_count = 1
    route.ip_start = socket.htons(_IP_VERSION_IHL << 8 | plan.tos)
    route.limited = plan.limited
    route.source_count = len(plan.sources)
    for index, source in enumerate(plan.sources):
        network = ipaddress.IPv4Network(source, strict=False)
        route.sources[index].network = _address(str(network.network_address))
        route.sources[index].mask = _address(str(network.netmask))
    route.groups[0].first = 0
    route.groups[0].count = len(plan.hops)
    for index, hop in enumerate(plan.hops):
        _fill_member(route.members[index], hop, slots[hop.ifindex])
    return struct_bytes(route)


def decode_route(value: bytes) -> tuple[int, frozenset[int]]:
    """Epoch and egress slots of a ``struct tempos_route``."""
    route = struct_from("struct tempos_route", value)
    groups = [route.groups[index] for index in range(route.group_count)]
    slots = {
        int(route.members[index].egress)
        for group in groups
        for index in range(group.first, group.first + group.count)
    }
    return int(route.epoch), frozenset(slots)


def decode_drop(key: bytes) -> tuple[int, int]:
    """Interface index and errno of a ``struct tempos_drop``."""
    drop = struct_from("struct tempos_drop", key)
    return int(drop.ifindex), int(drop.error)


def decode_counters(sums: memoryview) -> dict[int, dict[Reason, int]]:
    """The non-zero counts by topic and reason; ``sums`` are the rows of the ``counters`` map as u64s."""
    counts: dict[int, dict[Reason, int]] = {}
    for topic in range(_abi.TOPICS):
        row = sums[topic * len(Reason) : (topic + 1) * len(Reason)].tolist()
        if any(row):
            counts[topic] = {Reason(index): count for index, count in enumerate(row) if count}
    return counts


def _fill_member(member: Any, hop: Hop, slot: int) -> None:
    address, port = _address(hop.ip), socket.htons(hop.port)
    member.ip = address
    member.port = port
    member.egress = slot
    member.dst_mac = _mac(hop.mac)
    member.src_mac = _mac(hop.source_mac)
    member.ip_sum = (address & 0xFFFF) + (address >> 16)
    member.udp_sum = member.ip_sum + port


def _address(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), sys.byteorder)


def _mac(text: str) -> list[int]:
    return list(bytes.fromhex(text.replace(":", "")))
