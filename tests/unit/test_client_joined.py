"""What the kernel hands over as one buffer is what would have come one by one."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Subscriber, Topic
from tempos._abi import EVENT_HEADER, FLAG_BATCH
from tempos._awaitables import in_time
from tempos.model import Framing
from tempos.receiving import loan
from tempos.receiving.intake import Intake
from tempos.repair.asking import Asking, Told, encode_told
from tempos.sending.gathered import MOST, kernel_segments

HEAT, RAW = Topic(7, "heat"), Topic(8, "raw", framing=Framing.RAW)
LIMIT = 20.0


def datagram(
    topic: int, publisher: int, sequence: int, delivery: int, epoch: int, flags: int, body: bytes
) -> bytes:
    return EVENT_HEADER.pack(topic, 16 | flags, 0, epoch, publisher, sequence, delivery, 5) + body


def intake(queue: int = 200, *, repaired: bool = False) -> Intake:
    made = Intake(queue, "deliver", 1, repair=2.0)
    for topic in (HEAT, RAW):
        feed = made.feeds.put(topic, "~own")
        if repaired and feed.is_event:
            made.repairs.follow(feed)
    made.begin()
    return made


def outcome(made: Intake) -> tuple[object, ...]:
    events = []
    while (event := made.inbox.take()) is not None:
        events.append(event._replace(received_ns=0))
    feed = made.feeds.get(HEAT.id)
    assert feed is not None
    accounts = list(made.publishers())
    return events, made.stats, accounts, feed.received(again=True), feed.missed


_STEPS = st.lists(
    st.tuples(
        st.sampled_from((7, 7, 7, 7, 8, 9)), st.sampled_from((1, 1, 1, 2)),
        st.sampled_from((1, 1, 1, 1, 2, -1)),
        st.sampled_from((1, 1, 1, 1, 3, -1)), st.sampled_from((0, 0, 0, 0, 0, FLAG_BATCH, 0x08)),
    ),
    min_size=2, max_size=70,
)  # fmt: skip


@given(st.lists(st.tuples(_STEPS, st.booleans()), min_size=1, max_size=4), st.integers(1, 6),
       st.booleans())  # fmt: skip
def test_joined_or_not_is_all_the_same(
    buffers: list[tuple[list[tuple[int, int, int, int, int]], bool]], epoch: int, repaired: bool
) -> None:
    one_by_one, joined = intake(repaired=repaired), intake(repaired=repaired)
    sequences, delivery = {1: 0xFFFFFFF0, 2: 0}, 0
    for steps, shorter in buffers:
        datagrams = []
        for topic, publisher, step, further, flags in steps:
            datagrams.append(
                datagram(topic, publisher, sequences[publisher], delivery, epoch, flags, b"\0\2ab")
            )
            sequences[publisher] = (sequences[publisher] + step) & 0xFFFFFFFF
            delivery = (delivery + further) & 0xFFFFFFFF
        if shorter:
            datagrams[-1] = datagrams[-1][:-3]
        for each in datagrams:
            one_by_one.receive(each)
        assert joined.takes_joined is not None
        joined.takes_joined(b"".join(datagrams), len(datagrams[0]))
    assert outcome(joined) == outcome(one_by_one)


async def test_a_crowd_is_read_in_buffers_and_nothing_of_it_is_lost() -> None:
    if not kernel_segments():
        pytest.skip("this kernel does not know UDP_SEGMENT")
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT], receive_buffer=1 << 20) as sub:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((sub.member.ip, sub.member.port))
            size = len(datagram(7, 1, 0, 0, 1, 0, b"body"))
            control = [(socket.IPPROTO_UDP, 103, struct.pack("=H", size))]
            sent, got = 0, deque[int]()
            while not (buffered := getattr(sub._reader, "_joins", False)) or sent < 40 * MOST:
                for _ in range(1 if buffered else 3):
                    crowd = [datagram(7, 1, sent + each, sent + each, 1, 0, b"body") for each in range(MOST)]
                    sock.sendmsg([b"".join(crowd)], control)
                    sent += MOST
                while len(got) < sent:
                    got.append((await in_time(sub.next(), LIMIT)).sequence or 0)
            await asyncio.sleep(0)
            sock.send(datagram(7, 1, sent, sent, 1, 0, b"alone"))
            alone = await in_time(sub.next(), LIMIT)
            assert (alone.sequence, alone.body) == (sent, b"alone")
        assert list(got) == list(range(sent))
        assert (sub.stats.missed, sub.stats.overruns, sub.stats.events) == (0, 0, sent + 1)


async def test_one_who_lends_its_socket_is_handed_nothing_joined() -> None:
    subscriber = Subscriber.listen("127.0.0.1", 0, topics=[HEAT])
    loan.reads_single(subscriber)
    async with subscriber:
        assert getattr(subscriber._reader, "_joined", None) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not say what they lose")
async def test_what_the_last_burst_lost_is_known_though_nothing_follows() -> None:
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT], receive_buffer=65_536) as sub:
        assert sub.member is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # All before the subscriber has its turn.
            for number in range(2000):
                sock.sendto(datagram(7, 1, number, number, 1, 0, b"body"), (sub.member.ip, sub.member.port))
        await in_time(sub.next(), LIMIT)
        while sub._reader is not None and sub._reader.read_now():
            pass
        stats = sub.stats
        assert stats.datagrams + stats.overruns == 2000
        assert stats.overruns > 1000


async def test_what_is_told_of_the_end_waits_behind_what_waits_to_be_taken() -> None:
    """While a new member is given what was before it, live events wait; none of them is missing."""
    made, asked = Intake(200, "deliver", 1, repair=2.0), list[bytes]()
    feed = made.feeds.put(HEAT, "~own")
    made.repairs.begin(5, Asking(5, None), asked.append, lambda: 1)
    made.repairs.follow(feed)
    feed.tracker.in_force(3)
    for number in range(4):
        made.receive(datagram(7, 1, number, number, 3, 0, b"body"))
    made.receive(encode_told(Told(5, HEAT.id, 3, 6)))
    made.receive(datagram(7, 1, 4, 4, 3, 0, b"body"))
    assert feed.tracker.missed == 0
    made.begin()
    # What it says lacks at its place in the stream does: the sixth. The fifth came behind it.
    stats = made.stats
    assert (stats.events, stats.missed, stats.late, stats.duplicates) == (5, 1, 1, 0)
    made.repairs.end()
