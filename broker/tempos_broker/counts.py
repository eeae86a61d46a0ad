"""What both paths and the ticket counters have counted, as values: read in one place, told in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tempos import Reason

#: topic -> reason -> count
Counters = Mapping[int, Mapping[Reason, int]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tickets drawn so far, by open epoch and group; ``slack`` events passed while counting.

    ``unsent``: copies that could not be sent, by open epoch and group.
    """

    tickets: Mapping[int, Sequence[int]]
    unsent: Mapping[int, Sequence[int]]
    slack: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What both paths and the ticket counters say at one moment.

    ``fast_raw``: the fast path's counters as the kernel has them, before those of former lives are added.
    """

    slow: Counters
    fast: Counters
    drawn: Mapping[int, Drawn]
    fast_raw: Counters
