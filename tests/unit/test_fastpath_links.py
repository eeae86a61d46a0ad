"""What the kernel says of bridges, bonds and their ports, as bytes, and where a program belongs by it."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

import pytest

pytest.importorskip("pyroute2")

from tempos_fastpath.network.facts import Facts, Interface
from tempos_fastpath.network.netlink import Link, Netlink, attribute
from tempos_fastpath.network.targets import unfit

NAME, MASTER, LINKINFO = 3, 10, 18
KIND, DATA, PORT_KIND, PORT_DATA = 1, 2, 4, 5
VLAN_FILTERING, PORT_STATE, BOND_MODE, RESERVE = 7, 1, 1, 1
DISABLED, LISTENING, LEARNING, FORWARDING, BLOCKING = range(5)


def told(name: str, *info: bytes, master: int = 0) -> bytes:
    """An interface as RTM_NEWLINK has it."""
    head = struct.pack("=BxHiII", socket.AF_UNSPEC, 1, 7, 0x1043, 0)
    body = attribute(NAME, name.encode() + b"\0")
    body += attribute(MASTER, struct.pack("=I", master)) if master else b""
    return head + body + (attribute(LINKINFO, b"".join(info)) if info else b"")


def port(kind: bytes, *states: bytes) -> tuple[bytes, bytes]:
    """Of what another interface is a port of, and how it takes part."""
    return attribute(PORT_KIND, kind + b"\0"), attribute(PORT_DATA, b"".join(states))


def bridge(filtering: int) -> tuple[bytes, bytes]:
    data = attribute(5, struct.pack("=I", 1)) + attribute(VLAN_FILTERING, bytes((filtering,)))
    return attribute(KIND, b"bridge\0"), attribute(DATA, data)


class Canned(Netlink):
    """A kernel that answers with one interface."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def dump(self, kind: int, body: bytes, wanted: int) -> list[bytes]:
        return [self._payload]


def read(payload: bytes) -> Link:
    (link,) = Canned(payload).links()
    assert (link.index, link.flags) == (7, 0x1043)
    return link


def test_whether_a_bridge_keeps_vlans_apart() -> None:
    assert read(told("br0", *bridge(1))) == Link(
        7, 1, 0x1043, "br0", None, 0, "bridge", 0, False, 0, separates=True
    )
    assert not read(told("br0", *bridge(0))).separates
    assert not read(told("br0", attribute(KIND, b"bridge\0"))).separates, "a kernel that does not say"
    # The mode of a bond has the number that filtering has of a bridge's.
    bond = attribute(KIND, b"bond\0"), attribute(DATA, attribute(VLAN_FILTERING, b"\1"))
    assert not read(told("bond0", *bond)).separates
    # It may be a port itself, and have ports.
    both = read(told("br0", *bridge(1), *port(b"bond", attribute(RESERVE, b"\1")), master=9))
    assert (both.separates, both.shut, both.master) == (True, True, 9)


@pytest.mark.parametrize("state", [DISABLED, LISTENING, LEARNING, FORWARDING, BLOCKING])
def test_a_bridge_forwards_from_a_port_in_one_state(state: int) -> None:
    link = read(
        told("eth0", *port(b"bridge", attribute(PORT_STATE, bytes((state,))), attribute(2, b"\0\x20")))
    )
    assert link.shut == (state != FORWARDING)


def test_a_bond_keeps_ports_in_reserve() -> None:
    assert read(told("eth0", *port(b"bond", attribute(RESERVE, b"\1")))).shut
    assert not read(told("eth0", *port(b"bond", attribute(RESERVE, b"\0")))).shut


def test_a_ring_names_its_ports_which_do_not_name_it() -> None:
    data = b"".join(attribute(number, struct.pack("=I", index)) for number, index in ((1, 3), (2, 5), (7, 1)))
    ring = read(told("hsr0", attribute(KIND, b"hsr\0"), attribute(DATA, data)))
    assert (ring.rings, ring.separates) == ((3, 5), False)
    # A bridge says other things by those numbers.
    assert read(told("br0", attribute(KIND, b"bridge\0"), attribute(DATA, data))).rings == ()


def test_who_says_nothing_of_its_state_takes_part() -> None:
    assert not read(told("eth0")).shut
    assert not read(told("eth0", *port(b"vrf", attribute(1, struct.pack("=I", 10))), master=9)).shut
    assert not read(told("eth0", *port(b"team"))).shut
    assert not read(told("eth0", *port(b"bridge"))).shut


def test_no_program_belongs_below_a_bridge_that_keeps_vlans_apart() -> None:
    card = Interface(3, "eth0", "02:00:00:00:00:03", 1500, True, True, True)
    apart = replace(card, index=2, name="br0", kind="bridge", separates=True)
    why = (
        "br0, which it is a port of, keeps VLANs apart (vlan_filtering), and alone knows which one "
        "a frame is of; fastpath.interfaces may name what has the address"
    )

    def reason(*others: Interface, master: int = 2) -> str:
        port_of = replace(card, master=master)
        return unfit(port_of, Facts({each.index: each for each in (port_of, *others)}, (), {}))

    assert reason(apart) == why
    assert reason(replace(card, index=4, name="bond0", kind="bond", master=2), apart, master=4) == why
    assert reason(replace(apart, separates=False)) == ""
    vlan = replace(card, index=5, name="br0.100", kind="vlan", link=2)
    for above in (apart, vlan):
        assert unfit(above, Facts({2: apart, 3: card, 5: vlan}, (), {})) == "", (
            "it sees what the bridge lets in"
        )
