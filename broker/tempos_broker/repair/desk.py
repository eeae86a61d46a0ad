"""Repair in a broker: what it hears of routes and of members, and what it tells these."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tempos import Route
from tempos.repair.asking import encode_told
from tempos_broker.account.accounts import Holder
from tempos_broker.journal.journals import Journals
from tempos_broker.membership import Registry
from tempos_broker.repair.copies import Repair
from tempos_broker.repair.seats import Seats
from tempos_broker.repair.tails import Tails
from tempos_broker.resend.desk import Desk as Resends

#: Sends a datagram from the data port to an endpoint, from an address of ours; 0, or the errno.
Say = Callable[[bytes, tuple[str, int], "str | None"], int]
#: Tickets of a group in an epoch, by topic id.
Drawn = Callable[[int, int, int], int]


class Desk:
    """``drawn``: tickets as they stand now. ``say``: sends from the data port."""

    def __init__(self, registry: Registry, journals: Journals, drawn: Drawn, say: Say) -> None:
        self._registry = registry
        self._journals = journals
        self._drawn = drawn
        self._say = say
        self._seats = Seats()
        self._tails = Tails(self._seats, drawn)
        self._repair = Repair(registry, self._seats, journals.of, journals.find, drawn, self.listen)
        self._timer: asyncio.TimerHandle | None = None
        #: What publishers are asked for again, which goes by the same epochs.
        self.publishers: Resends | None = None
        #: Decides about a request of a member.
        self.request = self._repair.request

    def opened(self, route: Route, holders: Sequence[tuple[str, Sequence[Holder]]]) -> None:
        """A route is about to be in force; its epoch is in the journal."""
        topic = route.topic.id
        if self.publishers is not None:
            self.publishers.opened(route)
        if route.topic.is_repaired:
            self._seats.opened(topic, route.epoch, self._journals.first(topic, route.epoch), holders)
        elif self._seats.latest(topic) is not None:
            self.forget(topic)

    def closed(self, route: Route) -> None:
        """Of a route no packet uses any more the tickets are final."""
        topic = route.topic.id
        if self.publishers is not None:
            self.publishers.closed(route)
        if self._seats.epoch(topic, route.epoch) is not None:
            tickets = [self._drawn(topic, route.epoch, group) for group in range(len(route.groups))]
            self._seats.closed(topic, route.epoch, tickets)
            self._tails.closed(topic, route.epoch, time.monotonic())
            self._wake()

    def forget(self, topic: int) -> None:
        """A topic is repaired no more."""
        self._seats.forget(topic)
        self._tails.forget(topic)

    def end(self, topic: int) -> None:
        """A topic is no more."""
        self.forget(topic)
        if self.publishers is not None:
            self.publishers.forget(topic)

    def listen(self, topic: int, holder: Holder, via: str | None) -> None:
        """A member asks for what it misses of a topic: it is told what was sent last."""
        if self._seats.latest(topic) is not None:
            self._tails.listen(topic, holder, via)
            self._wake()

    def heard(self, topic: int, holder: Holder) -> None:
        """A member says what became of what it missed: it asks for it, whatever a former life was told."""
        if (lease := self._registry.lease_of(holder)) is not None and topic in lease.topics:
            asked = next((wanted.source for wanted in lease.wanted.values()), None)
            self.listen(topic, holder, self._registry.leaves_from(holder.ip, asked))

    def close(self) -> None:
        """Tell nobody anything any more; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._timer is None and not self._tails.is_idle:
            self._timer = asyncio.get_running_loop().call_later(self._tails.pause, self._look)

    def _look(self) -> None:
        self._timer = None
        for holder, via, told in self._tails.look(time.monotonic(), self._repair.is_here):
            # What cannot leave now is told again.
            self._say(encode_told(told), (holder.ip, holder.port), via)
        self._wake()
