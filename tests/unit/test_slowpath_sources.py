"""Source networks of topics: the compiled helper and its Python twin refuse the same senders."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Framing, Reason, Route, Topic
from tempos.wire import WIDE, check_payload, topic_in
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.sockets import DataSocket
from tempos_broker.slowpath.sources import Sources

LIMITS = Limits(queue_sq=64, queue_bq=64, batch=16, datagram=64)
#: All of 127.0.0.0/8 is this machine, so a sender can be anybody in it.
SENDERS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.1", "127.128.0.1", "127.255.0.254")

networks = st.builds(
    lambda sender, length: str(ipaddress.IPv4Network((sender, length), strict=False)),
    st.sampled_from([*SENDERS, "10.0.0.1", "128.0.0.1"]),
    st.sampled_from([0, 1, 8, 9, 16, 23, 24, 31, 32]),
)
sources = st.lists(networks, unique=True, max_size=8).map(tuple)


@pytest.fixture(scope="module")
def wires() -> Iterator[tuple[socket.socket, dict[str, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        near = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        near.bind(("127.0.0.1", 0))
        near.setblocking(False)
        senders = {}
        for ip in SENDERS:
            senders[ip] = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            senders[ip].bind((ip, 0))
            senders[ip].connect(near.getsockname())
        yield near, senders


def expected(topics: dict[int, Topic], filter_: Sources, payload: bytes, ip: str) -> Reason:
    topic = payload[0] if payload else 0
    if filter_.refuse(topic, ip):
        return Reason.FOREIGN_SOURCE
    if len(payload) > LIMITS.datagram:
        return Reason.CUT_SHORT
    reason = check_payload(payload, topics[topic].framing if topic in topics else Framing.RAW)
    if reason is Reason.FORWARDED and topic not in topics:
        return Reason.RESERVED_TOPIC if topic_in(payload) in (0, WIDE) else Reason.UNKNOWN_TOPIC
    return reason


@settings(deadline=None, max_examples=200)
@given(
    before=st.tuples(sources, sources),
    after=sources,
    sent=st.lists(
        st.tuples(
            st.sampled_from(SENDERS),
            st.sampled_from([b"", b"\x01", b"\x02", b"\x03", b"\x00", b"\xff"]),
            st.binary(max_size=70),
        ),
        min_size=1,
        max_size=LIMITS.batch,
    ),
)
def test_both_refuse_the_same_also_after_a_change(
    before: tuple[tuple[str, ...], tuple[str, ...]],
    after: tuple[str, ...],
    sent: list[tuple[str, bytes, bytes]],
    wires: tuple[socket.socket, dict[str, socket.socket]],
) -> None:
    native = pytest.importorskip("tempos_broker.slowpath.batched", reason="the compiled helper is not built")
    near, senders = wires
    topics = {
        1: Topic(1, "raw", framing=Framing.RAW, sources=before[0]),
        2: Topic(2, "event", framing=Framing.EVENT, sources=before[1]),
    }
    told: Counter[int] = Counter()
    latest: dict[int, str] = {}

    def on_foreign(topic: int, count: int, ip: str) -> None:
        told[topic] += count
        latest[topic] = ip

    core: SlowPath = SlowPath(topics.values(), LocalTickets(), 64, 64)
    batch = native.Batch(core, topics.values(), LIMITS, on_foreign)
    door = DataSocket(near, watches_drops=False)
    filter_ = Sources(topics.values())
    wanted: Counter[tuple[int, Reason]] = Counter()
    foreign: dict[int, str] = {}
    for change in (False, True):
        if change:
            topics[1] = Topic(1, "raw", framing=Framing.RAW, sources=after)
            batch.swap(Route(topics[1], 2, ()))
            filter_.set(topics[1])
        for ip, head, rest in sent:
            payload = head + rest if head else b""
            senders[ip].send(payload)
            topic = payload[0] if payload else 0
            reason = expected(topics, filter_, payload, ip)
            wanted[topic, reason] += 1
            if reason is Reason.FOREIGN_SOURCE:
                foreign[topic] = ip
        got = 0
        while got < len(sent):
            got += batch.receive(door, LIMITS.batch)
    while core.next_best_effort(64) is not None:
        pass
    counted = {
        (topic, Reason.FORWARDED if reason is Reason.NO_MEMBER else reason): count
        for topic, row in core.counters().items()
        for reason, count in row.items()
    }
    assert counted == wanted
    assert told == Counter({t: n for (t, reason), n in wanted.items() if reason is Reason.FOREIGN_SOURCE})
    assert latest == foreign


@given(sources, st.integers(0, 2**32 - 1))
def test_the_rule_is_that_of_the_networks(texts: tuple[str, ...], number: int) -> None:
    ip = socket.inet_ntoa(struct.pack("!I", number))
    inside = any(ipaddress.IPv4Address(ip) in ipaddress.IPv4Network(text) for text in texts)
    filter_ = Sources([Topic(9, "t", sources=texts)])
    assert filter_.refuse(9, ip) == bool(texts and not inside)
    assert not filter_.refuse(8, ip)
