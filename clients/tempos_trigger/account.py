"""What became of an endpoint's signals: the bounded buffer that they wait in, and the account of all of them.

Without I/O and without a clock: ``now`` is an argument, monotonic seconds. Rules kept here: the buffer holds
so many signals and none for longer than so many seconds, so nothing old is ever replayed; every signal that
is not published is counted under a reason; and at any moment, exactly,

    received = published + waiting + dropped, reason by reason

A signal at hand, which is just being published, is one that waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

#: What becomes of a signal; every other word is the reason of a drop.
PUBLISHED: Final = "published"
#: Reasons of drops that every endpoint knows. Kinds add their own (``malformed``, ``unauthorized``, ...).
QUEUE_FULL, TOO_OLD, TOO_LARGE, NO_BROKER, NO_TOPIC, STOPPED = (
    "queue_full", "too_old", "too_large", "no_broker", "no_topic", "stopped",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Signal:
    """One signal. ``at``: when it came, monotonic. ``settled`` is told once what became of it."""

    body: bytes
    at: float
    settled: Callable[[str], None] | None = None


@dataclass(slots=True)
class Account:
    """The counters of one endpoint, and the signals that wait. ``most`` of them, for ``max_age`` seconds."""

    most: int
    max_age: float
    received: int = 0
    published: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    at_hand: int = 0
    _queue: deque[Signal] = field(default_factory=deque)

    @property
    def waiting(self) -> int:
        """Signals of which it is not known yet what becomes of them."""
        return len(self._queue) + self.at_hand

    @property
    def queued(self) -> int:
        """Those of them that nobody has at hand."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether one more would be dropped."""
        return self.waiting >= self.most

    @property
    def balanced(self) -> bool:
        """Whether it adds up."""
        return self.received == self.published + self.waiting + sum(self.dropped.values())

    def offer(self, signal: Signal, now: float) -> str:
        """Take a signal in: "" if it waits now, else why it was dropped."""
        if self.is_full:
            # Perhaps only by what is to go anyway.
            self.expire(now)
        if self.is_full:
            return self.refuse(QUEUE_FULL)
        self.received += 1
        self._queue.append(signal)
        return ""

    def begin(self) -> str:
        """Take a signal at hand without waiting in line: "" if there is room, else why it was dropped.

        Followed by :meth:`settle`.
        """
        if self.is_full:
            return self.refuse(QUEUE_FULL)
        self.received += 1
        self.at_hand += 1
        return ""

    def refuse(self, reason: str, count: int = 1) -> str:
        """Count a signal that is dropped as it comes, or so many; gives the reason."""
        self.received += count
        self.dropped[reason] += count
        return reason

    def take(self, now: float) -> Signal | None:
        """Take the next signal at hand that is not too old; None: none waits."""
        self.expire(now)
        if not self._queue:
            return None
        self.at_hand += 1
        return self._queue.popleft()

    def give_back(self, signal: Signal) -> None:
        """It could not be published now: first in line again, as old as it is."""
        self.at_hand -= 1
        self._queue.appendleft(signal)

    def settle(self, signal: Signal | None, verdict: str) -> None:
        """What became of a signal at hand, for good."""
        self.at_hand -= 1
        self._count(signal, verdict)

    def expire(self, now: float) -> None:
        """Drop what has waited for too long."""
        while self._queue and now - self._queue[0].at > self.max_age:
            self._count(self._queue.popleft(), TOO_OLD)

    def expires_at(self) -> float | None:
        """When the next one will have waited for too long; None: none waits."""
        return self._queue[0].at + self.max_age if self._queue else None

    def give_up(self, reason: str) -> None:
        """Drop all that waits in line."""
        while self._queue:
            self._count(self._queue.popleft(), reason)

    def _count(self, signal: Signal | None, verdict: str) -> None:
        if verdict == PUBLISHED:
            self.published += 1
        else:
            self.dropped[verdict] += 1
        if signal is not None and signal.settled is not None:
            signal.settled(verdict)
