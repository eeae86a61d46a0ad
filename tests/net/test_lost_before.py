"""A link between publisher and broker that loses events: both accounts tell how many, on every data path."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from support.bpf import require_compiler
from support.lossy import AT, EVERY, loses_events
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import Path, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import build

pytestmark = pytest.mark.netns

TOPIC = Topic(id=7, name="events")
EVENTS, CROWD = 600, 50
MODES = {"off": Path.SLOW, "generic": Path.FAST, "native": Path.FAST}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    require_netns()
    require_compiler()
    if request.param != "off":
        require_kernel()
    return str(request.param)


def subscriber(node: Node, broker: Node, group: str | None = None) -> Subscriber:
    return node.call(lambda: Subscriber(broker.address, TOPIC.name, group=group).__enter__())


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def test_25_of_600_show_in_the_brokers_account_and_in_the_subscribers(mode: str) -> None:
    lost = len(range(AT, EVENTS, EVERY))
    with build("straight") as topology:
        loses_events(topology.publisher, topology.publisher.interfaces[0])
        with Broker(topology.broker, {TOPIC: ()}, mode=mode) as broker:
            c, b = topology.subscriber, topology.broker
            own = subscriber(c, b)
            pair = [subscriber(c, b, "workers") for _ in range(2)]
            broker.wait_path(TOPIC.name, MODES[mode])
            publisher = topology.publisher.call(lambda: Publisher(b.address).__enter__())
            assert publisher._inner is not None
            # Events of a crowd pass the filter as one buffer, of which it looks at the first alone.
            publisher._inner._gathered._segments = False
            for number in range(EVENTS):
                publisher.publish(TOPIC.name, number)
                if not (number + 1) % CROWD:
                    # A link's ring holds so many.
                    publisher.flush()
                    got = number + 1 - len(range(AT, number + 1, EVERY))
                    wait(lambda got=got: own.stats.datagrams == got)  # type: ignore[misc]
            publisher.close()

            def account() -> dict[str, Any]:
                (found,) = broker.ask("GET", "/v1/ledger")["topics"]
                return dict(found)

            def received() -> list[int]:
                return [count for row in account()["publishers"] for count in row["received"].values()]

            wait(lambda: received() == [EVENTS - lost] * 2 and account()["lost_before"]["settled"])
            found = account()
            (row,) = found["publishers"]
            assert (row["sent"], row["at_least"], row["at_most"]) == (EVENTS, lost, lost) == (600, 25, 25)
            assert (row["tells"], row["whole"], row["final"], found["received"]) == (True, True, True, 575)
            assert found["balanced"]
            own.close()
            (mine,) = own.publishers
            assert (mine.publisher, mine.events, mine.lost_before) == (row["publisher"], EVENTS - lost, lost)
            for member in pair:
                member.close()
            assert sum(one.events for member in pair for one in member.publishers) == EVENTS - lost
            assert {one.at_most for member in pair for one in member.publishers} == {None}
