"""What is to be handed out again, or may have to be, is kept aside before the journal overwrites it.

A journal goes on whatever becomes of its events, and who died is known to be gone only once its lease is
over. So what waits in lots is copied out of it before its slot is used anew, and what members were sent and
have not processed, too. Bounded by as much as the journal itself takes; memory of this process, so a broker
that begins anew has the journals only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tempos_broker.journal.journals import DRAWERS
from tempos_broker.redelivery.lots import Event, Kept, Lot

#: Events that are looked for at a time; as how many one counts that takes a search and is not there.
AT_ONCE, SEARCH = 512, 32
#: The part of a journal that is about to be overwritten: what comes between two looks, and what swaps of
#: routes leave free.
SOON = 2

#: Finds the payload of an event; None: it is not to be had.
Find = Callable[[Event], "bytes | None"]
#: What is kept of a member's deliveries or of a lot, and the events behind what was looked at, by place.
Run = tuple[Kept, Iterable[tuple[int, Event]]]


class Ring(NamedTuple):
    """A journal of so many ``slots``, of which the one of the position ``written`` is written next."""

    written: int
    slots: int

    def is_soon(self, position: int) -> bool:
        """Whether what stands at a position is about to be overwritten."""
        soon = self.slots // SOON
        # Slots follow each other from one epoch to the next, positions do not.
        return (position - self.written) % self.slots < soon + min(DRAWERS, soon)


class _Copying:
    def __init__(self, ring: Ring, room: int, find: Find) -> None:
        self._ring, self._room, self._find = ring, room, find
        self.left = AT_ONCE

    def copy(self, run: Run) -> bool:
        """Copy the first ones of a run; whether all of it was looked at."""
        kept, events = run
        for place, event in events:
            if kept.get(place) is not None:
                kept.looked = place + 1
                continue
            if self.left <= 0 or self._room <= 0:
                return False
            payload = self._find(event)
            self.left -= SEARCH if payload is None and event.group else 1
            if payload is not None:
                if not self._ring.is_soon(event.first + event.ticket):
                    return False
                self._room -= kept.put(place, payload)
            kept.looked = place + 1
        return True


def keep(lots: Sequence[Lot], epochs: Iterable[Iterable[Run]], ring: Ring, room: int, find: Find) -> bool:
    """Copy what is about to be overwritten in a journal; whether there is more to do.

    ``epochs``: what is not known to be processed of each, the oldest first. ``room``: bytes that may be kept
    aside yet.
    """
    copying = _Copying(ring, room, find)
    for lot in lots:
        begin = max(lot.done, lot.aside.looked)
        copying.copy((lot.aside, enumerate(lot.events(begin, lot.size), begin)))
    for runs in epochs:
        looked_at = [copying.copy(run) for run in runs]
        # What came later has time, too.
        if not all(looked_at):
            break
    return copying.left <= 0
