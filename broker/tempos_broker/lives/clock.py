"""What time it is by the clock of a former life: one that was set since ends no lease sooner or later.

Leases are stored by the wall clock, for nothing else means anything to another life. While the machine has
been up all along, the time since it started says how long ago that was, however often the clock was set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tempos.requests.probe import are_one, clock, since_start
from tempos_broker.lives.checks import seconds

#: Among the broker's own values: the machine's clock, by name, and what it says.
UP = "up"


def up() -> list[Any]:
    """The value for now."""
    return [clock().hex(), since_start()]


def same_start(broker: Mapping[str, Any]) -> bool:
    """Whether the machine has been up since the life that wrote these values, as far as is known."""
    try:
        name, then = broker[UP]
        return are_one(bytes.fromhex(name), clock()) and since_start() >= seconds(then)
    except (LookupError, TypeError, ValueError):
        return False


def now_there(broker: Mapping[str, Any]) -> float:
    """Unix seconds by the clock of the life that wrote these values; by ours where nothing else is known.

    Never before they were written: one that was set back adds nothing to what was left of anything.
    """
    try:
        written = seconds(broker["wall"])
    except (LookupError, ValueError):
        return time.time()
    if same_start(broker):
        return written + since_start() - seconds(broker[UP][1])
    return max(written, time.time())
