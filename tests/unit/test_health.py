"""What comes back of packets to members: which it was, and that nothing strange ends the watch."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_broker.members.health import came_back


def unreachable(code: int = 3, kind: int = 3, protocol: int = 17, options: int = 0) -> bytes:
    """An ICMP packet about one from port 9998 to 10.0.2.2:7002."""
    inner = struct.pack("!BBHHHBBH4s4s", 0x45 + options, 0, 60, 0, 0, 64, protocol, 0,
                        socket.inet_aton("10.0.2.1"), socket.inet_aton("10.0.2.2"))  # fmt: skip
    inner += bytes(4 * options) + struct.pack("!HHHH", 9998, 7002, 40, 0)
    return bytes((0x45, *bytes(19))) + struct.pack("!BBHI", kind, code, 0, 0) + inner


@pytest.mark.parametrize("code", [0, 1, 2, 3, 9, 10, 13])
@pytest.mark.parametrize("options", [0, 2])
def test_a_packet_that_cannot_be_delivered_names_its_port_and_whom_it_was_for(
    code: int, options: int
) -> None:
    assert came_back(unreachable(code, options=options)) == (9998, "10.0.2.2", 7002)


def test_what_is_only_too_big_or_no_udp_or_no_such_message_says_nothing() -> None:
    for packet in (unreachable(4), unreachable(kind=11), unreachable(protocol=6), b""):
        assert came_back(packet) is None


@given(st.binary(max_size=80), st.integers(0, 56))
def test_anything_may_come(noise: bytes, cut: int) -> None:
    for packet in (noise, unreachable()[:cut], bytes((0x4F,)) + noise):
        found = came_back(packet)
        assert found is None or len(found) == 3
