"""One event on its way through a function, and what came of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tempos_invoker.core.account import Account
from tempos_invoker.core.step import Step


class Arrived(NamedTuple):
    """An event as it came. ``received`` is monotonic seconds, the others are wall clocks in nanoseconds.

    ``origin``: whoever wants to know what becomes of it, for the shell; the core does not look into it.
    A tuple, for one is made of each: nothing immutable is cheaper.
    """

    topic: str
    body: bytes
    publisher: int
    sequence: int
    sent_ns: int
    received_ns: int
    received: float
    origin: Any = None

    @property
    def id(self) -> str:
        """What tells this event apart from every other one, however often it comes."""
        return f"{self.publisher:08x}:{self.sequence:08x}"

    def age(self, now: float) -> float:
        """Seconds since it was sent, as far as two clocks agree; at least those since it came."""
        before = max(0, self.received_ns - self.sent_ns) / 1e9 if self.sent_ns else 0.0
        return before + now - self.received


#: ``new_arrived(Arrived, fields)``: what a NamedTuple's own constructor does, in half the time.
new_arrived = tuple.__new__


@dataclass(slots=True, eq=False)
class Invocation:
    """An event that was accepted. ``tries`` have ended; the last one's times are nanoseconds, monotonic.

    ``ticket`` is new each time it is given to a worker, whose calls are in the order of their tickets.
    ``quiet``: if it succeeds there, nobody is told but asks (:meth:`Pool.noted`).
    """

    ticket: int
    queue: StepQueue
    event: Arrived
    tries: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    quiet: bool = False


@dataclass(slots=True, eq=False)
class StepQueue:
    """What waits for one step. ``account`` is the step's; two queues of a step that moved share it."""

    step: Step
    account: Account
    ready: deque[Invocation] = field(default_factory=deque)
    #: Invocations that wait for another attempt, are at a worker's hand, or are being published.
    delayed: int = 0
    at_hand: int = 0
    settling: int = 0
    closed: bool = False

    @property
    def waiting(self) -> int:
        return len(self.ready) + self.delayed

    @property
    def running(self) -> int:
        return self.at_hand + self.settling


class Outcome(NamedTuple):
    """How an invocation ended. ``condition``: "" as it should, else why not, and ``reason`` in words.

    One that succeeded still runs until :meth:`Pool.settle` is told that its ``output`` is where it belongs;
    ``nothing``: the function gave none.
    """

    invocation: Invocation
    condition: str
    output: bytes = b""
    reason: str = ""
    nothing: bool = False
