"""How fast the epochs of a topic may follow each other.

Members tell with their heartbeats what they got, epoch by epoch: they keep the last hundred or so apart, and
a datagram tells its own by eight bits. So between two heartbeats there are fewer than that, however many join
at once; whoever waits for the next epoch is in it together. Sans-IO: time is an argument (monotonic seconds).
"""

from __future__ import annotations

#: Epochs of a topic that may follow each other at once, and then in each heartbeat's interval. Twice as many
#: fall between two heartbeats, which leaves room for one that is lost on its way.
EPOCHS = 48
#: Seconds that nobody waits longer than, whatever the heartbeat's interval: who asks gives up in the end.
LONGEST = 0.25


class Pace:
    """``heartbeat``: seconds between two of each member."""

    def __init__(self, heartbeat: float) -> None:
        self.heartbeat = heartbeat

    def wait(self, due: float, now: float) -> float:
        """Seconds until a topic whose pace stands at ``due`` may have its next epoch."""
        return min(max(0.0, due - now - self.heartbeat), LONGEST)

    def next(self, due: float, now: float) -> float:
        """Where the pace of a topic stands that has another epoch now."""
        return max(due, now) + self.heartbeat / EPOCHS
