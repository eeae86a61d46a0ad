"""Several groups over real links: every group gets every event once, however the copies are made.

Short runs of the scenarios: `fanout-exact` compares every byte, `fanout-churn` lets members come and go.
"""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.suite import fanout_exact
from tempos_bench.suite.fanout_exact import WAYS, Case
from tempos_bench.topology import SHAPES

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

CASES = (Case(2, 3, complete=False), Case(16, 3, complete=False), Case(3, 7, complete=True))
EXACT = fanout_exact.Parameters(events=210, rate=5_000.0, payload=45)


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_netns()
    require_kernel()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_every_group_gets_every_event_once_to_the_byte(way: str, shape: str) -> None:
    account = fanout_exact.measure(EXACT, way, shape, CASES)
    assert account.faulty == []
    assert set(account.faults.values()) == {0}, account.faults
    assert account.events == len(CASES) * EXACT.events
    assert account.deliveries == EXACT.events * sum(case.groups for case in CASES)
    assert (account.slow, account.lost, account.off, account.problems) == (0, 0, 0, 0)
    assert account.by_tc == (0 if way == "native" else account.events)
