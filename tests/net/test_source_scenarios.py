"""The source's experiments, each as small as it can be: they run, and their figures are complete."""

from __future__ import annotations

import math

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.measure import samples
from tempos_bench.runs import scenario
from tempos_bench.runs.run import Run

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

SMALL = {
    "source-rtt": ("rounds=1", "packets=30"),
    "source-ping": ("rounds=1", "packets=30"),
    "source-loss": ("repetitions=1", "datagrams=2000"),
    "source-time": ("samples=1", "sparse=20", "dense=1000"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_has_every_figure(name: str) -> None:
    require_kernel()
    require_netns()
    run = Run()
    found = scenario.run(scenario.load(name, changes=SMALL[name]), run)

    assert found.complete
    assert found.notes
    assert [row.name for row in found.rows if row.value is None or not math.isfinite(row.value)] == []
    assert any(row.source for row in found.rows)
    assert found.topologies[0]["shape"] == "one-armed"
    for record in found.samples:
        assert 0 < len(samples.unpack(record)) <= 30
    if name in {"source-rtt", "source-ping"}:
        assert {record["variant"] for record in found.samples} == run.rounds.keys()
