"""Routes and paths change, the broker is killed, all under traffic from node to node: nothing goes astray.

What a full link or receiver dropped, and its kernel counted, is not the broker's loss; but the account must
know of it, to the event.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path as File
from typing import Any

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import Topology, build

pytestmark = pytest.mark.netns

TOPIC = Topic(id=7, name="events")
MODES = {"off": Path.SLOW, "generic": Path.FAST, "native": Path.FAST}


def crowd_of(topology: Topology, *options: object) -> Program:
    """Members made with the client library, ready; they leave when they are told what was sent."""
    return topology.subscriber.role(
        "library_members",
        "--address",
        topology.broker.address,
        "--topic",
        TOPIC.name,
        *options,
        ready=True,
        talk=True,
    )


def publish(topology: Topology, events: int, rate: int) -> Program:
    return topology.publisher.role(
        "demo.publish", "--to", topology.broker.address, "--topic", TOPIC.name,
        "--paced", events, "--rate", rate, "--burst", 0,
    )  # fmt: skip


def publish_until_told(topology: Topology, rate: int = 10_000) -> Program:
    return topology.publisher.role(
        "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", TOPIC.id,
        "--count", 10_000_000, "--rate", rate,
    )  # fmt: skip


def end(publisher: Program) -> int:
    """How many events it sent until now."""
    publisher.terminate()
    sent = publisher.result(LIMIT)
    assert sent["refused"] == 0
    return int(sent["sent"])


def assert_exact(broker: Broker, crowd: Program, legs: Legs, events: int) -> dict[str, Any]:
    """Every event arrived once but for what the links dropped, and the ledger, given back, knows it all."""
    got = crowd.ask({"sent": events}, limit=LIMIT)
    ledger: dict[str, Any] = broker.ask("GET", "/v1/ledger/events")
    dropped = legs.dropped()
    # What a starved broker did not come to read: its kernel counts it, and so does its own account.
    unread = broker.status()["unattributed"].get("socket_overrun", 0)
    told = f"{got}\n{ledger}\n{dropped}"
    (group,) = ledger["groups"]
    assert ledger["balanced"], told
    assert beyond(events - ledger["received"] - unread, dropped.first) == 0, told
    assert group["tickets"] == ledger["received"] == ledger["fast"] + ledger["slow"], told
    assert (group["delivered"], got["doubled"], got["unanswered"]) == (got["distinct"], 0, 0), told
    assert group["lost"] == got["lost"] == group["tickets"] - group["delivered"] <= dropped.last, told
    # Losses at the end of an epoch only the ledger knows.
    assert got["missed"] <= got["lost"], told
    return ledger


@pytest.mark.parametrize("mode", MODES)
def test_members_join_and_drain_under_traffic(mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    events, rate = 40_000, 8000
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode=mode) as broker:
        crowd = crowd_of(topology, "--seconds", events / rate - 1, "--rate", 10)
        broker.wait_path(TOPIC.name, MODES[mode])
        legs = Legs(topology)
        sent = publish(topology, events, rate).result(LIMIT)
        assert sent == {"sent": events, "refused": 0}
        ledger = assert_exact(broker, crowd, legs, events)
        assert broker.entry(TOPIC.name)["epoch"] > 30
        # A change that needs a neighbour the kernel does not know is served by the slow path until it does.
        assert (
            ledger["fast"] > events * 0.9
            if MODES[mode] is Path.FAST
            else ledger["slow"] == ledger["received"]
        )
        broker.stop()


def test_a_hundred_moves_between_the_paths_lose_and_double_nothing() -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode="native") as broker:
        crowd = crowd_of(topology, "--rate", 0)
        broker.wait_path(TOPIC.name, Path.FAST)
        legs = Legs(topology)
        publisher = publish_until_told(topology)
        broker.wait_received(TOPIC.name, 1)
        epoch = broker.ask("GET", "/v1/topics/events")["epoch"]
        for number in range(100):
            policy = ("slow", "fast")[number % 2]
            moved = broker.ask("POST", "/v1/topics/events/path", {"policy": policy})
            assert moved["path"] == policy, moved
        # Both paths had their turn, however quick or slow the moves were.
        broker.wait_received(TOPIC.name, broker.topic(TOPIC.name).received + 2000)
        assert broker.ask("GET", "/v1/topics/events")["epoch"] == epoch
        ledger = assert_exact(broker, crowd, legs, end(publisher))
        assert min(ledger["fast"], ledger["slow"]) > 1000, ledger
        broker.stop()


def test_a_killed_broker_is_followed_by_one_that_goes_on_where_it_was(tmp_path: File) -> None:
    """Offloaded events flow on while nobody is there; epoch, members and ledger go on with the next one."""
    require_netns()
    require_kernel()
    state = str(tmp_path / "state.db")
    with build("straight") as topology:
        broker = Broker(topology.broker, {TOPIC: ()}, mode="native", state=state)
        try:
            crowd = crowd_of(topology, "--rate", 0)
            broker.wait_path(TOPIC.name, Path.FAST)
            before = broker.status()
            legs = Legs(topology)
            # However long a start takes.
            publisher = publish_until_told(topology, 3000)
            # The first one that goes on where another was, and one that goes on where such a one was.
            for _ in range(2):
                broker.wait_received(TOPIC.name, broker.topic(TOPIC.name).received + 3000)
                os.kill(broker.pid, signal.SIGKILL)
                broker = Broker(topology.broker, {TOPIC: ()}, mode="native", state=state)
                assert broker.topic(TOPIC.name).path == "fast"
            after = broker.status()
            assert_exact(broker, crowd, legs, end(publisher))
            assert after["broker"]["instance"] == before["broker"]["instance"]
            assert [t["epoch"] for t in after["topics"]] == [t["epoch"] for t in before["topics"]]
            broker.stop()
        finally:
            broker.program.stop()
