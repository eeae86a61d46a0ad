"""What an earlier broker left in the kernel, found, read and taken off by one that has no fast path.

A kernel that forwards by the routes of a broker that is gone sends to members that left, past whoever is
there now. So also a broker without a fast path looks for what bears its name, and takes it off; last of
all, when nothing can keep it from starting any more, so that events flow until then. What was counted and
drawn there is read when no packet goes that way any more: it is the earlier life's to the event.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence

from tempos import Reason, Unavailable
from tempos._rows import Rows
from tempos._slots import epoch_row
from tempos_fastpath.errors import Owned
from tempos_fastpath.layout import decode_counters, decode_route, lost_copies
from tempos_fastpath.rows import followed
from tempos_fastpath.survival.ownership import Identity, Ownership, current_namespace, is_something_left
from tempos_fastpath.survival.pins import Held, Kept, Pins
from tempos_fastpath.tickets import SharedTickets


class Remains:
    """Implements the broker's ``Former``; made by :func:`find`."""

    def __init__(self, ownership: Ownership, pins: Pins, kept: Kept) -> None:
        self._ownership = ownership
        self._pins = pins
        self._kept = kept
        self._links = (*kept.links, *pins.tc_links())
        self._wound_up = self._closed = False
        self._rows = Rows()
        self._tickets = None
        if kept.maps:
            self._rows = followed(kept.maps["rows"])
            self._tickets = SharedTickets(kept.maps["tickets"].mmap(), self._rows, kept.maps["copies"])
        self._epochs = self._read_epochs()

    @property
    def tickets(self) -> SharedTickets | None:
        """The counters that the kernel drew from; None where they are not of this version."""
        return self._tickets

    def adopted(self) -> Mapping[int, int]:
        """Topic -> epoch of the routes that are in force until :meth:`wind_up`."""
        return self._epochs

    async def wind_up(self) -> None:
        """Take every program off; when this returns nothing of it is in use, and every count is final."""
        self._wound_up = True
        await asyncio.get_running_loop().run_in_executor(None, self._take_off)

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason, as the kernel counted them."""
        if not self._kept.maps:
            return {}
        counted = decode_counters(self._kept.maps["counters"].sum_rows())
        return {topic: counted[row] for topic, row in self._rows.of.items() if row in counted}

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        """Copies for each of so many groups that the kernel did not send in this epoch."""
        if not self._kept.maps:
            return [0] * groups
        place = epoch_row(self._rows.of[topic], epoch)
        return lost_copies(self._kept.maps["copies"].lookup_per_cpu(place) or (), groups)

    def close(self) -> None:
        """Let go of it, for good if it was wound up; else it goes on as it was. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._tickets is not None:
            self._tickets.close()
        self._kept.close_maps()
        for link in self._links:
            link.close()
        if self._wound_up:
            self._pins.remove()
            self._ownership.tell({})
        self._ownership.close()

    def _read_epochs(self) -> dict[int, int]:
        found: dict[int, int] = {}
        if self._kept.maps:
            with contextlib.suppress(Unavailable):
                large, small = (self._kept.maps[name] for name in ("routes", "small_routes"))
                for topic in self._pins.topics():
                    row = self._rows.of[topic]
                    if (inner := small.inner(row) or large.inner(row)) is not None:
                        with inner:
                            value = inner.lookup(0)
                            if value is not None:
                                found[topic] = decode_route(value).epoch
        return found

    def _take_off(self) -> None:
        for link in self._links:
            link.detach()
        for topic in self._epochs:
            # Waits until no packet is on its way through a program any more: one topic is as good as all.
            row, maps = self._rows.of[topic], self._kept.maps
            if maps["small_routes"].delete(row) or maps["routes"].delete(row):
                break


def find(name: str, held: Held | None = None) -> Remains | None:
    """What a broker of this name left in this network namespace; None if nothing, or if that one lives.

    ``held``: by which it is reached, where this user may not go there. Raises :class:`~tempos.Unavailable`
    where there is something that cannot be taken off. Blocks.
    """
    if not is_something_left(name, held.folder if held is not None else None):
        return None
    pins = Pins(Identity(name, current_namespace()), held)
    if not os.access(pins.folder, os.R_OK | os.W_OK | os.X_OK):
        raise Unavailable(
            f"a broker named {name!r}, which is gone, left a fast path here that this user cannot take off: "
            "events may be forwarded past this broker to members of that one. As root: "
            f"tempos fastpath clean {name}"
        )
    try:
        ownership = Ownership(pins.identity)
    except Owned:
        return None
    try:
        return Remains(ownership, pins, pins.read())
    except BaseException:
        ownership.close()
        raise
