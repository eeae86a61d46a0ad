"""Members that are sent events and get none: a firewall or a NAT is in between, or stands there by now.

Such a member keeps its share of its groups by its heartbeats, and what it is ticketed is lost. Sans-IO. Rule:
a member is unheard when it was ticketed some events and has told of none it got, over more than one
heartbeat; it is heard again with the first that it tells. Whoever is taken out for it is judged
anew when it is back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Events that a member must have been ticketed, and heartbeats that must have told of none, over so many
#: seconds: a machine that gives a program no time for a moment is no firewall.
LEAST, BEATS, SECONDS = 4, 2, 1.0
#: Places of one member that are looked at: whoever gets nothing gets nothing of any.
LOOKED_AT = 32
#: Leases for which one stays out at first, and how often that is doubled at most.
OUT_LEASES, DOUBLED = 3.0, 4


def beats_for(heartbeat: float) -> int:
    """Heartbeats that must have told of none where one comes every ``heartbeat`` seconds."""
    return max(BEATS, math.ceil(SECONDS / heartbeat))


def stays_out(lease: float, times: int) -> float:
    """Seconds for which one stays out that was taken out so many times in a row before."""
    return lease * OUT_LEASES * float(2 ** min(times, DOUBLED))


@dataclass(slots=True)
class Progress:
    """What one member was ticketed and told at its last heartbeat that told of anything new."""

    #: Heartbeats after which it is unheard.
    needed: int = BEATS
    ticketed: int = 0
    delivered: int = 0
    beats: int = 0
    #: Events that an unheard member was ticketed since it last told of one; 0: it is none.
    lost: int = 0
    #: Whether its last heartbeat told of events.
    heard: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether it tells of nothing, where it is a member now."""
        return self.beats >= self.needed

    def is_behind(self, ticketed: int) -> bool:
        """Whether so much was ticketed since it last told of anything that it should tell of some."""
        return ticketed - self.ticketed >= LEAST

    def beat(self, ticketed: int, delivered: int) -> bool:
        """A heartbeat with these totals; whether the member has become unheard, or is heard again."""
        before = self.lost
        self.heard = delivered > self.delivered
        if self.heard:
            self.lost = 0
        # Accounts of places that were left are no more: totals may shrink.
        if self.heard or delivered < self.delivered or ticketed < self.ticketed:
            self.ticketed, self.delivered, self.beats = ticketed, delivered, 0
            return before > self.lost
        if not self.is_behind(ticketed):
            return False
        self.beats += 1
        if self.is_silent:
            self.lost = ticketed - self.ticketed
        return self.lost > 0 and not before
