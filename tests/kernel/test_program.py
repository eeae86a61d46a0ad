"""The XDP program frame by frame: every reason, every byte of a rewrite, tickets, route swaps."""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from support.expected import expected
from support.packets import (
    EVENT,
    PORT,
    RAW,
    ROUTED,
    ROWS,
    STAMPED,
    Row,
    ambiguous,
    datagram,
    event,
    partial,
    raw,
    topic_of,
)
from support.program import ADDRESSES, LOOPBACK, Rig, hops, plan

from tempos import Framing, Reason, Topic
from tempos_bpf.objects import Verdict

pytestmark = pytest.mark.kernel

MEMBERS = hops(3)
#: Bytes of an event: the small ones, some around each step up to an Ethernet frame, and the most.
LENGTHS = (*range(3, 70), *(size + odd for size in range(126, 1450, 64) for odd in range(4)), 1471)
#: The routes that the table's frames meet.
TABLE = [
    replace(plan(topic.id, MEMBERS[:1], framing=topic.framing, epoch=0x1FE), sources=topic.sources, tos=0xB8)
    for topic in ROUTED
]
#: What no single frame of the table can show: the state around it decides.
BY_STATE = {
    Reason.TOO_BIG, Reason.NO_EGRESS, Reason.BROKER_GONE, Reason.OVER_RATE, Reason.OVER_RATE_PASSED,
    Reason.BY_CLONE, Reason.UNKNOWN_WAY_BACK, Reason.FOR_BRIDGE, Reason.REPEATED,
}  # fmt: skip
#: What only a real socket buffer has.
BY_BUFFER = {Reason.BURST}
#: What only the slow path counts.
SLOW_ONLY = {
    Reason.RESERVED_TOPIC, Reason.UNKNOWN_TOPIC, Reason.NO_MEMBER, Reason.QUEUE_FULL, Reason.CUT_SHORT,
    Reason.SEND_ERROR, Reason.SOCKET_OVERRUN, Reason.WORKER_LOST, Reason.BAD_RETURN, Reason.REPLY_UNSENT,
}  # fmt: skip


@cache
def frame_of(row: Row) -> bytes:
    """What a packet of the table is, which it takes as long to make as to try."""
    return row.frames(ADDRESSES)[-1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_of_the_table(loaded: Rig, row) -> None:
    loaded.keep(TABLE)
    frame = frame_of(row)
    reason = row.generic if loaded.generic and row.generic is not None else row.fast
    out = loaded.run(frame)
    assert out.reason is reason
    if reason is not Reason.FORWARDED:
        verdict = Verdict.DROP if reason is Reason.KEEP_ALIVE else Verdict.PASS
        assert (out.verdict, out.data) == (verdict, frame)
        return
    assert (out.verdict, out.topic) == (Verdict.REDIRECT, topic_of(frame))
    facts = {"epoch": 0x1FE, "stamped": out.topic in STAMPED, "tos": 0xB8}
    assert out.data == expected(frame, MEMBERS[0], generic=loaded.generic, **facts)


def test_the_table_reaches_every_reason_of_the_fast_path() -> None:
    reached = {reason for row in ROWS for reason in (row.fast, row.generic) if reason is not None}
    assert reached | BY_STATE | BY_BUFFER | SLOW_ONLY == set(Reason)


def test_a_packet_larger_than_the_smallest_mtu_passes(rig: Rig) -> None:
    rig.install(plan(RAW.id, MEMBERS, framing=Framing.RAW, mtu=100))
    fits, too_big = (bytes(datagram(ADDRESSES, raw(bytes(size)))) for size in (71, 72))
    assert rig.run(fits).reason is Reason.FORWARDED
    assert (out := rig.run(too_big)).reason is Reason.TOO_BIG
    assert (out.verdict, out.data) == (Verdict.PASS, too_big)
    assert rig.tickets.read(RAW.id, 1, 0) == 1, "what passes draws no ticket"


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        (["10.1.2.3/32"], Reason.FORWARDED),
        (["10.1.2.2/32", "10.1.2.4/32"], Reason.FOREIGN_SOURCE),
        (["0.0.0.0/0"], Reason.FORWARDED),
        (["10.1.2.99/24"], Reason.FORWARDED),
        ([f"192.0.2.{each}" for each in range(7)] + ["10.0.0.0/8"], Reason.FORWARDED),
        ([f"192.0.2.{each}" for each in range(8)], Reason.FOREIGN_SOURCE),
    ],
)
def test_a_topic_takes_events_from_its_networks_only(rig: Rig, sources: list[str], reason: Reason) -> None:
    rig.install(replace(plan(RAW.id, MEMBERS, framing=Framing.RAW), sources=tuple(sources)))
    frame = bytes(datagram(ADDRESSES, raw()))
    out = rig.run(frame)
    assert out.reason is reason
    assert (out.data == frame) == (reason is Reason.FOREIGN_SOURCE)
    assert rig.tickets.read(RAW.id, 1, 0) == (reason is Reason.FORWARDED), "a foreign one draws no ticket"


@pytest.mark.parametrize(
    "lengths", [(3, 4, 64, 127, 1471), pytest.param(LENGTHS, marks=pytest.mark.full)], ids=["few", "any"]
)
def test_partial_checksums_are_told_and_completed_at_any_length(rig: Rig, lengths: Sequence[int]) -> None:
    """Natively each becomes full; on an skb it stays partial, unless it could be full: then it passes."""
    rig.install(plan(RAW.id, MEMBERS[:1], framing=Framing.RAW))
    for length in lengths:
        body = random.Random(length).randbytes(length)
        frame = partial(bytes(datagram(ADDRESSES, raw(body))))
        out = rig.run(frame)
        assert out.reason is Reason.FORWARDED, length
        assert out.data == expected(frame, MEMBERS[0], generic=rig.generic), length
        (either,) = ambiguous(ADDRESSES, body)
        out = rig.run(either)
        assert out.reason is (Reason.AMBIGUOUS_CHECKSUM if rig.generic else Reason.FORWARDED), length
        if not rig.generic:
            assert out.data == expected(either, MEMBERS[0], generic=False), length


def test_an_egress_that_is_gone_drops_and_is_counted(rig: Rig) -> None:
    rig.install(plan(RAW.id, MEMBERS, framing=Framing.RAW), slot=5)
    out = rig.run(bytes(datagram(ADDRESSES, raw())))
    assert (out.verdict, out.reason) == (Verdict.DROP, Reason.NO_EGRESS)
    assert rig.tickets.read(RAW.id, 1, 0) == 1, "a ticket drawn is accounted for"


@pytest.mark.parametrize("topic", [RAW, EVENT], ids=lambda topic: topic.name)
def test_checksums_at_the_turn_of_one_s_complement(rig: Rig, topic: Topic) -> None:
    """The new full UDP checksum comes out at, and around, 0; a computed 0 is sent as 0xffff."""
    stamped = topic is EVENT
    rig.install(plan(topic.id, [MEMBERS[0]] * 2, framing=topic.framing))
    body, at = (event(b"\0\0tail"), 42 + 24) if stamped else (raw(b"\0\0\0tail"), 44)
    draft = bytearray(bytes(datagram(ADDRESSES, body)))
    reached = set()
    for ticket, goal in enumerate(range(-5, 6)):
        facts = {"generic": rig.generic, "epoch": 1, "sequence": ticket // 2, "stamped": stamped}
        draft[at : at + 2] = bytes(2)
        (now,) = struct.unpack("!H", expected(filled(draft), MEMBERS[0], **facts)[40:42])
        draft[at : at + 2] = struct.pack("!H", (now - goal) % 0xFFFF)
        frame = filled(draft)
        out = rig.run(frame)
        assert out.reason is Reason.FORWARDED
        assert out.data == expected(frame, MEMBERS[0], **facts)
        reached.add(struct.unpack("!H", out.data[40:42])[0])
    assert {0xFFFE, 0xFFFF, 1, 2} <= reached
    assert 0 not in reached


def filled(frame: bytes) -> bytes:
    """The frame with its UDP checksum in full."""
    packet = Ether(bytes(frame))
    del packet[UDP].chksum
    return bytes(packet)


@pytest.mark.parametrize("count", [1, 2, 3, 7, pytest.param(512, marks=pytest.mark.full)])
def test_round_robin_is_exact_and_every_member_sees_its_own_sequence(rig: Rig, count: int) -> None:
    members = hops(count)
    rig.install(plan(EVENT.id, members, framing=Framing.EVENT, epoch=7))
    frame = bytes(datagram(ADDRESSES, event()))
    rounds = max(2, 60 // count)
    for ticket in range(rounds * count):
        out = rig.program.run(frame).data
        member = members[ticket % count]
        assert out == expected(frame, member, generic=rig.generic, epoch=7, sequence=ticket // count,
                               stamped=True)  # fmt: skip
    assert rig.tickets.read(EVENT.id, 7, 0) == rounds * count
    assert rig.counters()[EVENT.id, Reason.FORWARDED] == rounds * count


def test_tickets_beyond_32_bits(rig: Rig) -> None:
    members = hops(3)
    rig.install(plan(EVENT.id, members, framing=Framing.EVENT))
    rig.tickets.draw(EVENT.id, 1, 0, (1 << 40) + 1)
    ticket = (1 << 40) + 1
    frame = bytes(datagram(ADDRESSES, event()))
    out = rig.run(frame)
    assert out.data == expected(frame, members[ticket % 3], generic=rig.generic, epoch=1,
                                sequence=ticket // 3 & 0xFFFFFFFF, stamped=True)  # fmt: skip


def test_a_new_epoch_takes_over_with_tickets_of_its_own(rig: Rig) -> None:
    frame = bytes(datagram(ADDRESSES, event()))
    old, new = hops(2), hops(3, first_port=9000)
    rig.install(plan(EVENT.id, old, framing=Framing.EVENT, epoch=1))
    for _ in range(5):
        rig.program.run(frame)
    rig.tickets.reset(EVENT.id, 2)
    rig.install(plan(EVENT.id, new, framing=Framing.EVENT, epoch=2))
    ports = Counter(Ether(rig.program.run(frame).data)[UDP].dport for _ in range(6))
    assert ports == {member.port: 2 for member in new}
    assert (rig.tickets.read(EVENT.id, 1, 0), rig.tickets.read(EVENT.id, 2, 0)) == (5, 6)
    rig.remove(EVENT.id)
    assert rig.run(frame).reason is Reason.NO_ROUTE


def test_swapping_routes_under_traffic_loses_and_doubles_nothing(rig: Rig) -> None:
    """Every frame meets exactly one epoch, and after a swap no ticket of the old one is drawn any more."""
    frames = [bytes(datagram(ADDRESSES, raw()))] * 2000
    rig.install(plan(RAW.id, hops(3), framing=Framing.RAW, epoch=0))
    final: list[int] = []
    stop = threading.Event()

    def traffic() -> int:
        sent = 0
        while not stop.is_set():
            assert set(rig.program.run_each(frames)) == {Verdict.REDIRECT}
            sent += len(frames)
        return sent

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(traffic)
        for epoch in range(1, 9):
            rig.tickets.reset(RAW.id, epoch)
            rig.install(plan(RAW.id, hops(epoch), framing=Framing.RAW, epoch=epoch))
            final.append(rig.tickets.read(RAW.id, epoch - 1, 0))
        stop.set()
        sent = sending.result()
    final.append(rig.tickets.read(RAW.id, 8, 0))
    assert sum(final) == sent


def test_kernel_and_user_space_draw_from_one_sequence(rig: Rig) -> None:
    members = hops(3)
    rig.install(plan(EVENT.id, members, framing=Framing.EVENT))
    frame = bytes(datagram(ADDRESSES, event()))
    ports = {member.port: index for index, member in enumerate(members)}

    def kernel() -> list[int]:
        drawn = []
        for _ in range(3000):
            out = rig.program.run(frame).data
            (sequence,) = struct.unpack("!I", out[54:58])
            drawn.append(sequence * 3 + ports[struct.unpack("!H", out[36:38])[0]])
        return drawn

    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(kernel)
        ours = []
        while not theirs.done():
            first = rig.tickets.draw(EVENT.id, 1, 0, 2)
            ours += [first, first + 1]
    assert ours
    assert sorted(ours + theirs.result()) == list(range(rig.tickets.read(EVENT.id, 1, 0)))


def test_padding_and_identity_of_addresses_survive(rig: Rig) -> None:
    """A member that is the publisher itself, on the same link: the one-armed case."""
    back = replace(MEMBERS[0], ip=ADDRESSES.src, port=40000, mac=ADDRESSES.src_mac, ifindex=LOOPBACK)
    rig.install(plan(RAW.id, [back], framing=Framing.RAW))
    frame = bytes(datagram(ADDRESSES, raw(b"x"))) + b"\xaa" * 16
    out = rig.run(frame)
    assert out.data == expected(frame, back, generic=rig.generic)
    assert out.data.endswith(b"\xaa" * 16)
    assert Ether(out.data)[UDP].sport == PORT
