"""IPsec policies as the kernel tells them, and which flows one is for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tempos_fastpath.network.ipsec import Flow, Policy, guarded, hindrance, policy_of

#: What Linux 6.18 says of
#: `ip xfrm policy add dir out src 10.0.2.1/32 dst 10.0.2.0/24 proto udp sport 9998 dport 5000 priority 7
#: action block`.
RECORDED = bytes.fromhex(
    "0a0002000000000000000000000000000a0002010000000000000000000000001388ffff270effff0200182011000000"
    "0000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff0000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000032690b6b00000000"
    "0000000000000000070000000100000001010000000000000a0010000000000000000000"
)
OUT = Policy(
    7, True, "10.0.2.1/32", "10.0.2.0/24", (9998, 0xFFFF), (5000, 0xFFFF), 17, 0, True, False, "blocks it"
)
FLOW = Flow("10.0.2.1", 9998, "10.0.2.9", 5000, 3)


def test_a_message_of_the_kernel_is_read() -> None:
    assert policy_of(RECORDED, {}) == OUT
    sealed = bytearray(RECORDED)
    sealed[161] = 0
    assert policy_of(bytes(sealed), {5: bytes(64)}) == replace(OUT, what="has it encrypted or sealed")
    assert policy_of(bytes(sealed), {}) == replace(OUT, strict=False, what="lets it pass")
    assert policy_of(RECORDED, {21: bytes((1, 0, 0, 0, 255, 0, 0, 0))}) == replace(OUT, marked=True)
    assert policy_of(RECORDED, {31: bytes((9, 0, 0, 0))}) is None, "of an IPsec interface"
    for at, value in ((160, 2), (40, 10)):
        other = bytearray(RECORDED)
        other[at] = value
        assert policy_of(bytes(other), {}) is None, "what is routed, and IPv6"


@pytest.mark.parametrize(
    ("change", "of"),
    [
        ({}, True),
        ({"source": "10.0.2.2"}, False),
        ({"to": "10.0.3.9"}, False),
        ({"to_port": 5001}, False),
        ({"source_port": 1}, False),
        ({"to": None}, True),
    ],
)
def test_a_flow_is_hindered_by_what_is_for_it(change: dict[str, object], of: bool) -> None:
    flow = replace(FLOW, **change)  # type: ignore[arg-type]
    why = "an IPsec policy (10.0.2.1/32 to 10.0.2.0/24) blocks it"
    assert hindrance([OUT], flow, outgoing=True) == (why if of else "")
    assert hindrance([OUT], flow, outgoing=False) == ""


def test_the_first_by_priority_holds() -> None:
    clear = replace(OUT, priority=1, to="10.0.2.9/32", strict=False)
    assert hindrance([OUT, clear], FLOW, outgoing=True) == ""
    assert hindrance([OUT, replace(clear, priority=9)], FLOW, outgoing=True)
    assert hindrance([OUT, replace(clear, marked=True)], FLOW, outgoing=True), "which may not be for it"
    assert hindrance([OUT, clear], replace(FLOW, to=None), outgoing=True), "which is not for all of it"
    assert hindrance([replace(OUT, ifindex=3)], FLOW, outgoing=True)
    assert not hindrance([replace(OUT, ifindex=4)], FLOW, outgoing=True)


def test_what_guards_the_data_port_is_told() -> None:
    into = Policy(
        0, False, "10.9.0.0/16", "0.0.0.0/0", (0, 0), (0, 0), 0, 0, True, False, "has it encrypted or sealed"
    )
    assert guarded([into], ["10.0.1.1"], 9998) == (
        "an IPsec policy (10.9.0.0/16 to 0.0.0.0/0) has it encrypted or sealed"
    )
    assert guarded([replace(into, protocol=6)], ["10.0.1.1"], 9998) == ""
    assert guarded([replace(into, to_port=(22, 0xFFFF))], ["10.0.1.1"], 9998) == ""
    assert guarded([replace(into, to="10.0.3.0/24")], ["10.0.1.1"], 9998) == ""
    assert guarded([into], [], 9998) == ""
