"""Invocations that failed: the event for a step's error topic, and the latest ones kept for whoever looks.

What is kept is bounded by number and by bytes, the oldest goes first and is counted. It is in memory only:
what is to outlive the invoker goes to an error topic.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from tempos_invoker.core.invocation import Arrived, Outcome

VERSION = 1
#: How many failures are kept, and how many bytes of bodies.
KEPT, KEPT_BYTES = 1000, 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """One of them. ``number`` tells it apart here; ``version``: of the function. Times: Unix, nanoseconds."""

    number: int
    version: str
    workflow: str
    step: str
    function: str
    condition: str
    reason: str
    attempts: int
    event: Arrived
    started_ns: int
    ended_ns: int

    @classmethod
    def of(cls, outcome: Outcome, version: str, number: int) -> Failure:
        """What an outcome that failed comes to."""
        invocation = outcome.invocation
        step = invocation.queue.step
        # Workers tell times of a clock that never steps.
        ahead = time.time_ns() - time.monotonic_ns()
        return cls(
            number,
            version,
            step.workflow,
            step.name,
            step.function,
            outcome.condition,
            outcome.reason,
            invocation.tries,
            invocation.event,
            invocation.started_ns + ahead if invocation.started_ns else 0,
            invocation.ended_ns + ahead if invocation.ended_ns else 0,
        )

    def envelope(self, *, body: bool = True) -> dict[str, Any]:
        """The event of an error topic, before it is written as msgpack; ``body``: with what failed."""
        event = self.event
        return {
            "v": VERSION,
            "id": event.id,
            "workflow": self.workflow,
            "step": self.step,
            "function": self.function,
            "version": self.version,
            "topic": event.topic,
            "condition": self.condition,
            "reason": self.reason,
            "attempts": self.attempts,
            "times": {
                "sent": event.sent_ns,
                "received": event.received_ns,
                "started": self.started_ns,
                "ended": self.ended_ns,
            },
            "body": event.body if body else b"",
        }

    def reply(self) -> dict[str, Any]:
        """What is told to whoever waits for an answer."""
        return {
            "condition": self.condition,
            "reason": self.reason,
            "id": self.event.id,
            "workflow": self.workflow,
            "step": self.step,
            "function": self.function,
        }


class Failures:
    """The latest failures, by number. ``dropped``: those that made room."""

    def __init__(self, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self.dropped = 0
        self._kept: OrderedDict[int, Failure] = OrderedDict()
        self._most, self._most_bytes = kept, kept_bytes
        self._bytes = 0
        self._numbers = 0

    def add(self, outcome: Outcome, version: str) -> Failure:
        """Keep what failed."""
        self._numbers += 1
        failure = Failure.of(outcome, version, self._numbers)
        self._kept[failure.number] = failure
        self._bytes += len(failure.event.body)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self.take(next(iter(self._kept)))
            self.dropped += 1
        return failure

    def get(self, number: int) -> Failure | None:
        return self._kept.get(number)

    def take(self, number: int) -> Failure | None:
        """One that is kept no more."""
        failure = self._kept.pop(number, None)
        if failure is not None:
            self._bytes -= len(failure.event.body)
        return failure

    def list(self, **wanted: str | None) -> list[Failure]:
        """The newest first; ``wanted``: fields that must be so, None for any."""
        asked = {name: value for name, value in wanted.items() if value is not None}
        return [
            failure
            for failure in reversed(self._kept.values())
            if all(getattr(failure, name) == value for name, value in asked.items())
        ]
