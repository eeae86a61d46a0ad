"""The program under test, loaded once per mode; each test gets it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.privileges import require_kernel
from support.program import Rig


@pytest.fixture(scope="session", params=["native", "generic"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    require_kernel()
    rig = Rig(generic=request.param == "generic")
    yield rig
    rig.close()


@pytest.fixture
def rig(loaded: Rig) -> Rig:
    """The program without a route, all tickets and counters at 0."""
    loaded.clear()
    return loaded
