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
    """BPF programs can be loaded here."""
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
        from tempos_bpf.objects import BpfObject
        from tempos_fastpath.attach import OBJECT
    except ImportError as error:
        return f"the fast path is not built: {error}"
    try:
        BpfObject(OBJECT).close()
    except Unavailable as error:
        return str(error)
    return None
