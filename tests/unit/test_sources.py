"""Which address the events of a member leave from: who says so, what changes it, its sums for the kernel."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing, Group, Member, Topic
from tempos_broker import addresses
from tempos_broker.addresses import source_of
from tempos_broker.config.model import BrokerConfig, StaticMember, TopicConfig
from tempos_broker.membership import Registry

A, B = ("10.0.2.2", 5001), ("10.0.2.3", 5002)
CLIENT = 77
STATIC = StaticMember("10.0.9.9", 9998, "fixed")
LISTED = ("10.0.1.1", "10.0.1.9")


def config(*static: StaticMember, listen: tuple[str, ...] = LISTED) -> BrokerConfig:
    return BrokerConfig((TopicConfig(Topic(1, "alpha"), static),), listen=listen)


def sources(registry: Registry) -> list[tuple[int, str | None]]:
    return [(member.port, member.source) for group in registry.groups(1) for member in group.members]


def test_a_member_has_the_address_that_it_asked_and_keeps_it_until_it_asks_another() -> None:
    registry = Registry(config(), lambda ip: False)
    registry.subscribe("alpha", "g", A, CLIENT, 0, "10.0.1.9")
    registry.subscribe("alpha", "g", B, CLIENT, 0, "10.0.1.1")
    version = registry.version(1)
    registry.subscribe("alpha", "g", A, CLIENT, 1, "10.0.1.9")
    registry.heartbeat(A, CLIENT, 2)
    assert registry.version(1) == version
    assert sources(registry) == [(5001, "10.0.1.9"), (5002, "10.0.1.1")]
    registry.subscribe("alpha", "g", A, CLIENT, 3, "10.0.1.1")
    assert registry.version(1) == version + 1
    assert sources(registry) == [(5001, "10.0.1.1"), (5002, "10.0.1.1")], "in its old place"
    assert registry.next_expiry() == 10, "of the other one: it was renewed, too"


def test_what_was_asked_and_is_listened_on_no_more_is_chosen_anew() -> None:
    registry = Registry(config(), lambda ip: False, source_of(("10.0.1.1",)))
    assert registry.restore(1, "g", A, CLIENT, 10, "10.0.1.9")
    assert registry.restore(1, "g", B, CLIENT, 10)
    assert sources(registry) == [(5001, "10.0.1.1"), (5002, "10.0.1.1")]


def test_a_static_member_with_another_source_is_another_route() -> None:
    registry = Registry(config(STATIC), lambda ip: False)
    version = registry.version(1)
    registry.configure(config(STATIC), (), config(STATIC).topics, 0.0)
    assert registry.version(1) == version
    other = config(StaticMember(STATIC.ip, STATIC.port, STATIC.group, source="10.0.1.9"))
    registry.configure(other, (), other.topics, 0.0)
    assert registry.version(1) > version
    assert registry.groups(1) == (Group("fixed", (Member("10.0.9.9", 9998, source="10.0.1.9"),)),)


def test_with_every_address_the_kernel_chooses_for_whoever_asked_none() -> None:
    choose = source_of(("0.0.0.0",))
    assert (choose("10.0.2.2", None), choose("10.0.2.2", "10.7.7.7")) == (None, "10.7.7.7")


def test_of_several_addresses_it_is_the_kernel_s_if_the_broker_listens_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = {("0.0.0.0", "10.0.2.2"): "10.0.1.9", ("0.0.0.0", "10.0.2.3"): "10.0.1.7",
            ("10.0.1.9", "10.0.2.3"): "10.0.1.9"}  # fmt: skip
    monkeypatch.setattr(addresses, "way_from", lambda *way: ways.get(way))
    choose = source_of(LISTED)
    assert [choose(ip, None) for ip in ("10.0.2.2", "10.0.2.3", "10.0.2.4")] == [
        "10.0.1.9", "10.0.1.9", "10.0.1.1",
    ]  # fmt: skip
    assert choose("10.0.2.2", "10.0.1.1") == "10.0.1.1"
    assert source_of(("10.0.1.7",))("10.0.2.2", None) == "10.0.1.7"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
def test_the_kernel_is_asked_for_what_it_prefers_and_what_leads_there() -> None:
    assert source_of(("127.0.0.2", "127.0.0.1"))("127.0.0.9", None) == "127.0.0.1"
    # This machine has no such address, whoever has it.
    assert source_of(("203.0.113.77", "127.0.0.3"))("127.0.0.9", None) == "127.0.0.3"


ipv4 = st.integers(1, 2**32 - 2).map(lambda number: socket.inet_ntoa(struct.pack("!I", number)))


def summed(data: bytes) -> int:
    """RFC 1071, without the complement, as plainly as can be: modulo 2^16 - 1, and never 0 but of zeros."""
    return (sum(struct.unpack(f"!{len(data) // 2}H", data)) - 1) % 0xFFFF + 1


@given(ipv4, ipv4, st.integers(1, 65535))
def test_the_sums_of_a_member_are_those_of_its_addresses_and_port(source: str, ip: str, port: int) -> None:
    layout = pytest.importorskip("tempos_fastpath.layout")
    structs = pytest.importorskip("tempos_fastpath.structs")
    plan = pytest.importorskip("tempos_fastpath.plan")
    hop = plan.Hop(ip, port, 7, "02:00:00:00:00:01", "02:00:00:00:00:02", source)
    value = layout.encode_route(plan.Plan(1, 1, Framing.RAW, 1500, ((hop,),)), 1, {7: 3})
    member = structs.struct_from("struct tempos_route", value).members[0]
    packed = bytes(structs.ffi.buffer(structs.ffi.addressof(member)))
    there = socket.inet_aton(source) + socket.inet_aton(ip)
    assert packed[:8] == there, "as in an IPv4 header"
    assert packed[8:20] == bytes.fromhex("020000000002020000000001"), "as in an Ethernet header"
    assert socket.ntohs(member.ip_sum) == summed(there)
    assert socket.ntohs(member.udp_sum) == summed(there + struct.pack("!H", port))
