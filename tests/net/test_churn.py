"""Members come and go under traffic: the account is exact, on both paths. A short run of the scenario."""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns

from tempos import Path
from tempos_bench.runs.run import Run
from tempos_bench.suite import churn, member_kill
from tempos_bench.suite.topics import redelivery

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

PARAMETERS = churn.Parameters(
    seconds=4.0, fast_rate=20_000.0, slow_rate=10_000.0, members=8, changes=20.0, payload=32
)


@pytest.mark.parametrize(("path", "rate"), [(Path.FAST, 20_000.0), (Path.SLOW, 10_000.0)])
def test_nothing_is_lost_doubled_or_sent_to_the_departed(path: Path, rate: float) -> None:
    require_netns()
    require_kernel()
    figures = {
        figure.name.split(": ", 1)[1]: figure.value for figure in churn.measure(PARAMETERS, path, rate)
    }
    assert figures.pop("sent") == PARAMETERS.seconds * rate
    figures.pop("rate")
    figures.pop("dropped by links and receivers")
    assert min(figures.pop("joins"), figures.pop("leaves"), figures.pop("drains")) > 5
    assert figures.pop("epochs") > 40
    assert set(figures.values()) == {0}, figures


def test_what_a_killed_member_missed_is_in_the_ledger_to_the_event() -> None:
    require_netns()
    require_kernel()
    parameters = member_kill.Parameters(seconds=13.0, rate=2000.0, dies_after=1.0, payload=32)
    figures = {figure.name: figure.value for figure in member_kill.run(parameters, Run())}
    assert figures["sent"] == 26_000
    assert figures["lost, by the ledger"] > 0
    assert figures["ledger off by"] == figures["ledger, faults"] == figures["duplicated"] == 0, figures


@pytest.mark.parametrize("mode", ["native", "off"])
def test_what_killed_members_of_a_queue_leave_behind_is_processed(mode: str) -> None:
    require_netns()
    require_kernel()
    parameters = redelivery.Parameters(
        mode=mode, rate=2000.0, kills=4, every=1.0, workers=3, lease=1.0, payload=32
    )
    figures = {figure.name: figure.value for figure in redelivery.run(parameters, Run())}
    assert figures["sent"] == 10_000
    # What was taken by one that was killed, too, and processed before, comes once more.
    assert figures["processed flagged"] >= figures["left behind by the killed"] > 0, figures
    never, unflagged = figures["never processed"], figures["doubled and not flagged"]
    assert never == unflagged == figures["ledger, faults"] == figures["not to be had any more"] == 0, figures
