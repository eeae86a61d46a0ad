"""Groups that do not get all, or get it from the sender itself, in each program: bytes, and exact counts."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from scapy.layers.l2 import Ether
from support.cloning import SHOT, CloneRig
from support.expected import expected
from support.packets import datagram, partial
from support.privileges import require_kernel, require_netns
from support.program import ADDRESSES, Rig, hops

from tempos import Framing, GroupOptions, Pick, Reason, Topic
from tempos._abi import MAX_MEMBERS, SIEVE_AT, Way
from tempos._senders import takings
from tempos._slots import epoch_row
from tempos_bpf.objects import Verdict
from tempos_fastpath.layout import lost_copies
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.plan import Plan

pytestmark = pytest.mark.kernel

TOPIC, PORT = 1300, 2055
FLOWS = Topic(TOPIC, "flows", framing=Framing.FOREIGN, ports=(PORT,))
OURS, OTHERS = "192.0.2.7", "198.51.100.1"
FENCED = ("192.0.2.0/24", "203.0.113.9")
THREADS, EACH = 4, 3000


def frame(body: bytes = b"flow", src: str = OURS, sport: int = 40_000, **udp: object) -> bytes:
    return bytes(datagram(ADDRESSES, body, src=src, udp={"dport": PORT, "sport": sport, **udp}))


def plan(groups: Sequence[Sequence[Hop]], options: Sequence[GroupOptions], way: Way = Way.ONE, epoch: int = 1,
         pick: Pick = Pick.TURN) -> Plan:  # fmt: skip
    return Plan(TOPIC, epoch, Framing.FOREIGN, 1500, tuple(map(tuple, groups)), way=way, pick=pick,
                options=tuple(options))  # fmt: skip


def opened(rig: Rig) -> Rig:
    """The port is the topic's."""
    rig.ports.configure([FLOWS])
    return rig


def kept(member: Hop, of: bytes) -> Hop:
    """The member, as one that sees who sent this."""
    return replace(member, source=Ether(of)["IP"].src)


#: What a sender may have sent: complete, without a checksum, as a local socket leaves it; odd, and large.
FRAMES = {
    "complete": lambda: frame(b"odd"),
    "no checksum": lambda: frame(b"body", chksum=0),
    "partial": lambda: partial(frame(b"body")),
    "large": lambda: frame(bytes(range(256)) * 5, sport=65535),
    "padded": lambda: frame(b"x") + b"\xaa" * 16,
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("keep", [True, False])
def test_a_member_gets_it_from_its_sender_to_the_byte(rig: Rig, kind: str, keep: bool) -> None:
    (member,) = hops(1)
    opened(rig).install(plan([[member]], [GroupOptions("", keep=keep)]))
    sent = FRAMES[kind]()
    out = rig.run(sent)
    assert (out.verdict, out.topic, out.reason) == (Verdict.REDIRECT, TOPIC, Reason.FORWARDED)
    assert out.data == wanted(sent, member, keep=keep, generic=rig.generic)


def wanted(sent: bytes, member: Hop, *, keep: bool, generic: bool) -> bytes:
    """What that is, worked out by itself."""
    source_port = struct.unpack("!H", sent[34:36])[0] if keep else 9998
    return expected(sent, kept(member, sent) if keep else member, generic=generic, source_port=source_port)


@pytest.mark.parametrize("goal", range(-4, 5))
def test_checksums_at_the_turn_of_one_s_complement(rig: Rig, goal: int) -> None:
    (member,) = hops(1)
    opened(rig).install(plan([[member]], [GroupOptions("", keep=True)]))
    draft = wanted(frame(b"\0\0tail"), member, keep=True, generic=rig.generic)
    (now,) = struct.unpack("!H", draft[40:42])
    sent = frame(struct.pack("!H", (now - goal) % 0xFFFF) + b"tail")
    out = rig.run(sent)
    assert out.data == wanted(sent, member, keep=True, generic=rig.generic)


@pytest.mark.parametrize("pick", [Pick.TURN, Pick.SOURCE_PORT])
@pytest.mark.parametrize(
    "options",
    [
        GroupOptions("", every=7), GroupOptions("", FENCED), GroupOptions("", FENCED, 5),
        GroupOptions("", every=1),
    ],
    ids=["sample", "senders", "both", "all"],
)  # fmt: skip
def test_what_a_group_gets_is_exact_from_several_cpus_and_beside_the_slow_path(
    rig: Rig, options: GroupOptions, pick: Pick
) -> None:
    opened(rig).install(plan([hops(3)], [options], pick=pick))
    taking = next(iter(takings([options])), None)

    def kernel(number: int) -> Counter[int]:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[number % len(allowed)]})
        return Counter(rig.program.run_each([frame(), frame(src=OTHERS), frame(sport=9)] * (EACH // 3)))

    def slow() -> int:
        """Draws as the slow path does, of one sender that the group takes; how many of them go to members."""
        handed = 0
        for _ in range(EACH):
            number = rig.tickets.draw(TOPIC, 1, 0, 1)
            if taking and taking.meant:
                number = rig.tickets.draw(TOPIC, 1, taking.meant, 1)
            handed += number % options.every == 0
        return handed

    with ThreadPoolExecutor(THREADS + 1) as pool:
        ours = pool.submit(slow)
        runs = sum((each.result() for each in [pool.submit(kernel, n) for n in range(THREADS)]), Counter())
    assert set(runs) <= {Verdict.REDIRECT, Verdict.DROP}
    drawn = (THREADS + 1) * EACH
    taken = THREADS * EACH * 2 // 3 + EACH if options.sources else drawn
    assert rig.tickets.read(TOPIC, 1, 0) == drawn
    if taking and taking.meant:
        assert rig.tickets.read(TOPIC, 1, taking.meant) == taken
    assert runs[Verdict.REDIRECT] + ours.result() == -(-taken // options.every)
    # What was for nobody is forwarded all the same: every event is counted once.
    assert rig.counters() == {(TOPIC, Reason.FORWARDED): THREADS * EACH}
    if pick is not Pick.TURN:
        shares = [rig.tickets.read(TOPIC, 1, 16 + place) for place in range(3)]
        assert sum(shares) == runs[Verdict.REDIRECT], "counted is who gets it"


def test_in_turn_are_those_that_members_get(rig: Rig) -> None:
    members = hops(3)
    opened(rig).install(plan([members], [GroupOptions("", FENCED, 2)]))
    got = []
    for number in range(40):
        out = rig.run(frame(src=OTHERS if number % 4 == 3 else OURS))
        if out.verdict == Verdict.REDIRECT:
            got.append((number, struct.unpack("!H", out.data[36:38])[0]))
        else:
            assert (out.verdict, out.reason) == (Verdict.DROP, Reason.FORWARDED)
    theirs = [number for number in range(40) if number % 4 != 3][::2]
    assert got == [(number, members[turn % 3].port) for turn, number in enumerate(theirs)]


def test_as_many_members_and_networks_as_there_may_be(rig: Rig) -> None:
    """The last member stands right before what groups get, the tables right behind."""
    members, networks = hops(SIEVE_AT), (*(f"10.{n}.0.0/24" for n in range(254)), f"{OURS}/32")
    opened(rig).install(plan([members], [GroupOptions("", networks)]))
    ports = []
    for _ in range(SIEVE_AT):
        out = rig.run(frame())
        assert rig.run(frame(src=OTHERS)).verdict == Verdict.DROP
        ports.append(struct.unpack("!H", out.data[36:38])[0])
    assert ports == [member.port for member in members]
    for number in range(0, 254, 23):
        assert rig.run(frame(src=f"10.{number}.0.255")).verdict == Verdict.REDIRECT
        assert rig.run(frame(src=f"10.{number}.1.0")).verdict == Verdict.DROP
    assert len(members) < MAX_MEMBERS


def test_groups_that_an_event_is_not_for_have_lost_no_copy(loaded: Rig) -> None:
    """From several CPUs. A test run carries no copy out: as sent count those that are not for a group."""
    if loaded.generic:
        pytest.skip("generic mode makes no broadcast")
    loaded.clear()
    rig = opened(loaded)
    options = [
        GroupOptions(""),
        GroupOptions("", FENCED),
        GroupOptions("", every=4),
        GroupOptions("", FENCED, 3),
    ]
    rig.install(plan([hops(2)] * 4, options, Way.BROADCAST))

    def kernel(number: int) -> set[int]:
        return set(rig.program.run_each([frame(), frame(src=OTHERS)] * (EACH // 2)))

    with ThreadPoolExecutor(THREADS) as pool:
        assert set().union(*pool.map(kernel, range(THREADS))) == {Verdict.REDIRECT}
    total, ours = THREADS * EACH, THREADS * EACH // 2
    assert [rig.tickets.read(TOPIC, 1, group) for group in range(4)] == [total] * 4
    account = rig.map("copies").lookup_per_cpu(epoch_row(rig.rows.of[TOPIC], 1))
    assert lost_copies(account or (), 4) == [total, ours, total // 4, -(-ours // 3)]


def test_an_event_for_none_of_the_groups_is_forwarded_to_nobody(loaded: Rig) -> None:
    if loaded.generic:
        pytest.skip("generic mode makes no broadcast")
    loaded.clear()
    rig = opened(loaded)
    rig.install(
        plan([hops(1), hops(2)], [GroupOptions("", FENCED), GroupOptions("", every=2)], Way.BROADCAST)
    )
    verdicts = [rig.run(frame(src=OTHERS)).verdict for _ in range(4)]
    assert verdicts == [Verdict.REDIRECT, Verdict.DROP] * 2
    account = rig.map("copies").lookup_per_cpu(epoch_row(rig.rows.of[TOPIC], 1))
    assert lost_copies(account or (), 2) == [0, 2], "that a test run carries out"


@pytest.fixture(scope="module")
def clones() -> Iterator[CloneRig]:
    require_netns()
    require_kernel()
    rig = CloneRig()
    yield rig
    rig.close()


@pytest.mark.netns
@pytest.mark.parametrize("kind", [each for each in FRAMES if each not in {"partial", "padded"}])
def test_clones_differ_by_group(clones: CloneRig, kind: str) -> None:
    """One of all, one of some senders, one that sees the sender between two that do not."""
    clones.clear()
    near = clones.near[0]
    members = [replace(hop, ifindex=near) for hop in hops(4)]
    options = [
        GroupOptions(""),
        GroupOptions("", FENCED, keep=True),
        GroupOptions("", every=2),
        GroupOptions(""),
    ]
    clones.ports.configure([FLOWS])
    clones.install_plan(plan([[member] for member in members], options, Way.CLONE))
    sent = FRAMES[kind]()
    for number in range(4):
        source = OTHERS if number == 2 else OURS
        sent = sent if source == OURS else frame(b"body", src=source)
        out = clones.run(sent)
        assert (out.verdict, out.counted) == (SHOT, (TOPIC, Reason.FORWARDED))
        theirs = [0, *([1] if source == OURS else []), *([2] if number % 2 == 0 else []), 3]
        assert out.out[0] == [wanted(sent, members[n], keep=n == 1, generic=True) for n in theirs]
        sent = FRAMES[kind]()
    assert clones.copies(TOPIC, 1) == (4, [4] * 4 + [0] * 12)
    assert [clones.tickets.read(TOPIC, 1, group) for group in range(4)] == [4] * 4
    assert clones.tickets.read(TOPIC, 1, 63) == 3
