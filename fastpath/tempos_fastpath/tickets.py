"""The ticket counters that the kernel's program and this process draw from."""

from __future__ import annotations

from tempos import _abi
from tempos_fastpath.layout import TICKET_SIZE, ticket_slot
from tempos_fastpath.maps import SharedArray


class SharedTickets:
    """One counter per topic, epoch (its lowest bit) and group, in an array mapped into our memory."""

    #: Bytes from one counter to the next.
    stride = TICKET_SIZE

    def __init__(self, array: SharedArray) -> None:
        self._array = array

    @property
    def descriptor(self) -> int:
        """Whose memory it is, for another process."""
        return self._array.descriptor

    def draw(self, topic: int, epoch: int, group: int, count: int) -> int:
        """Atomically take ``count`` tickets; returns the first."""
        return self._array.fetch_add(_offset(topic, epoch, group), count)

    def read(self, topic: int, epoch: int, group: int) -> int:
        """How many tickets were drawn so far."""
        return self._array.load(_offset(topic, epoch, group))

    def reset(self, topic: int, epoch: int) -> None:
        """Set all counters of an epoch that begins to 0."""
        for group in range(_abi.MAX_GROUPS):
            self._array.store(_offset(topic, epoch, group), 0)

    def close(self) -> None:
        self._array.close()


def _offset(topic: int, epoch: int, group: int) -> int:
    return ticket_slot(topic, epoch, group) * TICKET_SIZE
