"""Mutated packets through the XDP program: whatever comes, one verdict, counted once, under its reason.

``TEMPOS_FUZZ_PACKETS`` sets how many packets each mode gets, ``TEMPOS_FUZZ_WIDE`` how many of wide ids.
"""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from socket import inet_aton

import pytest
from scapy.layers.l2 import Ether
from support.fuzzing import judged, wide_payload
from support.packets import EVENT, PORT, RAW, ROWS, WIDE_EVENT, WIDE_RAW
from support.program import ADDRESSES, Rig, hops, plan

from tempos import Reason
from tempos._abi import Way
from tempos._slots import epoch_row
from tempos.wire import KEEP_ALIVE
from tempos_bpf.objects import Verdict
from tempos_fastpath.layout import lost_copies
from tempos_fastpath.plan import Plan

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

COUNT = int(os.environ.get("TEMPOS_FUZZ_PACKETS", "500000"))
WIDE = int(os.environ.get("TEMPOS_FUZZ_WIDE", str(COUNT // 5)))
BATCH = 10_000
SMALLEST, LARGEST = 14, 1514
CHECKSUM_FIELDS = ((24, 26), (40, 42))
VERDICTS = {
    Reason.FORWARDED: Verdict.REDIRECT,
    Reason.NO_EGRESS: Verdict.DROP,
    Reason.KEEP_ALIVE: Verdict.DROP,
}


def mutated(random_: random.Random, frame: bytes) -> bytes:
    """The frame with a few bytes changed, cut or grown; half of them with the header checksum mended."""
    out = bytearray(frame)
    for _ in range(random_.choice((0, 1, 1, 2, 3, 8))):
        # Most of what decides stands in the first 66 bytes.
        at = random_.randrange(min(len(out), random_.choice((66, len(out)))))
        out[at] = random_.choice((0, 0xFF, out[at] ^ 1 << random_.randrange(8), random_.randrange(256)))
    if random_.random() < 0.1:
        del out[random_.randrange(SMALLEST, len(out) + 1) :]
    elif random_.random() < 0.1:
        out += random_.randbytes(random_.randrange(64))
    if len(out) >= 34 and random_.random() < 0.6:
        out[24:26] = bytes(2)
        total = sum(int.from_bytes(out[at : at + 2], "big") for at in range(14, 34, 2))
        total = (total & 0xFFFF) + (total >> 16)
        out[24:26] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return bytes(out[:LARGEST])


def test_every_packet_is_counted_once_and_its_verdict_fits(rig: Rig) -> None:
    seed = random.SystemRandom().getrandbits(32)
    random_ = random.Random(seed)
    frames = [frame for row in ROWS for frame in row.frames(ADDRESSES) if len(frame) >= SMALLEST]
    for topic in (RAW, EVENT):
        rig.install(plan(topic.id, hops(3), framing=topic.framing, mtu=1000))
    # A route whose egress is gone, so that drops occur as well.
    rig.install(plan(200, hops(2), framing=RAW.framing), slot=9)
    lost = bytearray(bytes(frames[0]))
    lost[42] = 200
    # And one of several groups, whose copies no test run makes.
    several = Plan(201, 1, RAW.framing, 1000, (hops(3), hops(1), hops(2)), way=Way.BROADCAST)
    rig.install(several)
    copied = bytearray(lost)
    copied[42] = several.topic
    frames += [bytes(lost), bytes(copied)] * 4
    verdicts: Counter[Verdict] = Counter()
    done = 0
    while done < COUNT:
        batch = [mutated(random_, random_.choice(frames)) for _ in range(min(BATCH, COUNT - done))]
        verdicts.update(map(Verdict, rig.program.run_each(batch)))
        done += len(batch)
    by_reason: Counter[Reason] = Counter()
    by_verdict: Counter[Verdict] = Counter()
    for (_, reason), count in rig.counters().items():
        by_reason[reason] += count
        by_verdict[VERDICTS.get(reason, Verdict.PASS)] += count
    assert sum(by_reason.values()) == COUNT, f"seed {seed}"
    assert by_verdict == verdicts, f"seed {seed}"
    tickets = sum(rig.tickets.read(topic, 1, 0) for topic in (RAW.id, EVENT.id, 200, several.topic))
    assert tickets == by_reason[Reason.FORWARDED] + by_reason[Reason.NO_EGRESS], f"seed {seed}"
    carried = Reason.BY_CLONE if rig.generic else Reason.FORWARDED
    events = rig.counters().get((several.topic, carried), 0)
    drawn = {rig.tickets.read(several.topic, 1, group) for group in range(3)}
    assert events
    assert drawn == {0 if rig.generic else events}, f"seed {seed}"
    rows = rig.map("copies").lookup_per_cpu(epoch_row(several.topic, 1))
    assert lost_copies(rows or (), 3) == [*drawn] * 3, f"seed {seed}: none was sent"
    assert len(by_reason) >= 17, f"seed {seed}: the mutations reach too little: {sorted(by_reason)}"


def test_a_passed_packet_is_untouched_and_a_forwarded_one_is_sound(rig: Rig) -> None:
    seed = random.SystemRandom().getrandbits(32)
    random_ = random.Random(seed)
    frames = [row.frames(ADDRESSES)[0] for row in ROWS]
    for topic in (RAW, EVENT):
        rig.install(plan(topic.id, hops(3), framing=topic.framing))
    ports = {member.port for member in hops(3)}
    forwarded = 0
    for _ in range(COUNT // 100):
        frame = mutated(random_, random_.choice(frames))
        result = rig.program.run(frame)
        if result.verdict != Verdict.REDIRECT:
            kept = frame[42:44] == KEEP_ALIVE and result.verdict == Verdict.DROP
            assert kept or result.verdict == Verdict.PASS, f"seed {seed}"
            assert result.data == frame, f"seed {seed}"
            continue
        forwarded += 1
        assert len(result.data) == len(frame), f"seed {seed}"
        out = result.data
        header = sum(int.from_bytes(out[at : at + 2], "big") for at in range(14, 34, 2))
        assert header % 0xFFFF == 0, f"seed {seed}: IPv4 checksum of {Ether(out)!r}"
        assert int.from_bytes(out[36:38], "big") in ports, f"seed {seed}"
    # Of a third of the frames the topics are wide ones, which have no route here.
    assert forwarded > COUNT // 2000


def framed(payload: bytes) -> bytes:
    """A frame around it, without a UDP checksum; scapy would take a hundred times as long."""
    at, length = ADDRESSES, len(payload) + 28
    ends = map(inet_aton, (at.src, at.broker))
    ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 17, 0, *ends))
    total = sum(struct.unpack("!10H", ip))
    ip[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    macs = bytes.fromhex((at.dst_mac + at.src_mac).replace(":", ""))
    return macs + b"\x08\0" + ip + struct.pack("!4H", 40000, PORT, len(payload) + 8, 0) + payload


def test_wide_payloads_are_judged_as_the_wire_module_does(rig: Rig) -> None:
    """As `tempos_check_wide` and the portable slow path: one layout, one verdict, counted in one place."""
    seed = random.SystemRandom().getrandbits(32)
    random_ = random.Random(seed)
    for topic in (WIDE_RAW, WIDE_EVENT):
        rig.install(plan(topic.id, hops(3), framing=topic.framing))
    wanted: Counter[tuple[int, Reason]] = Counter()
    for _ in range(max(1, WIDE // BATCH)):
        payloads = [wide_payload(random_) for _ in range(BATCH)]
        wanted.update(map(judged, payloads))
        verdicts = rig.program.run_each([framed(payload) for payload in payloads])
        assert set(verdicts) == {Verdict.PASS, Verdict.REDIRECT}, f"seed {seed}"
    assert Counter(rig.counters()) == wanted, f"seed {seed}"
    reached = {reason for _, reason in wanted}
    assert len(reached) == 8, f"seed {seed}: {sorted(reached)}"
    tickets = sum(rig.tickets.read(topic.id, 1, 0) for topic in (WIDE_RAW, WIDE_EVENT))
    forwarded = sum(count for (_, reason), count in wanted.items() if reason is Reason.FORWARDED)
    assert tickets == forwarded, f"seed {seed}"
    print(f"{wanted.total():,} datagrams of wide ids, {forwarded:,} forwarded, {len(reached)} reasons")
