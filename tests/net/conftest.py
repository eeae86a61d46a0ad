"""What several tests on nodes stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.life import Life
from support.privileges import require_kernel, require_netns

from tempos_bench.nodes.topology import build


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """Where one broker follows another, and who lives through it."""
    require_netns()
    require_kernel()
    with build("straight") as topology, Life(topology, tmp_path) as made:
        yield made
