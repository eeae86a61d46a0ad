"""One table of packets through real brokers, with and without a fast path: the same comes out.

Every row is injected as raw frames at the publisher's interface and captured at the subscriber's. A
sentinel on a topic of its own, which always takes the slow path and is served last, follows each row:
what arrives before it is what the row led to.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether
from support.bpf import require_compiler
from support.features import NO_TCX, no_tcx
from support.inject import Capture, Injector
from support.packets import (
    BESIDE,
    EVENT,
    FENCED,
    LIMITED,
    LONELY,
    PORT,
    RAW,
    ROUTED,
    ROWS,
    SEVERAL,
    SPILLING,
    WIDE_EVENT,
    WIDE_RAW,
    Addresses,
    Row,
    datagram,
    event,
    pseudo_sum,
    raw,
)
from support.packets_foreign import FENCED_FLOWS, FLOWS, FOREIGN_ROWS, LONELY_FLOWS, SEVERAL_FLOWS
from support.privileges import require_kernel, require_netns
from support.tagging import tags_by_mark
from support.waiting import LIMIT

from tempos import Fanout, Framing, Group, Member, Path, PathPolicy, Quality, Reason, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build, mac_of
from tempos_broker.status import FAST_LOSSES
from tempos_fastpath.network.kernel import veth_skb_at

# Whichever test is first sends the whole table through every mode, be the machine as busy as it may.
pytestmark = [pytest.mark.netns, pytest.mark.kernel, pytest.mark.timeout(1800)]

SENTINEL = Topic(200, "sentinel", Quality.BQ, 0, Framing.RAW, PathPolicy.SLOW)
SENTINEL_PORT = 7000
#: Beside the fast path's modes: native XDP that leaves the copies for several groups to tc.
MODES = ("off", "generic", "native", "tc")
ALL_SEVERAL = {**SEVERAL, **SEVERAL_FLOWS}
ALL_ROWS = (*ROWS, *FOREIGN_ROWS)


@dataclass(frozen=True)
class Outcome:
    """What a row led to: the frames that came out, normalised and sorted, and what the broker counted."""

    out: tuple[bytes, ...]
    refused: dict[str, int]
    forwarded: int
    fast: dict[str, int]


def normalised(frame: bytes) -> bytes:
    """The frame without what each hop sets for itself, after its checksums were found right.

    Masked: identification, don't-fragment (the slow path sends a packet of its own), both checksums, and
    link-layer padding.
    """
    packet = Ether(frame)
    ip = packet[IP]
    frame = frame[: 14 + ip.len]
    checks = (ip.chksum, packet[UDP].chksum)
    fresh = Ether(frame)
    del fresh[IP].chksum, fresh[UDP].chksum
    fresh = Ether(bytes(fresh))
    assert checks[0] == fresh[IP].chksum, "IPv4 checksum"
    assert checks[1] in {0, fresh[UDP].chksum, pseudo_sum(frame)}, "UDP checksum"
    assert ip.ttl > 0
    masked = bytearray(frame)
    masked[18:22] = bytes(4)
    masked[24:26] = masked[40:42] = bytes(2)
    return bytes(masked)


class Lane:
    """A topology with a running broker in one mode, and the sockets to test it through."""

    def __init__(self, stack: ExitStack, topology: Topology, mode: str) -> None:
        c = topology.subscriber.address
        # Of those in a group one asked nothing, one the address that publishers send to, one the other.
        self.asked = (None, *topology.broker.addresses)
        members = tuple(
            Member(c, port, source=asked) for port, asked in zip((6001, 6002, 6003), self.asked, strict=True)
        )
        topics = {
            RAW: (Group("workers", members),),
            EVENT: (Group("workers", members),),
            FENCED: (Group("workers", members),),
            WIDE_RAW: (Group("workers", members),),
            WIDE_EVENT: (Group("workers", members),),
            FLOWS: (Group("workers", members),),
            FENCED_FLOWS: (Group("workers", members),),
            LONELY: (),
            LONELY_FLOWS: (),
            **{
                _by(topic, mode) if groups > 1 else topic: self._groups(c, topic, groups)
                for topic, groups in ALL_SEVERAL.items()
            },
            LIMITED: (Group("workers", members),),
            SPILLING: (Group("workers", members),),
            SENTINEL: (Group("sentinel", (Member(c, SENTINEL_PORT),)),),
        }
        #: By the member's port, where its events must come from.
        self.source = {
            member.port: member.source or topology.facing_subscriber
            for topic, groups in topics.items()
            for group in groups
            if group.name not in {each.name for each in topic.groups if each.keep}
            for member in group.members
        }
        self.addresses = Addresses(
            src_mac=mac_of(topology.publisher.address),
            dst_mac=mac_of(topology.broker.address),
            src=topology.publisher.address,
            broker=topology.broker.address,
            member=c,
        )
        self.mode = mode
        a, c_node = topology.publisher, topology.subscriber
        tags_by_mark(a, a.interfaces[0])
        self.injector = stack.enter_context(closing(Injector(a, a.interfaces[0])))
        self.capture = stack.enter_context(closing(Capture(c_node, c_node.interfaces[0])))
        self.broker = stack.enter_context(
            Broker(topology.broker, topics, mode="native" if mode == "tc" else mode)
        )
        if mode != "off":
            for topic in (*ROUTED, FLOWS, FENCED_FLOWS, *SEVERAL_FLOWS, LIMITED, SPILLING):
                if ALL_SEVERAL.get(topic, 1) > 1 and not copies_in_the_kernel(mode):
                    assert NO_TCX in self.broker.wait_path(topic.name, Path.SLOW).reason
                else:
                    self.broker.wait_path(topic.name, Path.FAST)
        self._sentinels = 0
        #: As it was after the last row.
        self._status = self.broker.status()

    def _groups(self, address: str, topic: Topic, count: int) -> tuple[Group, ...]:
        """So many groups of three; no port twice, and no group that begins as the one before."""
        first = 10_000 + 100 * list(ALL_SEVERAL).index(topic)
        return tuple(
            Group(
                f"g{group}",
                tuple(
                    Member(address, first + 3 * group + turn, source=self.asked[(group + turn) % 3])
                    for turn in range(3)
                ),
            )
            for group in range(count)
        )

    def run(self, row: Row) -> Outcome:
        return self.inject(row.frames(self.addresses), partial=row.partial, mark=row.mark)

    def inject(self, into: list[bytes], *, partial: bool = False, mark: int = 0) -> Outcome:
        before = self._status
        for frame in into:
            self.injector.send(frame, partial=partial, mark=mark)
        self._sentinels += 1
        number = struct.pack("!I", self._sentinels)
        self.injector.send(bytes(datagram(self.addresses, bytes((SENTINEL.id,)) + number)))

        def is_sentinel(frame: bytes) -> bool:
            packet = Ether(frame)
            return (
                UDP in packet
                and packet[UDP].dport == SENTINEL_PORT
                and bytes(packet[UDP].payload)[1:5] == number
            )

        frames = [frame for frame in self.capture.until(is_sentinel, LIMIT) if UDP in Ether(frame)]
        for packet in map(Ether, frames):
            assert packet[IP].src == self.source.get(packet[UDP].dport, packet[IP].src), "from what it asked"
        after = self._status = self.broker.status()
        return Outcome(
            out=tuple(sorted(map(normalised, frames))),
            refused=_difference(_refused(before), _refused(after)),
            forwarded=_forwarded(after) - _forwarded(before),
            fast=_difference(_fast(before), _fast(after)),
        )


def copies_in_the_kernel(mode: str) -> bool:
    """Whether the fast path serves several groups in this mode; but in native mode that takes tc."""
    return mode == "native" or (mode != "off" and not no_tcx())


def _by(topic: Topic, mode: str) -> Topic:
    return replace(topic, fanout=Fanout.TC) if mode == "tc" else topic


def _topics(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [topic for topic in status["topics"] if topic["name"] != SENTINEL.name]


def _refused(status: dict[str, Any]) -> dict[str, int]:
    total: dict[str, int] = dict(status["unattributed"])
    for topic in _topics(status):
        for reason, count in topic["refused"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def _forwarded(status: dict[str, Any]) -> int:
    return sum(topic["fast"] + topic["slow"] for topic in _topics(status))


def _fast(status: dict[str, Any]) -> dict[str, int]:
    """How the fast path counted: forwarded, and passed by reason (over all topics)."""
    total: dict[str, int] = dict(status["paths"]["fast"]["passed"])
    for topic in _topics(status):
        total["forwarded"] = total.get("forwarded", 0) + topic["fast"]
        for reason, count in topic["passed"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}


@dataclass(frozen=True)
class Flood:
    """Too many at once; ``more``: places that came free while they were on their way, at most."""

    outcome: Outcome
    more: int


def too_many(lane: Lane, topic: Topic) -> Flood:
    """Twelve datagrams at once to a topic that takes three; every second one must take the slow path."""
    ways: tuple[dict[str, object], ...] = ({}, {"options": [IPOption_NOP()] * 4})
    frames = [datagram(lane.addresses, body, **ways[number % 2]) for number, body in enumerate(bodies(topic))]
    began = time.monotonic()
    outcome = lane.inject([bytes(frame) for frame in frames])
    return Flood(outcome, int((time.monotonic() - began) * topic.rate))


def bodies(topic: Topic) -> list[bytes]:
    """Each longer than the one before, so that no two leave as one buffer."""
    make = event if topic.framing is Framing.EVENT else raw
    return [make(bytes(number), topic=topic.id) for number in range(12)]


Floods = dict[tuple[str, str], Flood]


@pytest.fixture(scope="module")
def seen() -> tuple[dict[str, dict[str, Outcome]], Floods]:
    """Mode -> row -> outcome, and the floods; each mode has a broker and a topology of its own."""
    require_netns()
    require_kernel()
    require_compiler()
    results: dict[str, dict[str, Outcome]] = {}
    floods: Floods = {}
    for mode in MODES:
        with ExitStack() as stack:
            lane = Lane(stack, stack.enter_context(build("straight")), mode)
            results[mode] = {row.name: lane.run(row) for row in ALL_ROWS}
            for topic in (LIMITED, SPILLING):
                floods[mode, topic.name] = too_many(lane, topic)
                assert lane.broker.topic(topic.name).closed
            # Last, for where a native program cannot tell that there is a tag, it ends at the first.
            results[mode] |= {row.name: lane.run(row) for row in BESIDE}
    return results, floods


@pytest.fixture(scope="module")
def outcomes(seen: tuple[dict[str, dict[str, Outcome]], Floods]) -> dict[str, dict[str, Outcome]]:
    return seen[0]


@pytest.fixture(scope="module")
def floods(seen: tuple[dict[str, dict[str, Outcome]], Floods]) -> Floods:
    return seen[1]


def others(fast: Mapping[str, int]) -> dict[str, int]:
    """What the fast path counted without the nodes' own packets, as those of IGMP."""
    return {name: count for name, count in fast.items() if name != "not_udp"}


def test_the_table_is_large_and_names_every_row_once() -> None:
    assert len(ROWS) >= 40
    assert len({row.name for row in (*ALL_ROWS, *BESIDE)}) == len(ALL_ROWS) + len(BESIDE)


@pytest.mark.parametrize("row", [*ALL_ROWS, *BESIDE], ids=lambda row: row.name)
def test_a_packet_has_one_meaning(row: Row, outcomes: dict[str, dict[str, Outcome]]) -> None:
    slow, generic, native, tc = (outcomes[mode][row.name] for mode in MODES)
    assert slow.out == generic.out == native.out == tc.out
    assert slow.refused == generic.refused == native.refused == tc.refused
    assert slow.forwarded == generic.forwarded == native.forwarded == tc.forwarded

    if row.outcome is Reason.FORWARDED:
        assert (slow.forwarded, slow.refused) == (1, {})
        assert len(set(slow.out)) == row.groups
        from_others = [out for out in slow.out if out[34:36] != struct.pack("!H", PORT)]
        assert len(from_others) == int(row.kept), "all others from the data port"
    elif row.outcome is None:
        assert (slow.forwarded, slow.refused) == (0, {})
    else:
        assert (slow.forwarded, slow.refused) == (0, {row.outcome.label: 1})
        assert slow.out == ()

    assert not slow.fast.get("forwarded")
    if row.mark and veth_skb_at() is None:
        return
    if row.fast in FAST_LOSSES:
        # It has refused it itself, and passed nothing on.
        assert [others(each.fast) for each in (generic, native, tc)] == [{}] * 3
        return
    assert native.fast.get(row.fast.label, 0) >= 1, native.fast
    if row.several and not copies_in_the_kernel("tc"):
        # The slow path serves it: to the kernel it is a topic without a route.
        told = [
            {name: each.fast.get(name, 0) for name in ("forwarded", "by_clone")} for each in (generic, tc)
        ]
        assert told == [{"forwarded": 0, "by_clone": 0}] * 2
        return
    assert generic.fast.get((row.generic or row.fast).label, 0) >= 1, generic.fast
    assert tc.fast.get(row.fast.label, 0) >= 1, tc.fast
    by_clone = int(row.several and row.fast is Reason.FORWARDED)
    assert [each.fast.get("by_clone", 0) for each in (generic, native, tc)] == [by_clone, 0, by_clone]


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_that_drops_is_one_for_both_paths(mode: str, floods: Floods) -> None:
    flood = floods[mode, LIMITED.name]
    limited = flood.outcome
    assert 3 <= limited.forwarded <= 3 + flood.more
    assert limited.refused == {"over_rate": 12 - limited.forwarded}
    assert len(limited.out) == limited.forwarded
    if mode != "off":
        # Six come up for their options, whatever the bucket holds.
        assert limited.fast["ip_options"] == 6
        assert limited.fast.get("forwarded", 0) <= limited.forwarded


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_that_passes_is_the_fast_path_s(mode: str, floods: Floods) -> None:
    flood = floods[mode, SPILLING.name]
    spilling = flood.outcome
    assert (spilling.forwarded, spilling.refused) == (12, {})
    assert sorted(frame[42:] for frame in spilling.out) == sorted(bodies(SPILLING))
    if mode != "off":
        fast = others(spilling.fast)
        assert 3 <= fast["forwarded"] <= 3 + flood.more
        assert fast.pop("forwarded") + fast.pop("over_rate_passed", 0) == 6
        # The nodes may ask each other by ARP meanwhile.
        fast.pop("not_ipv4", None)
        assert fast == {"ip_options": 6}
