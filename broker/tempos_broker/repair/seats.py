"""Where members stood in the latest epochs of topics that are repaired, and where these begin in the journal.

From that follows which event a delivery was: the member at place i of n got the tickets i, n + i, 2n + i, ...
of its group, so its delivery s was ticket s * n + i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tempos_broker.account.accounts import Holder, share

#: Epochs of a topic that are remembered: events of older ones are hardly on their way still.
KEPT = 16


class Seat(NamedTuple):
    """The place of a holder: the ``place``-th of ``members`` in the ``group``-th group of an epoch.

    ``first``: where the epoch begins in the journal; 0: it does not have it.
    """

    group: int
    place: int
    members: int
    first: int

    def ticket(self, sequence: int) -> int:
        """The ticket of a delivery."""
        return sequence * self.members + self.place

    def deliveries(self, tickets: int) -> int:
        """How many deliveries of so many tickets are this one's."""
        return share(tickets, self.place, self.members)


@dataclass(slots=True)
class Epoch:
    """``tickets``: of each group, once that is final; None: the epoch is in force."""

    first: int
    holders: tuple[tuple[Holder, ...], ...]
    tickets: tuple[int, ...] | None = None


class Seats:
    """The latest epochs of topics, by id."""

    def __init__(self) -> None:
        self._topics: dict[int, dict[int, Epoch]] = {}

    @property
    def topics(self) -> tuple[int, ...]:
        """The topics of which epochs are remembered."""
        return tuple(self._topics)

    def opened(
        self, topic: int, epoch: int, first: int, groups: Iterable[tuple[str, Sequence[Holder]]]
    ) -> None:
        """An epoch is about to be in force."""
        epochs = self._topics.setdefault(topic, {})
        epochs[epoch] = Epoch(first, tuple(tuple(holders) for _, holders in groups))
        while len(epochs) > KEPT:
            del epochs[next(iter(epochs))]

    def closed(self, topic: int, epoch: int, tickets: Sequence[int]) -> None:
        """Of an epoch no tickets are drawn any more."""
        known = self._topics.get(topic, {}).get(epoch)
        if known is not None:
            known.tickets = tuple(tickets)

    def forget(self, topic: int) -> None:
        """The topic is no more, or not repaired any more."""
        self._topics.pop(topic, None)

    def epoch(self, topic: int, epoch: int) -> Epoch | None:
        """What is remembered of an epoch."""
        return self._topics.get(topic, {}).get(epoch)

    def latest(self, topic: int) -> int | None:
        """The epoch that was opened last."""
        return next(reversed(self._topics.get(topic, {})), None)

    def of(self, topic: int, epoch: int, holder: Holder) -> Seat | None:
        """Where a holder was in an epoch; None: nowhere, or that is forgotten."""
        known = self.epoch(topic, epoch)
        if known is None:
            return None
        for group, holders in enumerate(known.holders):
            if holder in holders:
                return Seat(group, holders.index(holder), len(holders), known.first)
        return None
