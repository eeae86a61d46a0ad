"""What privileged tests need. Missing: the test is skipped with the reason; with CI=true it fails."""

from __future__ import annotations

import os
from functools import cache

import pytest

from tempos import Unavailable


def require_netns() -> None:
    """Network namespaces can be made and configured here."""
    require(_missing_netns())


def require_kernel() -> None:
    """BPF can be used here."""
    require(_missing_kernel())


def require(missing: str | None) -> None:
    """Go on if nothing is ``missing``."""
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test: {missing}")
    pytest.skip(missing)


@cache
def _missing_netns() -> str | None:
    from tempos_bench.nodes import topology

    return topology.missing()


@cache
def _missing_kernel() -> str | None:
    try:
        from tempos_bpf.maps import MapType, create_map
    except ImportError as error:
        return f"the fast path is not built: {error}"
    try:
        # That the kernel takes the programs themselves is what is tested, and no condition.
        create_map("probe", MapType.DEVMAP, key_size=4, value_size=4, max_entries=1).close()
    except Unavailable as error:
        return str(error)
    return None
