"""Long work in slices: short ones, unless a pause was long."""

from __future__ import annotations

import time

import pytest

from tempos_daemon import slices
from tempos_daemon.slices import LATE, MOST, PAUSE, PIECE, SHARE, Slices


@pytest.mark.parametrize(
    ("took", "length"),
    [
        (PAUSE, PIECE),
        (LATE * PAUSE, PIECE),
        (LATE * PAUSE + 0.004, 0.004 * SHARE),
        (1.0, MOST),
    ],
)
async def test_the_next_slice_is_longer_where_a_pause_took_longer_than_it_was_meant_to(
    took: float, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds == PAUSE
        now += took

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(slices.asyncio, "sleep", sleep)
    work = Slices()
    await work.pause()
    assert now == 0, "the slice has not come to its end"
    now += PIECE
    await work.pause()
    after = now
    assert after == pytest.approx(PIECE + took)
    now = after + length * 0.99
    assert not work.over
    now = after + length * 1.01
    assert work.over
