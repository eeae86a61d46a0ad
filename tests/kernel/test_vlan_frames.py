"""Tagged frames through the native program: as their VLAN's device would have had them, or untouched.

The devices themselves, and tags beside frames, are among the networks of tests/networks.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kernel.test_program import TABLE, frame_of
from support.expected import expected
from support.packets import EVENT, ROWS, STAMPED, Row, datagram, event
from support.program import ADDRESSES, GATE, LOOPBACK, Rig, hops, plan

from tempos import Framing, Reason
from tempos_bpf.objects import Verdict
from tempos_fastpath.network.vlans import Vlan
from tempos_fastpath.structs import constant

pytestmark = pytest.mark.kernel

OURS, FOREIGN = 100, 101
#: Type, priority 5, id.
TAG = b"\x81\x00" + (5 << 13 | OURS).to_bytes(2, "big")
_MACS = 12
TAKEN = constant("TEMPOS_TAKEN").to_bytes(4, sys.byteorder)


def tagged(frame: bytes, tag: bytes = TAG) -> bytes:
    return frame[:_MACS] + tag + frame[_MACS:]


@pytest.fixture(scope="module", params=[False, True], ids=["quick", "timed"])
def carded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The program of a card that a VLAN stands on."""
    # With its MAC as the first: what is not tagged goes the quick way.
    gate = replace(GATE, macs=(ADDRESSES.dst_mac,), vlans=(Vlan(7, 8), Vlan(OURS, 9)))
    rig = Rig(generic=False, timed=request.param, gate=gate)
    yield rig
    rig.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_tagged_is_served_as_it_is_without_the_tag(carded: Rig, row: Row) -> None:
    carded.keep(TABLE)
    plain = frame_of(row)
    frame = tagged(plain)
    out = carded.run(frame)
    assert out.reason is row.fast
    # Of the tag nothing is left for the next frame.
    carded.reset()
    untagged = carded.run(plain)
    assert (untagged.verdict, untagged.reason) == (out.verdict, out.reason)
    if out.verdict == Verdict.PASS:
        assert untagged.data == plain
    if out.reason is not Reason.FORWARDED:
        verdict = Verdict.DROP if out.reason is Reason.KEEP_ALIVE else Verdict.PASS
        assert out.verdict == verdict
        if verdict is Verdict.PASS:
            assert out.data == frame, "priority and all"
        return
    facts = {"epoch": 0x1FE, "stamped": out.topic in STAMPED, "tos": 0xB8}
    assert out.verdict == Verdict.REDIRECT
    assert out.data == expected(plain, TABLE[0].groups[0][0], generic=False, **facts)


@pytest.mark.parametrize(
    "tag",
    [
        b"\x81\x00" + FOREIGN.to_bytes(2, "big"),
        b"\x81\x00\xe0\x00",
        b"\x88\xa8" + OURS.to_bytes(2, "big"),
        TAG + TAG,
        b"\x88\xa8\x00\x05" + TAG,
    ],
    ids=["another VLAN", "priority alone", "802.1ad", "twice", "inside another"],
)
def test_other_tags_are_the_kernel_s(carded: Rig, tag: bytes) -> None:
    carded.keep(TABLE)
    frame = tagged(bytes(datagram(ADDRESSES, event())), tag)
    out = carded.run(frame)
    assert (out.verdict, out.reason, out.data) == (Verdict.PASS, Reason.VLAN, frame)


@pytest.mark.parametrize("came", [False, True], ids=["came untagged", "came tagged"])
def test_a_member_in_a_vlan_gets_its_events_with_the_tag(carded: Rig, came: bool) -> None:
    (member,) = hops(1)
    inside = replace(member, ifindex=9, card=LOOPBACK, vlan=4094)
    tagging = plan(EVENT.id, [inside, member], framing=Framing.EVENT, epoch=2)
    carded.clear()
    carded.install(tagging)
    plain = bytes(datagram(ADDRESSES, event(b"body")))
    for sequence, tag in enumerate((b"\x81\x00\x0f\xfe", b"")):
        out = carded.run(tagged(plain) if came else plain)
        assert (out.verdict, out.reason) == (Verdict.REDIRECT, Reason.FORWARDED)
        wanted = expected(plain, member, generic=False, epoch=2, stamped=True)
        assert out.data == tagged(wanted, tag), sequence


def test_the_kernel_is_asked_for_sources_as_what_comes_in_by_the_vlan_s_device() -> None:
    """The card itself looks at no way back; with the device it is another thing."""
    rig = Rig(generic=False, gate=replace(GATE, vlans=(Vlan(OURS, 9, asks=9),)))
    try:
        rig.keep(TABLE)
        plain = bytes(datagram(ADDRESSES, event()))
        assert rig.run(plain).reason is Reason.FORWARDED
        out = rig.run(tagged(plain))
        assert (out.verdict, out.reason, out.data) == (Verdict.PASS, Reason.UNKNOWN_WAY_BACK, tagged(plain))
        key = struct.pack("=I4s", 9, socket.inet_aton(ADDRESSES.src))
        (asked,) = (key for key, _ in rig.map("sources").items())
        assert asked == key
        rig.map("sources").update(key, TAKEN)
        assert rig.run(tagged(plain)).reason is Reason.FORWARDED
    finally:
        rig.close()


def test_in_generic_mode_they_are_left_to_their_device() -> None:
    rig = Rig(generic=True, gate=replace(GATE, vlans=(Vlan(OURS, 9),)))
    try:
        rig.keep(TABLE)
        frame = tagged(bytes(datagram(ADDRESSES, event())))
        out = rig.run(frame)
        assert (out.verdict, out.reason, out.data) == (Verdict.PASS, Reason.VLAN, frame)
    finally:
        rig.close()
