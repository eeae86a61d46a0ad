"""The account of invocations: accepted = succeeded + failed by condition + waiting + running, always.

What has ended is counted here; what waits and what runs is never counted but measured, in the queues and the
workers' hands. So the two sides come from different places, and a drift that is not 0 shows an event that was
lost or told of twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: Why an invocation failed: the same words in status, metrics, replies and on the error topic.
CONDITIONS = {
    "error": "the function raised, or told an error",
    "timeout": "it was not done by its deadline",
    "crash": "its worker's process ended",
    "refused": "the function will not have this event",
    "too_large": "the event, or the function's output, is larger than allowed",
    "queue_full": "too many events waited for the step",
    "too_old": "the event's age went beyond the step's limit before it was its turn",
    "no_worker": "no worker of the function could be started",
    "stopped": "the invoker was told to stop, or the step was removed, before it was its turn",
    "unpublished": "the result could not be published",
}
#: What may go better another time.
RETRIED = frozenset({"error", "timeout", "crash"})


@dataclass(slots=True)
class Account:
    """What has come and what has ended. ``retries`` are further attempts of the same invocations."""

    accepted: int = 0
    succeeded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retries: int = 0

    def end(self, condition: str) -> None:
        """One has ended: "" as it should, or one of :data:`CONDITIONS`."""
        if condition:
            self.failed[condition] += 1
        else:
            self.succeeded += 1

    def add(self, other: Account) -> None:
        """Count what another one has counted, too."""
        self.accepted += other.accepted
        self.succeeded += other.succeeded
        self.failed.update(other.failed)
        self.retries += other.retries

    def drift(self, waiting: int, running: int) -> int:
        """What is accepted and in no place; 0 unless something is wrong."""
        return self.accepted - self.succeeded - sum(self.failed.values()) - waiting - running


@dataclass(frozen=True, slots=True)
class Balance:
    """An account beside what was measured with it."""

    account: Account
    waiting: int
    running: int

    def document(self) -> dict[str, object]:
        """As status and metrics tell it."""
        return {
            "accepted": self.account.accepted,
            "succeeded": self.account.succeeded,
            "failed": {name: self.account.failed[name] for name in CONDITIONS if self.account.failed[name]},
            "waiting": self.waiting,
            "running": self.running,
            "retries": self.account.retries,
            "drift": self.account.drift(self.waiting, self.running),
        }
