"""Members come and go under traffic: the account is exact, on both paths. A short run of the scenario."""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns

from tempos import Path
from tempos_bench.suite import churn

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

PARAMETERS = churn.Parameters(
    seconds=4.0, fast_rate=20_000.0, slow_rate=10_000.0, members=8, changes=20.0, payload=32
)


@pytest.mark.parametrize(("path", "rate"), [(Path.FAST, 20_000.0), (Path.SLOW, 10_000.0)])
def test_nothing_is_lost_doubled_or_sent_to_the_departed(path: Path, rate: float) -> None:
    require_netns()
    require_kernel()
    figures = {
        figure.name.split(": ", 1)[1]: figure.value
        for figure in churn.measure(PARAMETERS, path, rate, lambda _: None)
    }
    assert figures.pop("sent") == PARAMETERS.seconds * rate
    figures.pop("rate")
    assert min(figures.pop("joins"), figures.pop("leaves"), figures.pop("drains")) > 5
    assert figures.pop("epochs") > 40
    assert set(figures.values()) == {0}, figures
