"""How fast the epochs of a topic follow each other."""

from __future__ import annotations

import pytest

from tempos.delivery import KEPT_EPOCHS
from tempos_broker.account.pace import EPOCHS, LONGEST, Pace


@pytest.mark.parametrize("heartbeat", [0.05, 2.5, 10.0])
def test_between_two_heartbeats_there_are_no_more_epochs_than_members_keep(heartbeat: float) -> None:
    pace, due, now, at = Pace(heartbeat), 0.0, 1000.0, []
    while now < 1000.0 + 5 * heartbeat:
        now += pace.wait(due, now)
        due = pace.next(due, now)
        at.append(now)
    assert at[EPOCHS - 1] == 1000.0, "so many at once"
    most = max(sum(first <= each < first + heartbeat for each in at) for first in at)
    assert most <= 2 * EPOCHS + 1 < KEPT_EPOCHS


def test_nobody_waits_for_long_however_seldom_members_tell() -> None:
    pace, due, waited = Pace(3600.0), 0.0, 0.0
    for _ in range(EPOCHS + 10):
        waited = max(waited, pace.wait(due, 7.0))
        due = pace.next(due, 7.0)
    assert waited == LONGEST
