"""Plans as the bytes of the kernel's structs, and counters back; the layouts are those of abi.h.

Pure functions over bytes. The structs are cffi's, compiled from the header: nothing is copied by hand.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tempos import Framing, Member, Overflow, Pick, Quality, Reason, _abi
from tempos._abi import Tags, Way
from tempos._senders import ranges_of, takings
from tempos._slots import group_slot
from tempos._spread import slots_of
from tempos.histogram import Histogram, Latency
from tempos.model import Volume
from tempos_fastpath.broadcast import NOWHERE
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.plan import Plan
from tempos_fastpath.structs import (
    constant,
    struct_bytes,
    struct_from,
    struct_new,
    struct_offset,
    struct_size,
)

TICKET_SIZE = struct_size("struct tempos_ticket")
ROUTE_SIZE = struct_size("struct tempos_route")
#: Of one with no more than SMALL_MEMBERS members.
SMALL_ROUTE_SIZE = struct_offset("struct tempos_route", "members") + _abi.SMALL_MEMBERS * struct_size(
    "struct tempos_member"
)

_EPOCH_AT, _BASE_AT, _TOPIC_AT, _MEMBERS_AT = (
    struct_offset("struct tempos_route", field) for field in ("epoch", "ticket_base", "topic", "members")
)
_MEMBER_SIZE = struct_size("struct tempos_member")
#: Members that stay the same from one route to the next are not laid out anew: so many at a time.
_MEMBERS = 4096

#: Where what groups get begins, if that is not all, and the tables of those that pick by the source.
_SIEVE_AT, _TABLES_AT = (
    struct_offset("struct tempos_route", "members") + at * struct_size("struct tempos_member")
    for at in (_abi.SIEVE_AT, _abi.SPREAD_AT)
)
TOPIC_SIZE = struct_size("struct tempos_topic")
#: Bytes from the begin of a ``struct tempos_pulse``.
TAI_OFFSET_AT = struct_offset("struct tempos_pulse", "tai_offset_ns")

QUALITIES = {quality: constant(f"TEMPOS_{quality.name}") for quality in Quality}
OVERFLOWS = {overflow: constant(f"TEMPOS_OVERFLOW_{overflow.name}") for overflow in Overflow}
_FRAMINGS = {framing: constant(f"TEMPOS_FRAMING_{framing.name}") for framing in Framing}
PICKS = {pick: constant(f"TEMPOS_PICK_{pick.name}") for pick in Pick}
_NOTHING_MEASURED = Histogram((0,) * _abi.LATENCY_BUCKETS)
#: The first byte of an IPv4 header: version 4, five words.
_IP_VERSION_IHL = 0x45
_MAX_WORD = 0xFFFF
_BELOW_VLAN = (1 << _abi.VLAN_SHIFT) - 1
#: The first byte of an address from which on none is a host's.
_FIRST_MULTICAST = 224
_NO_MAC = "00:00:00:00:00:00"
_REASONS = tuple(Reason)
#: Numbers in `struct tempos_counters`: bytes stand before and behind the counts.
_COUNTERS = len(_REASONS) + 2


def encode_settings(
    port: int,
    listen: Sequence[str],
    gate: Gate,
    *,
    generic: bool,
    gone_after_ns: int = 0,
    tags: Tags = Tags.IN_FRAME,
    skb_at: int = 0,
) -> bytes:
    """``struct tempos_settings``: what the program on an interface with that gate knows when it is loaded."""
    settings = struct_new("struct tempos_settings")
    settings.gone_after_ns = gone_after_ns
    settings.port = socket.htons(port)
    settings.generic = generic
    settings.tags = tags
    settings.skb_at = skb_at if tags is Tags.READ else 0
    settings.listen_count = len(listen)
    for index, address in enumerate(listen):
        settings.listen[index] = _address(address)
    settings.mac_count = len(gate.macs)
    for index, mac in enumerate(gate.macs):
        settings.macs[index] = int.from_bytes(bytes((*_mac(mac), 0, 0)), sys.byteorder)
    settings.asks = gate.asks
    settings.learns = gate.learns
    vlans = () if generic else gate.vlans
    settings.vlan_count = len(vlans)
    for index, vlan in enumerate(vlans):
        settings.vlans[index].id = vlan.id
        settings.vlans[index].asks = vlan.asks
    settings.suspect_count = len(gate.suspects)
    for number in range(256):
        settings.first[number] = _abi.NO_HOST if number in (0, 127) or number >= _FIRST_MULTICAST else 0
        settings.last[number] = _abi.NO_HOST
    for index, address in enumerate(gate.suspects):
        settings.suspects[index] = _address(address)
        begins, *_, ends = socket.inet_aton(address)
        bit = 2 << index % 7
        settings.first[begins] |= bit
        settings.last[ends] |= bit
    return struct_bytes(settings)


class _Last:
    """What was laid out last, and of what. Routes that are alike share groups, so that is soon seen."""

    laid_out: tuple[tuple[object, ...], bytes] = (), b""


def encode_route(
    plan: Plan, row: int, slots: Mapping[int, int], fanout: int = 0, *, small: bool = False
) -> bytes:
    """``struct tempos_route`` of a plan; ``small``: as much of it as a small route has.

    ``row``: where its topic stands in every table. ``slots``: of one group, the egress slot of each interface
    index. ``fanout``: of a broadcast, the key of the first of its devmaps.
    """
    # Of thousands of topics with the same few members all but three numbers is the same.
    of = (
        plan.framing, plan.mtu, plan.groups, plan.sources, plan.way, plan.why, plan.tos, plan.limited,
        plan.journal, plan.pick, plan.options,
    )  # fmt: skip
    by = tuple(slots.items()), fanout
    last, laid_out = _Last.laid_out
    if last != (of, by):
        lay_out = _laid_out if len(plan.hops) <= _abi.SMALL_MEMBERS else _laid_out.__wrapped__
        laid_out = lay_out(Plan(0, 0, *of), *by)
        _Last.laid_out = (of, by), laid_out
    laid_out = laid_out[:SMALL_ROUTE_SIZE] if small else laid_out
    return _numbered(laid_out, plan.topic, plan.epoch, group_slot(row, plan.epoch, 0))


def _numbered(route: bytes, topic: int, epoch: int, base: int) -> bytes:
    """The route with these numbers: all that is a topic's own where several have the same members."""
    value = bytearray(route)
    struct.pack_into("=I", value, _EPOCH_AT, epoch)
    struct.pack_into("=I", value, _BASE_AT, base)
    struct.pack_into("=H", value, _TOPIC_AT, topic)
    return bytes(value)


@lru_cache(16)
def _laid_out(plan: Plan, slots: tuple[tuple[int, int], ...], fanout: int) -> bytes:
    route = struct_new("struct tempos_route")
    route.mtu = plan.mtu
    route.framing = _FRAMINGS[plan.framing]
    route.way = plan.way
    route.group_count = len(plan.groups)
    route.ip_start = socket.htons(_IP_VERSION_IHL << 8 | plan.tos)
    route.marks = _marks(plan)
    route.journal = plan.journal
    route.less = _bits(plan.less)
    route.by_sender = _bits(index for index, each in enumerate(plan.options) if each.sources)
    route.source_count = len(plan.sources)
    for index, source in enumerate(plan.sources):
        network = ipaddress.IPv4Network(source, strict=False)
        route.sources[index].network = _address(str(network.network_address))
        route.sources[index].mask = _address(str(network.netmask))
    egresses: Sequence[Mapping[int, int]] = [dict(slots)] * len(plan.groups)
    if plan.way is Way.BROADCAST:
        route.fanout = fanout
        egresses = plan.broadcast.weights
    elif plan.way is Way.CLONE:
        egresses = [dict.fromkeys(plan.wires, 0)] * len(plan.groups)
    first, tables, rows = 0, b"", []
    for index, (group, egress) in enumerate(zip(plan.groups, egresses, strict=True)):
        route.groups[index].first = first
        route.groups[index].count = len(group)
        if plan.pick is not Pick.TURN and len(group) > 1:
            route.groups[index].pick = PICKS[plan.pick]
            route.groups[index].slots = len(tables) // 2
            members = [Member(hop.ip, hop.port, weight=hop.weight) for hop in group]
            tables += array("H", slots_of(members)).tobytes()
        keep = index in plan.keeps
        rows += [_member(hop, egress[hop.wire], plan.way, keep) for hop in group]
        first += len(group)
    value = bytearray(struct_bytes(route))
    value[_MEMBERS_AT : _MEMBERS_AT + len(rows) * _MEMBER_SIZE] = b"".join(rows)
    value[_TABLES_AT : _TABLES_AT + len(tables)] = tables
    if plan.less:
        sieve = _sieve(plan)
        value[_SIEVE_AT : _SIEVE_AT + len(sieve)] = sieve
    return bytes(value)


def _marks(plan: Plan) -> int:
    tagged = plan.way is not Way.CLONE and any(hop.vlan for hop in plan.hops)
    return (_abi.ROUTE_LIMITED if plan.limited else 0) | (_abi.ROUTE_TAGGED if tagged else 0)


def _sieve(plan: Plan) -> bytes:
    """What the members of each group get, where those do not all get everything."""
    sieve = struct_new("struct tempos_sieve")
    for each in takings(plan.options):
        sieve.of[each.group].every = each.every
        sieve.of[each.group].taken = each.meant
    ranges = ranges_of(tuple(each.sources for each in plan.options))
    for index, (start, groups) in enumerate(zip(*ranges, strict=True)):
        sieve.ranges[index].start = start
        sieve.ranges[index].groups = groups
    return struct_bytes(sieve)


@dataclass(frozen=True, slots=True)
class HeldRoute:
    """What a ``struct tempos_route`` uses. ``egresses``: of each group, (interface, egress) of its members.

    The egress is a slot, or for a broadcast what the member adds to ``fanout``; there a group that does not
    get all has NOWHERE besides.
    """

    topic: int
    epoch: int
    way: Way
    fanout: int
    egresses: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def slots(self) -> frozenset[int]:
        """The egress slots it names."""
        found = (egress for group in self.egresses for _, egress in group if egress != _MAX_WORD)
        return frozenset(found) if self.way is Way.ONE else frozenset()


class _LastHeld:
    """The same of what was read last: a route without its numbers, and what that uses."""

    read = b"", HeldRoute(0, 0, Way.ONE, 0, ())


def decode_route(value: bytes) -> HeldRoute:
    """What the kernel holds for a topic, in a small route or in one of full size."""
    (topic,), (epoch,) = (
        struct.unpack_from("=H", value, _TOPIC_AT),
        struct.unpack_from("=I", value, _EPOCH_AT),
    )
    rest = _numbered(value, 0, 0, 0)
    last, held = _LastHeld.read
    if last != rest:
        held = _decoded(rest)
        _LastHeld.read = rest, held
    return HeldRoute(topic, epoch, held.way, held.fanout, held.egresses)


def _decoded(value: bytes) -> HeldRoute:
    route = struct_from("struct tempos_route", value.ljust(ROUTE_SIZE, b"\0"))
    groups = [
        [route.members[index] for index in range(group.first, group.first + group.count)]
        for group in route.groups[0 : route.group_count]
    ]
    way = Way(route.way)
    return HeldRoute(
        topic=int(route.topic),
        epoch=int(route.epoch),
        way=way,
        fanout=int(route.fanout),
        egresses=tuple(
            (
                *(((NOWHERE, 0),) if way is Way.BROADCAST and int(route.less) >> index & 1 else ()),
                *((int(each.ifindex) & _BELOW_VLAN, int(each.egress)) for each in group),
            )
            for index, group in enumerate(groups)
        ),
    )


def lost_copies(rows: Sequence[bytes], groups: int) -> list[int]:
    """Of the values of ``struct tempos_copies`` of all CPUs: copies for each group that were not sent."""
    lost = [0] * groups
    for copies in (struct_from("struct tempos_copies", value) for value in rows):
        for group in range(min(groups, _abi.MAX_GROUPS)):
            lost[group] += int(copies.events) - int(copies.sent[group])
    # The two are counted one after the other, and may be read in between.
    return [max(0, count) for count in lost]


def decode_latency(rows: Sequence[bytes]) -> Latency:
    """The values of ``struct tempos_latency`` of all CPUs as one."""
    # Most CPUs of a large machine never saw the topic: their rows are told by one comparison.
    parts = [struct_from("struct tempos_latency", row) for row in rows if row != bytes(len(row))]
    return Latency(
        program=_histogram([part.program for part in parts]),
        since_sent=_histogram([part.since_sent for part in parts]),
    )


def _histogram(parts: Sequence[Any]) -> Histogram:
    if not parts:
        return _NOTHING_MEASURED
    counts = [list(part.bucket) for part in parts]
    return Histogram(
        buckets=tuple(map(sum, zip(*counts, strict=True))),
        longest=max(int(part.longest) for part in parts),
        beyond=sum(int(part.beyond) for part in parts),
        ahead=sum(int(part.ahead) for part in parts),
    )


def devmap_value(ifindex: int, program_fd: int = 0) -> bytes:
    """``struct bpf_devmap_val``: an interface, and the program its frames pass on the way out, if any."""
    return ifindex.to_bytes(4, sys.byteorder) + program_fd.to_bytes(4, sys.byteorder)


def devmap_entry(value: bytes) -> tuple[int, int]:
    """Interface index and program id (0: none) of a slot that was read back."""
    return int.from_bytes(value[:4], sys.byteorder), int.from_bytes(value[4:8], sys.byteorder)


def decode_drop(key: bytes) -> tuple[int, int]:
    """Interface index and errno of a ``struct tempos_drop``."""
    drop = struct_from("struct tempos_drop", key)
    return int(drop.ifindex), int(drop.error)


def decode_counters(sums: memoryview, first: int = 0) -> dict[int, dict[Reason, int]]:
    """The non-zero counts by row and reason.

    ``sums``: rows of the ``counters`` map as u64s, of which ``first`` is the first.
    """
    counts: dict[int, dict[Reason, int]] = {}
    # Most are 0, and that is told by one comparison.
    data, none = bytes(sums), bytes(sums.itemsize * _COUNTERS)
    for row, at in enumerate(range(0, len(data), len(none)), first):
        if data[at : at + len(none)] != none:
            found = sums[_COUNTERS * (row - first) + 1 : _COUNTERS * (row - first + 1) - 1].tolist()
            counts[row] = {reason: count for reason, count in zip(_REASONS, found, strict=True) if count}
    return counts


def decode_volumes(sums: memoryview, first: int = 0) -> dict[int, Volume]:
    """Bytes of payload by row, where there are any; ``sums`` as above."""
    forwarded, dropped = sums[::_COUNTERS], sums[_COUNTERS - 1 :: _COUNTERS]
    volumes = enumerate(zip(forwarded, dropped, strict=True), first)
    # Of most rows there is nothing to be made.
    return {row: Volume(*volume) for row, volume in volumes if volume != (0, 0)}


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as runs of those that follow each other: the first one, and how many."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and number == sum(runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((number, 1))
    return runs


def _bits(places: Iterable[int]) -> int:
    return sum(1 << place for place in places)


@lru_cache(_MEMBERS)
def _member(hop: Hop, slot: int, way: Way, keep: bool) -> bytes:
    """``way``: how events get there, or not as far as that where it is left out."""
    member = struct_new("struct tempos_member")
    source, address, port = 0 if keep else _address(hop.source), _address(hop.ip), socket.htons(hop.port)
    member.source = source
    member.ip = address
    member.dst_mac = _mac(hop.mac or _NO_MAC)
    member.src_mac = _mac(hop.source_mac)
    member.port = port
    member.egress = slot
    member.ip_sum = _folded(source & 0xFFFF, source >> 16, address & 0xFFFF, address >> 16)
    member.udp_sum = _folded(member.ip_sum, port)
    # What tc sends by a VLAN device gets its tag there.
    member.ifindex = hop.ifindex if way is Way.CLONE else hop.wire | hop.vlan << _abi.VLAN_SHIFT
    if hop.left_out:
        _leave_out(member, way)
    return struct_bytes(member)


def _leave_out(member: Any, way: Way) -> None:
    """Let no event get as far as this member: as each way drops it where it costs the others nothing."""
    if way is Way.ONE:
        member.egress = _MAX_WORD  # no slot at all: no_egress
    elif way is Way.BROADCAST:
        member.port = 0  # the egress program drops the copy
    else:
        member.ifindex = 0  # no interface to clone to


def _folded(*words: int) -> int:
    """The one's complement sum of 16-bit words (RFC 1071)."""
    total = sum(words)
    while total > _MAX_WORD:
        total = (total & _MAX_WORD) + (total >> 16)
    return total


def _address(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), sys.byteorder)


def _mac(text: str) -> list[int]:
    return list(bytes.fromhex(text.replace(":", "")))
