"""Tempos' own ways of the comparison, on their nodes: each carries what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.privileges import require_netns
from support.waiting import until

from tempos_bench.peers.field import Field
from tempos_bench.peers.ways import Way
from tempos_bench.runs.run import Run, running

pytestmark = pytest.mark.netns
pytest.importorskip("tempos_bench._stream", reason="the stream helper is not compiled")


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    require_netns()
    with running(Run()), ExitStack() as stack:
        field = Field(stack, ())
        field.connect(field.ways(batched=True))
        yield field


def of(field: Field, name: str) -> Way:
    return next(way for way in field.ways(batched=True) if way.name == name)


def test_every_way_is_there(field: Field) -> None:
    assert len(field.ways(batched=True)) == 10
    assert len(field.ways(batched=False)) == 5


def test_every_way_carries_a_steady_rate(field: Field) -> None:
    for way in field.ways(batched=True):
        played, latency = field.ends(way).play(32, 0.1, 1000.0)
        assert (played.sent, played.received, played.repeated) == (100, 100, 0), way.name
        assert len(latency) == 100
        assert played.all > 0


def test_as_fast_as_can_be_batched_and_single(field: Field) -> None:
    for name in ("tempos fast native, raw batched", "tempos slow, raw"):
        found = field.ends(of(field, name))
        # A machine that is busy with something else may have no rate at all without a loss, for a while.
        until(lambda: (played := found.lossless(32, 0.1)).received > 1000 and played.rate > 0, name)  # noqa: B023


def test_a_group_shares_and_an_echo_comes_back(field: Field) -> None:
    way = of(field, "tempos fast native, raw")
    field.connect([way], grouped=True)
    played, _ = field.ends(way, grouped=True).play(32, 0.1, 1000.0)
    assert played.by_member == (25, 25, 25, 25)
    assert field.round_trip(way).play(32, 20).lost == 0
