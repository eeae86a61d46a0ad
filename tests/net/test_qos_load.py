"""Both quality classes on one broker in namespaces: every event sent is delivered or counted as lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.privileges import require_netns

from tempos import Framing, PathPolicy, Quality, Topic
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.nodes.topology import build

pytest.importorskip("tempos_bench._latency", reason="the latency helper is not compiled")
pytestmark = pytest.mark.netns

SQ = Topic(1, "SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
BQ = Topic(2, "BQ", quality=Quality.BQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
SQ_PORT, BQ_PORT = 9001, 9002
SECONDS = 0.3


@pytest.fixture
def load() -> Iterator[Load]:
    require_netns()
    with build("straight") as topology, ExitStack() as stack:
        yield Load(stack, topology, (SQ_PORT, BQ_PORT), size=32, beyond=2)


def test_what_is_sent_is_delivered_and_what_is_too_much_is_lost(load: Load) -> None:
    with load.broker([Subject(SQ, SQ_PORT), Subject(BQ, BQ_PORT, groups=3)], mode="off"):
        calm = load.play([Flow(SQ, 1000.0), Flow(BQ, 500.0, apart=True)], SECONDS)
        flooded = load.play([Flow(SQ, 1000.0), Flow(BQ, 3e6, flood=True)], SECONDS)

    for heard, sent in ((calm["SQ"], 300), (calm["BQ"], 150)):
        found = heard.outcome
        assert (found.sent, found.delivered, found.lost, found.repeated) == (sent, sent, 0, 0)
        assert len(heard.latency) == found.latency.count == sent
        assert found.late.p50 <= found.latency.p50 <= found.program.p50
        assert heard.start == "schedule"
    assert flooded["SQ"].outcome.sent == 300
    flood = flooded["BQ"]
    assert flood.outcome.slipped > 0
    assert flood.outcome.sent == flood.outcome.delivered + flood.outcome.lost
    assert 0 < len(flood.latency) < flood.outcome.delivered
    assert flood.start == "sending"


def test_topics_that_share_a_socket_are_told_apart(load: Load) -> None:
    with load.broker([Subject(SQ, SQ_PORT), Subject(BQ, SQ_PORT)], mode="off"):
        heard = load.play([Flow(SQ, 500.0), Flow(BQ, 2000.0, flood=True)], SECONDS)

    assert heard["SQ"].outcome.delivered == heard["SQ"].outcome.sent == 150
    # Nothing is left out here: every event is timed.
    assert heard["BQ"].outcome.delivered == len(heard["BQ"].latency) == heard["BQ"].outcome.sent
