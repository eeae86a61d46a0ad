"""Echo requests and replies, as scapy sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP

from tempos_bench.programs.icmp import is_reply, request

U16 = st.integers(0, 0xFFFF)


@given(U16, U16, st.binary(max_size=100))
def test_a_request_is_what_its_checksum_says(identity: int, sequence: int, body: bytes) -> None:
    made = request(identity, sequence, body)
    parsed = ICMP(made)
    rebuilt = parsed.copy()
    del rebuilt.chksum
    assert bytes(rebuilt) == made
    assert (parsed.type, parsed.id, parsed.seq) == (8, identity, sequence)


@pytest.mark.parametrize(
    ("packet", "is_ours"),
    [
        (IP() / ICMP(type=0, id=7, seq=9) / b"body", True),
        (IP(options=[b"\x01" * 4]) / ICMP(type=0, id=7, seq=9), True),
        (IP() / ICMP(type=8, id=7, seq=9), False),
        (IP() / ICMP(type=0, id=8, seq=9), False),
        (IP() / ICMP(type=0, id=7, seq=8), False),
    ],
)
def test_only_the_reply_to_our_request_counts(packet: IP, is_ours: bool) -> None:
    assert is_reply(bytes(packet), 7, 9) is is_ours


@given(st.binary(max_size=40))
def test_foreign_bytes_are_no_reply_and_raise_nothing(data: bytes) -> None:
    is_reply(data, 1 << 17, 0)
