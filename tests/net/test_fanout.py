"""Several groups over real links: every group gets every event once, however the copies are made.

Short runs of the scenarios: `fanout-exact` compares every byte, `fanout-churn` lets members come and go.
"""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.suite import fanout_churn, fanout_exact
from tempos_bench.suite.fanout_exact import WAYS, Case

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

CASES = (
    Case(2, 3, complete=False),
    Case(16, 3, complete=False),
    Case(3, 7, complete=True),
    Case(17, 1, complete=True),
)
CHURN = fanout_churn.Parameters(
    seconds=3.0, fast_rate=8_000.0, slow_rate=4_000.0, groups=3, members=4, changes=5.0, payload=32
)
#: Every way somewhere, every shape by copies of XDP or of tc; `fanout-exact` plays each way in each shape.
PLACES = (
    ("native", "forked"), ("native", "one-armed"), ("native, tc", "straight"), ("native, tc", "one-armed"),
    ("generic", "forked"), ("slow path", "straight"),
)  # fmt: skip
EXACT = fanout_exact.Parameters(events=210, rate=5_000.0, payload=45)


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_netns()
    require_kernel()


@pytest.mark.parametrize(("way", "shape"), PLACES)
def test_every_group_gets_every_event_once_to_the_byte(way: str, shape: str) -> None:
    account = fanout_exact.measure(EXACT, way, shape, CASES)
    assert account.faulty == []
    assert set(account.faults.values()) == {0}, account.faults
    assert account.events == len(CASES) * EXACT.events
    assert account.deliveries == EXACT.events * sum(case.groups for case in CASES)
    assert (account.elsewhere, account.lost, account.off, account.problems) == (0, 0, 0, 0)
    # The topic with more groups than the kernel carries is the slow path's.
    assert account.by_tc == (account.events - EXACT.events if way in {"native, tc", "generic"} else 0)


@pytest.mark.parametrize("way", WAYS)
def test_bursts_of_a_sender_that_segments_are_taken_apart_before_they_are_copied(way: str) -> None:
    """In generic mode they come as one buffer, which the slow path gets."""
    account = fanout_exact.measure(EXACT, way, "straight", [Case(3, 2, complete=False, segments=7)])
    assert account.faulty == []
    assert account.deliveries == 3 * EXACT.events
    assert account.elsewhere == 0


@pytest.mark.parametrize("way", fanout_churn.WAYS)
def test_members_of_several_groups_come_and_go_and_nothing_is_lost_or_doubled(way: str) -> None:
    figures = {
        figure.name.removeprefix(f"{way}: "): figure.value for figure in fanout_churn.measure(CHURN, way)
    }
    assert figures.pop("sent") == CHURN.seconds * (CHURN.slow_rate if way == "slow path" else CHURN.fast_rate)
    figures.pop("rate")
    figures.pop("dropped by links and receivers")
    assert min(figures.pop("joins"), figures.pop("leaves"), figures.pop("drains")) > 5
    assert figures.pop("epochs") > 30
    assert {name: value for name, value in figures.items() if value} == {}
