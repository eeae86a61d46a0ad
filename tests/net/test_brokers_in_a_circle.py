"""Two brokers that are each other's members, on either path: an event goes through one, and no further."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.nodes import udp
from support.privileges import require_kernel, require_netns

from tempos import DATA_PORT, Framing, Group, Member, Topic
from tempos.wire import encode_event, encode_raw
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

EVENT = Topic(1, "event")
RAW = Topic(2, "raw", framing=Framing.RAW)
LIMIT = 15.0
SENT = 20


def counts(broker: Broker, topic: Topic) -> tuple[int, int, dict[str, int]]:
    entry: dict[str, Any] = broker.entry(topic.name)
    return entry["received"], entry["fast"] + entry["slow"], entry["refused"]


@pytest.mark.parametrize("mode", ["off", "generic", "native"])
def test_an_event_goes_through_one_broker_only(mode: str) -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology:
        first, second = topology.broker, topology.subscriber
        # To the second one the first is whoever has the address that its events leave from.
        there = Group("there", (Member(second.address, DATA_PORT),))
        back = Group(
            "back", (Member(first.address, DATA_PORT), Member(topology.facing_subscriber, DATA_PORT))
        )
        with (
            Broker(first, {EVENT: (there,), RAW: (there,)}, mode=mode) as one,
            Broker(second, {EVENT: (back,), RAW: (back,)}, mode=mode) as other,
            udp(topology.publisher) as publisher,
        ):
            for number in range(SENT):
                publisher.sendto(encode_event(1, 7, number, 0, b"round"), (first.address, DATA_PORT))
                publisher.sendto(encode_raw(2, b"round"), (first.address, DATA_PORT))
            end = time.monotonic() + LIMIT
            for topic in (EVENT, RAW):
                while counts(other, topic)[0] < SENT:
                    assert time.monotonic() < end, (counts(one, topic), counts(other, topic))
                assert counts(one, topic) == (SENT, SENT, {})
                assert counts(other, topic) == (SENT, 0, {"from_broker": SENT})
