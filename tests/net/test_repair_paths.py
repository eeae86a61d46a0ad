"""A link between broker and members that loses events at random: they are sent again, on every data path."""

from __future__ import annotations

from typing import Any

import pytest
from support.bpf import require_compiler
from support.lossy import loses_deliveries
from support.privileges import require_kernel, require_netns
from support.waiting import until

from tempos import Event, Path, Quality, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import build

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.netns

TOPIC = Topic(id=7, name="events", quality=Quality.SQ, journal=4096, journal_bytes=100)
EVENTS, CROWD = 2000, 20
MODES = {"off": Path.SLOW, "generic": Path.FAST, "native": Path.FAST}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    require_netns()
    require_compiler()
    if request.param != "off":
        require_kernel()
    return str(request.param)


def subscriber(node: Node, broker: Node, **options: Any) -> Subscriber:
    # On a machine that is busy with other things, too.
    options["repair"] = patience(30.0)
    return node.call(lambda: Subscriber(broker.address, TOPIC.name, **options).__enter__())


def events(member: Subscriber) -> list[Event]:
    got = []
    while (event := member.poll()) is not None:
        got.append(event)
    return got


def numbers(came: list[Event]) -> list[int]:
    """Sorted: on a link with a queue per processor events may pass each other on their way to the broker."""
    return sorted(event.unpack() for event in came)


def test_no_event_is_lost_and_none_comes_twice(mode: str) -> None:
    with build("straight") as topology:
        c, b = topology.subscriber, topology.broker
        with Broker(b, {TOPIC: ()}, mode=mode) as broker:
            own = subscriber(c, b, ordered=True)
            pair = [subscriber(c, b, group="workers") for _ in range(2)]
            broker.wait_path(TOPIC.name, MODES[mode])
            loses_deliveries(c, c.interfaces[0])
            publisher = topology.publisher.call(lambda: Publisher(b.address).__enter__())
            for number in range(EVENTS):
                publisher.publish(TOPIC.name, number)
                if not (number + 1) % CROWD:
                    # A link's ring holds so many.
                    publisher.flush()
                    until(lambda number=number: own.stats.events == number + 1)  # type: ignore[misc]
            publisher.close()
            members = [own, *pair]
            until(lambda: sum(member.stats.events for member in pair) == EVENTS)
            for member in members:
                member.close()
            in_order = events(own)
            assert [event.delivery_sequence for event in in_order] == list(range(EVENTS))
            assert numbers(in_order) == list(range(EVENTS))
            assert numbers([event for member in pair for event in events(member)]) == list(range(EVENTS))
            assert [(each.stats.missed, each.stats.given_up) for each in members] == [(0, 0)] * 3
            (found,) = broker.ask("GET", "/v1/ledger")["topics"]
            assert found["balanced"]
            assert found["received"] == found["slow" if mode == "off" else "fast"] == EVENTS
            for group in found["groups"]:
                assert (group["tickets"], group["delivered"], group["lost"]) == (EVENTS, EVENTS, 0)
                assert group["given_up"] == 0
            # The slow path's link loses some crowds whole, which are one buffer to it.
            repaired = sum(group["repaired"] for group in found["groups"])
            assert repaired > 0
            assert repaired == sum(member.stats.repaired for member in members)
