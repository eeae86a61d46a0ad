"""Waiting for what is about to hold, from outside of an event loop and with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO

from tempos_bench.nodes.patience import patience

#: Seconds: more than anything takes that comes at all.
LIMIT = patience(60.0)


def until(
    condition: Callable[[], object], what: Callable[[], object] | str = "waited in vain", limit: float = LIMIT
) -> None:
    """Return once ``condition`` holds; ``what`` is said of one that did not within ``limit`` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.02)


def stands(err: IO[str] | None) -> str:
    """What `tempos sub` says once its subscription stands; before, it may say that nobody has answered."""
    assert err is not None
    while (line := err.readline()) and "subscribed to" not in line:
        pass
    return line
