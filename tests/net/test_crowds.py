"""A crowd of events leaves its publisher as few buffers; each is an event of its own, on either path.

A link keeps a queue per processor: events of a thread that the scheduler moves between two may pass each
other on the way to the broker or from it. What is held to is that each comes once, with a ticket of its own.
"""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Path, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
#: A link's ring holds 256.
CROWD, CROWDS = 200, 20
#: By mode: which path events take. In generic mode buffers would be shown to it uncut, so there are none.
MODES = {"off": Path.SLOW, "native": Path.FAST, "generic": Path.FAST}


@pytest.mark.parametrize("mode", MODES)
def test_each_event_of_a_crowd_has_its_ticket_and_comes_once(mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode=mode) as broker:
        address = topology.broker.address
        sub = topology.subscriber.call(lambda: Subscriber(address, TOPIC.name).__enter__())
        broker.wait_path(TOPIC.name, MODES[mode])
        pub = topology.publisher.call(lambda: Publisher(address).__enter__())
        pub.publish(TOPIC.name, b"00000")
        assert sub.next(LIMIT).body == b"00000"
        for crowd in range(CROWDS):
            for number in range(CROWD):
                pub.publish(TOPIC.name, b"%05d" % (crowd * CROWD + number))
            pub.flush()
            came = 1 + (crowd + 1) * CROWD
            until(lambda came=came: sub.stats.datagrams == came)  # type: ignore[misc]
        events = [sub.next(LIMIT) for _ in range(CROWD * CROWDS)]
        assert sorted(int(event.body) for event in events) == list(range(CROWD * CROWDS))
        assert sorted(event.delivery_sequence for event in events) == list(range(1, 1 + CROWD * CROWDS))
        assert sub.stats.missed == 0
        assert pub.stats.events == pub.stats.datagrams == came
        pub.close()
        drained = sub.drain(LIMIT)
        assert drained is not None
        assert (drained.ticketed, drained.delivered, drained.lost) == (came, came, 0)
