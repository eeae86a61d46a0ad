"""The ticket counters that the kernel's program and this process draw from."""

from __future__ import annotations

from tempos._rows import Rows
from tempos._slots import NUMBERS, epoch_row, group_slot
from tempos_bpf.maps import Map, SharedArray, possible_cpus
from tempos_fastpath.layout import TICKET_SIZE


class SharedTickets:
    """One counter per topic, epoch (its lowest bit) and group, in an array mapped into our memory.

    ``rows``: where topics stand in it. ``copies``: the account of the copies made in the kernel, which begins
    with the epoch as well. ``fresh``: nobody has had either before.
    """

    #: Bytes from one counter to the next.
    stride = TICKET_SIZE

    def __init__(
        self, array: SharedArray, rows: Rows, copies: Map | None = None, *, fresh: bool = False
    ) -> None:
        self._array = array
        self._row_of = rows.of
        self._copies = copies
        #: By place in that account, whether anything may be there.
        self._used = bytearray(0 if copies is None else copies.max_entries)
        if not fresh:
            self._used = bytearray(b"\1") * len(self._used)

    @property
    def descriptor(self) -> int:
        """Whose memory it is, for another process."""
        return self._array.descriptor

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        """Atomically take ``count`` tickets; returns the first. ``groups``: so many have them together."""
        return self._array.fetch_add(self._offset(topic, epoch, group), count)

    def read(self, topic: int, epoch: int, group: int) -> int:
        """How many tickets were drawn so far."""
        return self._array.load(self._offset(topic, epoch, group))

    def reset(self, topic: int, epoch: int) -> None:
        """Set all counters of an epoch that begins to 0."""
        row = self._row_of[topic]
        place = epoch_row(row, epoch)
        # Of what is no topic's counters are drawn without that.
        if self._copies is None or self._used[place] or not row:
            self._array.zero(self._offset(topic, epoch, 0), NUMBERS * TICKET_SIZE)
        if self._copies is not None:
            if self._used[place]:
                self._copies.update(place, bytes(self._copies.value_size * possible_cpus()))
            self._used[place] = True

    def close(self) -> None:
        self._array.close()

    def _offset(self, topic: int, epoch: int, group: int) -> int:
        return group_slot(self._row_of[topic], epoch, group) * TICKET_SIZE
