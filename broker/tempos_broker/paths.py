"""What the broker asks of a fast path, and of the ticket counters both paths draw from.

Two small protocols, so that the broker imports no fast path: the composition root hands one in.
:class:`LocalTickets` and :class:`NoFastPath` are what serves where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tempos import FastPathStatus, Path, PathChoice, Reason, Route


class Tickets(Protocol):
    """The counters of one topic's groups, one set per epoch; two epochs live at a time."""

    def draw(self, topic: int, epoch: int, group: int, count: int) -> int:
        """Atomically take ``count`` tickets; returns the first."""
        ...

    def read(self, topic: int, epoch: int, group: int) -> int:
        """How many tickets were drawn so far."""
        ...

    def reset(self, topic: int, epoch: int) -> None:
        """Set all counters of an epoch that begins to 0."""
        ...


class FastPath(Protocol):
    """The kernel's side of the routes."""

    @property
    def tickets(self) -> Tickets: ...

    def status(self) -> FastPathStatus: ...

    async def install(self, route: Route) -> PathChoice:
        """Make ``route`` the kernel's route of its topic, or remove it where the kernel cannot carry it.

        When this returns, no packet uses an older route of the topic any more. Never blocks the event
        loop and never raises for what the network does: the choice says what happened.
        """
        ...

    async def withdraw(self, topic: int) -> None:
        """Take the topic's route out of the kernel; its packets come up to the slow path."""
        ...

    def adopted(self) -> Mapping[int, int]:
        """Topic ids and epochs of the routes that a former broker of this name left in the kernel.

        Their tickets and counters go on. A topic is in it until it is installed or withdrawn.
        """
        ...

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason; topic 0 holds what had no topic yet.

        Counted since the start, or since that of the broker whose routes were adopted.
        """
        ...

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        """Copies for each of so many groups that the kernel owed events of this epoch and could not send.

        Final once no packet uses the epoch's route; the two latest epochs are kept.
        """
        ...

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Frames lost behind the redirect, by interface and error, as far as the kernel tells."""
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop when network facts changed: install the routes anew."""
        ...

    async def close(self) -> None:
        """Detach and release everything; safe to call twice."""
        ...


class LocalTickets:
    """Ticket counters in this process."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, int, int], int] = {}

    def draw(self, topic: int, epoch: int, group: int, count: int) -> int:
        key = (topic, epoch & 1, group)
        first = self._next.get(key, 0)
        self._next[key] = first + count
        return first

    def read(self, topic: int, epoch: int, group: int) -> int:
        return self._next.get((topic, epoch & 1, group), 0)

    def reset(self, topic: int, epoch: int) -> None:
        for key in [key for key in self._next if key[:2] == (topic, epoch & 1)]:
            del self._next[key]


class NoFastPath:
    """Stands in where the fast path is off or cannot be had; says why wherever it is asked."""

    def __init__(self, reason: str, tickets: Tickets | None = None) -> None:
        self._reason = reason
        self._tickets: Tickets = LocalTickets() if tickets is None else tickets

    @property
    def tickets(self) -> Tickets:
        return self._tickets

    def status(self) -> FastPathStatus:
        return FastPathStatus("none", self._reason)

    async def install(self, route: Route) -> PathChoice:
        return PathChoice(Path.SLOW, self._reason)

    async def withdraw(self, topic: int) -> None:
        return

    def adopted(self) -> Mapping[int, int]:
        return {}

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        return [0] * groups

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def on_change(self, callback: Callable[[], None]) -> None:
        return

    async def close(self) -> None:
        return
