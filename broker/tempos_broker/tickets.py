"""Ticket counters in a file that outlives this process, and the count of what the slow path drew.

The file is mapped into memory: a process that is killed leaves the counters as they were at its last
instruction. Every page of it is allocated before it is mapped, because a disk that is full shows at the first
touch of a page that is not there, as a signal that ends the process.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from tempos._rows import Rows
from tempos._slots import NUMBERS, group_slot, slots
from tempos_broker.paths import Tickets

if TYPE_CHECKING:
    from tempos_broker.shared import SharedNumbers

_COUNTER = struct.Struct("=Q")
#: The counters of an epoch that begins.
_NONE = bytes(NUMBERS * _COUNTER.size)


class FileTickets:
    """Ticket counters in a file that survives the process; with the compiled helper, of several processes."""

    #: Bytes between two counters.
    stride = _COUNTER.size

    def __init__(self, path: Path | None, rows: Rows) -> None:
        """Open or make the file; None: memory that ends with the last process that has it.

        A file of another size, for another number of topics, is begun anew. Raises :class:`OSError`, also
        where the disk has no room for it.
        """
        self._row_of = rows.of
        # Whole pages, as whoever shares them maps.
        size = -(-slots(rows.count) * _COUNTER.size // mmap.PAGESIZE) * mmap.PAGESIZE
        if path is None:
            self.descriptor = os.memfd_create("tempos-tickets", os.MFD_CLOEXEC)
        else:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self.descriptor).st_size != size:
                os.ftruncate(self.descriptor, 0)
            os.ftruncate(self.descriptor, size)
            if path is not None and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, 0, size)
            self._memory = mmap.mmap(self.descriptor, size)
            self._shared = _shared(self.descriptor, size // _COUNTER.size)
        except BaseException:
            os.close(self.descriptor)
            raise

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        if self._shared is not None:
            return self._shared.add(group_slot(self._row_of[topic], epoch, group), count)
        offset = group_slot(self._row_of[topic], epoch, group) * _COUNTER.size
        first: int = _COUNTER.unpack_from(self._memory, offset)[0]
        _COUNTER.pack_into(self._memory, offset, first + count)
        return first

    def read(self, topic: int, epoch: int, group: int) -> int:
        offset = group_slot(self._row_of[topic], epoch, group) * _COUNTER.size
        return int(_COUNTER.unpack_from(self._memory, offset)[0])

    def reset(self, topic: int, epoch: int) -> None:
        first = group_slot(self._row_of[topic], epoch, 0) * _COUNTER.size
        # What is 0 already need not be written to the disk again, for thousands of topics.
        if self._memory[first : first + len(_NONE)] != _NONE:
            self._memory[first : first + len(_NONE)] = _NONE

    def rest(self) -> None:
        """Let go of the pages that were looked at: those that are used come back one by one."""
        if hasattr(mmap, "MADV_DONTNEED"):
            # Of a file that is shared nothing is lost by that.
            self._memory.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if not self._memory.closed:
            if self._shared is not None:
                self._shared.close()
            self._memory.close()
            os.close(self.descriptor)


def _shared(descriptor: int, count: int) -> SharedNumbers | None:
    """The counters as several processes may use them, where the compiled helper is there."""
    try:
        from tempos_broker.shared import SharedNumbers
    except ImportError:
        return None
    return SharedNumbers(descriptor, count)


class CountedTickets:
    """Tickets of which what the slow path draws is counted, too: events, by topic.

    Both paths draw from ``tickets``; ``counts`` tells how many of them the slow path drew.
    """

    def __init__(self, tickets: Tickets, counts: Tickets) -> None:
        #: The same tickets, drawn without being counted.
        self.uncounted = tickets
        self.counts = counts

    def draw(self, topic: int, epoch: int, group: int, count: int, groups: int = 1) -> int:
        if not group:
            self.counts.draw(topic, 0, 0, count)
        return self.uncounted.draw(topic, epoch, group, count, groups)

    def read(self, topic: int, epoch: int, group: int) -> int:
        return self.uncounted.read(topic, epoch, group)

    def reset(self, topic: int, epoch: int) -> None:
        self.uncounted.reset(topic, epoch)

    def drawn(self, topic: int) -> int:
        """Events for which the slow path drew tickets, in this life and those before."""
        return self.counts.read(topic, 0, 0)

    def recount(self, topic: int, drawn: int) -> None:
        """The slow path has drawn tickets for so many events; while it draws none."""
        if self.drawn(topic) != drawn:
            self.counts.reset(topic, 0)
            self.counts.draw(topic, 0, 0, drawn)

    def forget(self, topic: int) -> None:
        self.counts.reset(topic, 0)
