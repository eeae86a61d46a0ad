"""The tc program frame by frame: a copy for every group, each byte of it, and what is lost of which group."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
from support.cloning import NEXT, SHOT, CloneRig
from support.expected import expected
from support.features import NO_TCX, no_tcx
from support.packets import (
    EVENT,
    FENCED,
    PORT,
    RAW,
    ROUTED,
    ROWS,
    STAMPED,
    Row,
    datagram,
    event,
    raw,
    topic_of,
)
from support.privileges import require_kernel, require_netns
from support.program import ADDRESSES, GATE, hops

from tempos import Framing, Reason, Unavailable
from tempos._abi import Way
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.network.legs import Hop

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

#: Not those that need a real socket buffer, nor what the kernel makes no buffer of.
TESTABLE = [row for row in ROWS if not row.partial and len(row.frames(ADDRESSES)[-1]) >= 34]
#: What the verifier walks through, with some room; more is a change that somebody should know of.
#: Wide routes come in two sizes, and it walks through all groups with either.
MOST_INSTRUCTIONS = 160_000
#: Of no interface.
NOWHERE = 0x7FFFFFF0


@pytest.fixture(scope="module")
def loaded() -> Iterator[CloneRig]:
    require_netns()
    require_kernel()
    rig = CloneRig()
    yield rig
    rig.close()


@pytest.fixture
def rig(loaded: CloneRig) -> CloneRig:
    """The program without a route, all tickets and counters at 0."""
    loaded.clear()
    return loaded


def groups_of(rig: CloneRig, *sizes: int) -> list[list[Hop]]:
    """So many groups, of these sizes; their members are reached by the links in turn."""
    members = iter(hops(sum(sizes)))
    near = rig.near
    return [
        [replace(next(members), ifindex=near[(group + turn) % len(near)]) for turn in range(size)]
        for group, size in enumerate(sizes)
    ]


def copies(rig: CloneRig, frame: bytes, picks: list[Hop], **facts: int) -> tuple[list[bytes], ...]:
    """What must come out at each far end: a partial checksum is none to a packet made from a frame."""
    sequence = facts.pop("sequence", 0)
    stamped = topic_of(frame) in STAMPED
    return tuple(
        [expected(frame, pick, generic=True, stamped=stamped, sequence=sequence, **facts)
         for pick in picks if pick.ifindex == near]
        for near in rig.near
    )  # fmt: skip


@pytest.mark.parametrize("row", TESTABLE, ids=lambda row: row.name)
def test_every_row_of_the_table(rig: CloneRig, row: Row) -> None:
    for topic in ROUTED:
        groups = groups_of(rig, 1, 2, 1)
        rig.install(topic.id, groups, framing=topic.framing, epoch=0x1FE, sources=topic.sources)
    frame = row.frames(ADDRESSES)[-1]
    out = rig.run(frame)
    if row.fast is not Reason.FORWARDED:
        assert (out.verdict, out.counted, out.out) == (NEXT, None, ([], [])), "the XDP program has counted it"
        return
    assert (out.verdict, out.counted) == (SHOT, (topic_of(frame), Reason.FORWARDED))
    picks = [group[0] for group in groups]
    if row.generic is not None:
        # A full checksum all the same: here the kernel says which it is.
        assert [len(frames) for frames in out.out] == [len(each) for each in copies(rig, frame, picks)]
    else:
        assert out.out == copies(rig, frame, picks, epoch=0x1FE)
    assert rig.copies(topic_of(frame), 0x1FE) == (1, [1, 1, 1] + [0] * 13)


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (1, 2, 3, 7), tuple(range(1, 17))], ids=str)
def test_each_group_goes_round_by_itself(rig: CloneRig, sizes: tuple[int, ...]) -> None:
    groups = groups_of(rig, *sizes)
    rig.install(EVENT.id, groups, framing=Framing.EVENT, epoch=7)
    frame = bytes(datagram(ADDRESSES, event()))
    for ticket in range(2 * max(sizes)):
        out = rig.run(frame)
        wanted: tuple[list[bytes], ...] = ([], [])
        for group in groups:
            turn, pick = divmod(ticket, len(group))
            for near, copy in enumerate(copies(rig, frame, [group[pick]], epoch=7, sequence=turn)):
                wanted[near].extend(copy)
        assert out.out == wanted
    rounds = 2 * max(sizes)
    assert rig.copies(EVENT.id, 7) == (rounds, [rounds] * len(sizes) + [0] * (16 - len(sizes)))
    assert [rig.tickets.read(EVENT.id, 7, group) for group in range(17)] == (
        [rounds] * len(sizes) + [0] * (17 - len(sizes))
    )


def test_a_copy_that_cannot_leave_is_lost_to_its_group_alone(rig: CloneRig) -> None:
    groups = groups_of(rig, 1, 2, 1)
    groups[1][1] = replace(groups[1][1], ifindex=NOWHERE)
    rig.install(RAW.id, groups, framing=Framing.RAW)
    frame = bytes(datagram(ADDRESSES, raw()))
    for _ in range(4):
        out = rig.run(frame)
        assert (out.verdict, out.counted) == (SHOT, (RAW.id, Reason.FORWARDED))
    assert [len(frames) for frames in out.out] == [
        sum(group[-1].ifindex == near for group in groups) for near in rig.near
    ]
    events, sent = rig.copies(RAW.id, 1)
    assert (events, sent[:4]) == (4, [4, 2, 4, 0])


def test_what_an_interface_that_is_down_does_not_take_is_lost_to_its_group(rig: CloneRig) -> None:
    groups = groups_of(rig, 1, 1, 1)
    rig.install(RAW.id, groups, framing=Framing.RAW)
    frame = bytes(datagram(ADDRESSES, raw()))
    rig.set_up(1, False)
    try:
        out = rig.run(frame)
    finally:
        rig.set_up(1, True)
    assert out.verdict == SHOT
    # The groups' members are reached by the links in turn: the second one's by the link that is down.
    assert len(out.out[0]) == 2
    assert rig.copies(RAW.id, 1) == (1, [1, 0, 1] + [0] * 13)


def test_it_takes_what_the_xdp_program_hands_on_and_nothing_else(rig: CloneRig) -> None:
    """Frames with a few bytes turned: both programs draw the line in the same place."""
    rng = random.Random(4)
    topics = (RAW, EVENT, FENCED)
    for topic in topics:
        rig.install(topic.id, groups_of(rig, 1, 1), framing=topic.framing, sources=topic.sources)
    bodies = {RAW: raw(b"body of it"), EVENT: event(), FENCED: event(topic=FENCED.id)}
    good = [bytes(datagram(ADDRESSES, body)) for body in bodies.values()]
    taken = left = 0
    for _ in range(200):
        frame = bytearray(rng.choice(good))
        for _ in range(rng.randint(0, 2)):
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        before = sum(rig.handed_on(topic.id) for topic in topics)
        rig.xdp.run(bytes(frame))
        handed_on = sum(rig.handed_on(topic.id) for topic in topics) - before
        out = rig.run(bytes(frame))
        assert out.verdict == (SHOT if handed_on else NEXT)
        assert sum(map(len, out.out)) == 2 * handed_on
        taken, left = taken + handed_on, left + 1 - handed_on
    assert min(taken, left) > 25


def test_topics_of_one_group_are_left_to_the_slow_path(rig: CloneRig) -> None:
    rig.install(RAW.id, groups_of(rig, 2), framing=Framing.RAW, way=Way.ONE)
    out = rig.run(bytes(datagram(ADDRESSES, raw())))
    assert (out.verdict, out.counted, out.out) == (NEXT, None, ([], []))
    assert rig.tickets.read(RAW.id, 1, 0) == 0


def test_a_broadcast_route_is_cloned_where_a_packet_of_it_gets_here(rig: CloneRig) -> None:
    """From an interface in generic mode, beside others in native mode."""
    groups = groups_of(rig, 1, 1)
    rig.install(RAW.id, groups, framing=Framing.RAW, way=Way.BROADCAST)
    frame = bytes(datagram(ADDRESSES, raw()))
    assert rig.run(frame).out == copies(rig, frame, [group[0] for group in groups])


def test_the_program_does_not_grow_unnoticed(rig: CloneRig) -> None:
    assert 1000 < rig.program.info().verified_insns <= MOST_INSTRUCTIONS


def test_without_links_for_tc_programs_it_serves_nobody_and_says_why(rig: CloneRig) -> None:
    if no_tcx() is None:
        pytest.skip("this kernel has tcx: the test below")
    first, second = rig.near
    with closing(rig.clones()) as clones:
        with pytest.raises(Unavailable, match=f"cannot attach tc program tempos_clone to near0.*{NO_TCX}"):
            rig.here(lambda: clones.serve(rig.by_settings(first, second)))
        rig.install(RAW.id, [[replace(hop, ifindex=second)] for hop in hops(2)], framing=Framing.RAW)
        assert rig.arrive(bytes(datagram(ADDRESSES, raw())), 0, 1) == [], "on no interface"


def test_it_serves_the_interfaces_it_is_told_and_no_others(rig: CloneRig) -> None:
    """Attached for real, and met by what comes in there."""
    if lacking := no_tcx():
        pytest.skip(f"{lacking}: the test above")
    first, second = rig.near
    members = [[replace(hop, ifindex=second)] for hop in hops(2)]
    rig.install(RAW.id, members, framing=Framing.RAW)
    frame = bytes(datagram(ADDRESSES, raw()))
    copied = [expected(frame, group[0], generic=True) for group in members]
    with closing(rig.clones()) as clones:
        assert rig.arrive(frame, 0, 1) == [], "attached to nothing yet"
        rig.here(lambda: clones.serve(rig.by_settings(first)))
        rig.here(lambda: clones.serve(rig.by_settings(first, second)))
        assert rig.arrive(frame, 0, 1) == copied, "attached once, however often it is told"
        with pytest.raises(Unavailable, match="cannot attach tc program tempos_clone"):
            rig.here(lambda: clones.serve(rig.by_settings(NOWHERE, first)))
        assert rig.arrive(frame, 0, 1) == copied, "one refusal is no other's"
        # While the XDP program there is replaced it is off, and then goes by what that goes by.
        usual = rig.by_settings(first)[first]
        other = encode_settings(PORT, ["10.9.9.9"], GATE, generic=False)

        def meanwhile(settings: bytes) -> list[bytes]:
            with clones.replaced(first, settings):
                return rig.arrive(frame, 0, 1)

        for settings, during, then in ((usual, copied, copied), (other, [], []), (usual, [], copied)):
            assert rig.here(partial(meanwhile, settings)) == during
            assert rig.arrive(frame, 0, 1) == then
        rig.here(lambda: clones.serve(rig.by_settings(second)))
        assert rig.arrive(frame, 0, 1) == []
        rig.here(lambda: clones.serve(rig.by_settings(first)))
    assert rig.arrive(frame, 0, 1) == [], "closed, and so gone"
    assert rig.copies(RAW.id, 1) == (5, [5, 5] + [0] * 14)
