"""The fast path that is slower on purpose: it is really what a broker loads, and only meanwhile."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.measure import probe
from tempos_bench.measure.lane import Lane
from tempos_bench.measure.slowed import slowed
from tempos_bench.runs.rounds import cores

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

STEPS = 64


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()
    require_netns()


def instructions(frames: int = 1000) -> tuple[int, int, int]:
    """Of the program that a broker attaches: its verified instructions; frames sent and received."""
    core, other = cores()
    with ExitStack() as stack:
        lane = Lane(stack, core, 32)
        broker = lane.forward_by_broker(stack, other)
        crossing = lane.cross(frames)
        found = probe.figures(broker.node, broker.pid, lane.program())
        return found.instructions, crossing.sent, crossing.received


def test_a_slowed_program_is_the_same_program_with_more_instructions() -> None:
    path = os.environ.get("PYTHONPATH")
    plain, *_ = instructions()
    with slowed(STEPS):
        slower, sent, received = instructions()
    assert os.environ.get("PYTHONPATH") == path
    assert slower >= plain + STEPS
    assert received == sent
    assert instructions()[0] == plain
