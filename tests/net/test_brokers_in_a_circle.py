"""Two brokers that are each other's members, on either path: an event goes round until its TTL is spent."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.nodes import udp
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Framing, Group, Member, Topic
from tempos.wire import encode_event, encode_raw
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

EVENT = Topic(1, "event")
RAW = Topic(2, "raw", framing=Framing.RAW)
#: Events, and how often each of the two brokers gets one of them: TTL 64, 62 ... 2 and 63, 61 ... 1.
SENT, ROUNDS = 5, 32


def counts(broker: Broker, topic: Topic) -> tuple[int, int, dict[str, int]]:
    entry: dict[str, Any] = broker.entry(topic.name)
    return entry["received"], entry["fast"] + entry["slow"], entry["refused"]


@pytest.mark.parametrize(
    "modes", [("off", "off"), ("generic", "generic"), ("native", "native"), ("native", "off")]
)
def test_a_circle_ends(modes: tuple[str, str]) -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology:
        first, second = topology.broker, topology.subscriber
        there = Group("there", (Member(second.address, DATA_PORT),))
        back = Group("back", (Member(topology.facing_subscriber, DATA_PORT),))
        with (
            Broker(first, {EVENT: (there,), RAW: (there,)}, mode=modes[0]) as one,
            Broker(second, {EVENT: (back,), RAW: (back,)}, mode=modes[1]) as other,
            udp(topology.publisher) as publisher,
        ):
            for number in range(SENT):
                publisher.sendto(encode_event(1, 7, number, 0, b"round"), (first.address, DATA_PORT))
                publisher.sendto(encode_raw(2, b"round"), (first.address, DATA_PORT))
            end = time.monotonic() + LIMIT
            for topic in (EVENT, RAW):
                while counts(other, topic)[2] != {"ttl": SENT}:
                    assert time.monotonic() < end, (counts(one, topic), counts(other, topic))
                assert counts(one, topic) == (SENT * ROUNDS, SENT * ROUNDS, {})
                assert counts(other, topic) == (SENT * ROUNDS, SENT * (ROUNDS - 1), {"ttl": SENT})
