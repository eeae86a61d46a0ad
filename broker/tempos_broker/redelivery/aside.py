"""What of lots is about to be overwritten in the journals is kept aside until somebody has processed it.

A journal goes on whatever becomes of its events. Where those who are left are slow, what waits to be handed
out again is copied out of it before its slot is used anew. Bounded by as much as the journal itself takes;
memory of this process, so a broker that begins anew has the journals only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tempos_broker.journal.journals import DRAWERS
from tempos_broker.redelivery.lots import Event, Lot

#: Events that are looked for at a time; the part of a journal that is about to be overwritten: each swap of a
#: route leaves an eighth of it free, and where members come and go there are some between two looks.
AT_ONCE, SOON = 512, 2

#: Finds the payload of an event; None: it is not to be had.
Find = Callable[[Event], "bytes | None"]


def keep(lots: Sequence[Lot], written: int, slots: int, most: int, find: Find) -> bool:
    """Copy what is about to be overwritten in a journal of so many slots; whether there is more to do.

    ``written``: the position that is written next. ``most``: bytes that may be kept aside of all ``lots``.
    """
    until = written - slots + slots // SOON + min(DRAWERS, slots // SOON)
    left, room = AT_ONCE, most - sum(lot.aside.size for lot in lots)
    for lot in lots:
        begin = lot.aside.looked = max(lot.done, lot.aside.looked)
        for index, event in enumerate(lot.events(begin, lot.size), begin):
            if event.first + event.ticket >= until or room <= 0:
                break
            if not left:
                return True
            payload = find(event)
            if payload is not None:
                room -= lot.aside.put(index, payload)
            lot.aside.looked = index + 1
            left -= 1
    return False
