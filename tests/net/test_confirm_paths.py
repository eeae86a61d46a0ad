"""A link between publisher and broker that loses at random: what lacks is sent again, on every data path."""

from __future__ import annotations

from typing import Any

import pytest
from support.bpf import require_compiler
from support.lossy import loses_what_is_published
from support.privileges import require_kernel, require_netns
from support.waiting import until

from tempos import Path, Quality, Topic
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
    options["repair"] = patience(30.0)
    return node.call(lambda: Subscriber(broker.address, TOPIC.name, **options).__enter__())


def numbers(member: Subscriber) -> list[int]:
    got = []
    while (event := member.poll()) is not None:
        got.append(event.unpack())
    return got


def test_all_that_was_published_comes_and_none_of_it_twice(mode: str) -> None:
    with build("straight") as topology:
        c, b = topology.subscriber, topology.broker
        with Broker(b, {TOPIC: ()}, mode=mode) as broker:
            own = subscriber(c, b)
            pair = [subscriber(c, b, group="workers") for _ in range(2)]
            broker.wait_path(TOPIC.name, MODES[mode])
            loses_what_is_published(topology.publisher, topology.publisher.interfaces[0])
            publisher = topology.publisher.call(lambda: Publisher(b.address, window=1 << 20).__enter__())
            for number in range(EVENTS):
                publisher.publish(TOPIC.name, number)
                if not (number + 1) % CROWD:
                    publisher.confirmed(patience(30.0))
            publisher.close()
            members = [own, *pair]
            until(lambda: own.stats.events == EVENTS)
            until(lambda: sum(member.stats.events for member in pair) == EVENTS)
            for member in members:
                member.close()
            assert sorted(numbers(own)) == list(range(EVENTS))
            assert sorted(number for member in pair for number in numbers(member)) == list(range(EVENTS))
            (found,) = broker.ask("GET", "/v1/ledger")["topics"]
            assert found["balanced"]
            for group in found["groups"]:
                assert (group["tickets"], group["delivered"], group["lost"]) == (EVENTS, EVENTS, 0)
