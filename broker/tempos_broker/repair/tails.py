"""What members are told of what was sent to them last, once a topic is at rest: else nobody misses the end.

Sans-IO. An epoch is at rest when no ticket was drawn between two looks, or when it is over. Its members are
told then, and again a few times, for what tells them may be lost as well; while events come these tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tempos.repair.asking import Told
from tempos_broker.account.accounts import Holder
from tempos_broker.repair.seats import Seats

#: Seconds after which it is told, from the last ticket on.
AFTER = (0.004, 0.016, 0.064, 0.25, 1.0)
#: Seconds between two looks: while something is told or was drawn lately, and at most.
LOOK, RARELY = 0.004, 0.064


class Tail(NamedTuple):
    """What a holder is to be told, by the address of ours that it knows (None: any)."""

    holder: Holder
    via: str | None
    told: Told


class _Rest:
    __slots__ = ("drawn", "since", "told")

    def __init__(self, drawn: int, since: float) -> None:
        self.drawn, self.since, self.told = drawn, since, 0


class Tails:
    """``drawn`` tells the tickets of a group in an epoch that is in force."""

    def __init__(self, seats: Seats, drawn: Callable[[int, int, int], int]) -> None:
        self._seats = seats
        self._drawn = drawn
        #: Who is told, by topic, and from where.
        self._listeners: dict[int, dict[Holder, str | None]] = {}
        self._rests: dict[tuple[int, int], _Rest] = {}
        self._look = LOOK

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody to be told anything."""
        return not self._listeners

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return self._look

    def listen(self, topic: int, holder: Holder, via: str | None) -> None:
        """Tell this one from now on."""
        self._listeners.setdefault(topic, {})[holder] = via

    def forget(self, topic: int) -> None:
        """Tell nobody of a topic any more."""
        self._listeners.pop(topic, None)
        for key in [key for key in self._rests if key[0] == topic]:
            del self._rests[key]

    def closed(self, topic: int, epoch: int, now: float) -> None:
        """An epoch is over."""
        if topic in self._listeners:
            self._rests[topic, epoch] = _Rest(-1, now)
            self._look = LOOK

    def look(self, now: float, is_here: Callable[[Holder], bool]) -> list[Tail]:
        """Who is to be told what now; ``is_here``: whether somebody is a member still, or about to leave."""
        moved = False
        for topic in list(self._listeners):
            epoch = self._seats.latest(topic)
            if epoch is None:
                self.forget(topic)
                continue
            known = self._seats.epoch(topic, epoch)
            if known is None or not known.holders or known.tickets is not None:
                continue
            drawn = self._drawn(topic, epoch, 0)
            rest = self._rests.get((topic, epoch))
            if rest is None or rest.drawn != drawn:
                self._rests[topic, epoch] = _Rest(drawn, now)
                moved |= drawn > 0
        tails: list[Tail] = []
        for (topic, epoch), rest in list(self._rests.items()):
            if rest.told == len(AFTER):
                if rest.drawn < 0 or epoch != self._seats.latest(topic):
                    del self._rests[topic, epoch]
                continue
            moved = True
            if now >= rest.since + AFTER[rest.told]:
                rest.told += 1
                tails += self._tails(topic, epoch, is_here)
        self._look = LOOK if moved else min(2 * self._look, RARELY)
        return tails

    def _tails(self, topic: int, epoch: int, is_here: Callable[[Holder], bool]) -> Iterator[Tail]:
        known, listeners = self._seats.epoch(topic, epoch), self._listeners.get(topic)
        if known is None or listeners is None:
            return
        for group, holders in enumerate(known.holders):
            tickets = self._drawn(topic, epoch, group) if known.tickets is None else known.tickets[group]
            for holder in holders:
                if holder not in listeners or holder.client is None:
                    continue
                if not is_here(holder):
                    del listeners[holder]
                    continue
                seat = self._seats.of(topic, epoch, holder)
                if seat is not None and (count := seat.deliveries(tickets)):
                    yield Tail(
                        holder, listeners[holder], Told(holder.client, topic, epoch, count & 0xFFFFFFFF)
                    )
        if not listeners:
            self._listeners.pop(topic, None)
