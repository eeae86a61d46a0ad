"""The search for what datagrams carry, and the figures that are made of what was measured."""

from __future__ import annotations

from array import array

import pytest

from tempos import Unavailable
from tempos_bench.measure.samples import Latency
from tempos_bench.nodes.node import local
from tempos_bench.nodes.topology import Topology
from tempos_bench.peers import ground, ways
from tempos_bench.peers.servers import Server
from tempos_bench.peers.ways import WAYS, Ends, Played, Way
from tempos_bench.suite import peers_latency, peers_rate

SECONDS = 0.5


def played(rate: float, lost: float = 0.0, p99: float = 1.0) -> Played:
    sent = int(rate * SECONDS)
    received = int(sent * (1 - lost))
    latency = Latency(sent, p99 / 2, p99, p99 * 2, p99 * 3, 0.0)
    return Played(sent, received, 0, 0, received / SECONDS, 0.0, (received,), 0.5, 1.0, 5_000_000, latency)


class Pipe(Ends):
    """Carries ``capacity`` events/s; of more it loses what is too much, and then some."""

    def __init__(self, capacity: float, offered: float) -> None:
        self._carried: dict[int, float] = {}
        self.capacity, self.offered = capacity, offered
        self.asked: list[float] = []

    def play(
        self, size: int, seconds: float, rate: float = 0.0, *, full: bool = False
    ) -> tuple[Played, array[int]]:
        self.asked.append(rate)
        rate = rate or self.offered
        lost = 0.0 if rate <= self.capacity else 1 - 0.7 * self.capacity / rate
        return played(rate, lost), array("I")


def test_what_is_never_lost_is_never_asked_for_less() -> None:
    pipe = Pipe(capacity=1e6, offered=9e5)
    assert [pipe.lossless(32, SECONDS).rate for _ in range(3)] == [9e5] * 3
    assert pipe.asked == [0.0] * 3


@pytest.mark.parametrize("offered", [1.2e5, 3e5, 1e6, 1e7])
def test_what_is_carried_is_found_and_found_again(offered: float) -> None:
    pipe = Pipe(capacity=1e5, offered=offered)
    first = pipe.lossless(32, SECONDS)
    assert first.lost == 0
    assert 0.75e5 <= first.rate <= 1e5
    assert len(pipe.asked) <= 1 + ways._STEPS
    later = [pipe.lossless(32, SECONDS) for _ in range(3)][-1]
    assert later.lost == 0
    assert 0.9e5 <= later.rate <= 1e5
    # It does not begin with a flood again.
    assert pipe.asked.count(0.0) == 1


def test_a_way_that_carries_nothing_says_what_it_lost() -> None:
    pipe = Pipe(capacity=1.0, offered=1e6)
    pipe.play = lambda size, seconds, rate=0.0, full=False: (played(rate or 1e6, 0.5), array("I"))  # type: ignore[method-assign]
    found = pipe.lossless(32, SECONDS)
    assert found.lost > 0


def test_names_are_different_and_topics_of_two_protocols_apart() -> None:
    assert len({way.name for way in WAYS}) == len(WAYS)
    assert {way.place for way in WAYS} == {
        "fast native", "fast generic", "slow", "NATS", "Mosquitto", "Redis", "ZeroMQ", "Zenoh",
    }  # fmt: skip
    qos1 = next(way for way in WAYS if way.speaks == "mqtt1")
    qos0 = next(way for way in WAYS if way.speaks == "mqtt0")
    assert (qos0.topic("r"), qos1.topic("r")) == ("r", "R")


def way(name: str) -> Way:
    return next(one for one in WAYS if one.name == name)


def test_our_client_is_held_against_the_best_of_each_round() -> None:
    chosen = [way("NATS, nats-py"), way("Redis, redis-py")]
    rates = {
        "32 B: tempos fast native, Python batched": [300.0, 300.0, 300.0],
        "32 B: NATS, nats-py": [100.0, 300.0, 100.0],
        "32 B: Redis, redis-py": [150.0, 100.0, 150.0],
    }
    figures = {figure.name: figure for figure in peers_rate.clients(chosen, rates, 32)}
    best = figures["tempos Python batched to the best peer's client, 32 B"]
    assert best.rounds == (2.0, 1.0, 2.0)
    assert best.value == 2.0
    assert figures["tempos Python batched to NATS, nats-py, 32 B"].value == 3.0
    assert peers_rate.clients([way("NATS, raw")], rates, 32) == []


def test_p99_is_held_against_the_best_of_each_round() -> None:
    chosen = [way("NATS, nats-py"), way("Redis, redis-py")]
    found = {
        "1,000/s: tempos fast native, Python": [played(1000, p99=10), played(1000, p99=30)],
        "1,000/s: NATS, nats-py": [played(1000, p99=20), played(1000, p99=90)],
        "1,000/s: Redis, redis-py": [played(1000, p99=40), played(1000, p99=60)],
    }
    figures = {figure.name: figure for figure in peers_latency.ratios_to_peers(chosen, found, [1000.0])}
    assert figures["1,000/s: p99 of tempos Python to the best peer's client"].rounds == (0.5, 0.5)
    assert figures["1,000/s: p99 of tempos Python to Redis, redis-py"].rounds == (0.25, 0.5)


def test_costs_are_per_million_events_that_arrived() -> None:
    server, everybody, memory = peers_rate.costs(way("NATS, raw"), [played(1000)], "32 B")
    assert (server.value, everybody.value, memory.value) == (1000.0, 2000.0, 5.0)
    assert (server.unit, memory.unit) == ("s/million", "MB")


def test_without_any_peer_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="no peer Kafka, there are NATS"):
        peers_rate.check_peers(("NATS", "Kafka"))
    monkeypatch.setattr(Server, "missing", lambda self, node: f"{self.name} left out")
    here = local()
    with pytest.raises(Unavailable, match="NATS left out; Redis left out"):
        ground.present(Topology("straight", here, here, here, (here,)), ("NATS", "Redis"))
