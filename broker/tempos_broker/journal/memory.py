"""One journal in the memory of this process: written by the slow path, read by whoever wants to know.

Needs the compiled helper; importing this without it raises :class:`ImportError`. The memory is let go of when
nobody has the object any more: a thread may be reading it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tempos._slots import TICKETS, JournalLayout, ticket_of
from tempos_broker._batch import ffi, lib

if TYPE_CHECKING:
    from tempos_broker._batch import CJournal

#: In the head: slots, cells, bytes; where the epochs are told, with the identity behind them; and that.
_SIZES = struct.Struct("=III")
_EPOCHS = slice(16, 56)
_IDENTITY, _IDENTITY_AT = struct.Struct("=Q"), 48
#: The two epochs that are told of, each u32 but while it is being changed.
_TWO_EPOCHS, _EPOCHS_AT = struct.Struct("=QQ"), 32
_U32 = 0xFFFFFFFF


class Entry(NamedTuple):
    """An event. ``at_ns``: of :func:`now`; ``payload``: None where it was too large to be kept."""

    position: int
    epoch: int
    tickets: tuple[int, ...]
    at_ns: int
    length: int
    payload: bytes | None


class Run(NamedTuple):
    """The numbers [first, first + numbers) of a publisher, as they travel."""

    publisher: int
    first: int
    numbers: int


class Walked(NamedTuple):
    """What stands at some positions: ``lacking`` has those of which nothing is there yet.

    ``lapped`` of them have been overwritten; the next walk begins ``at`` a position.
    """

    runs: list[Run]
    lacking: list[int]
    lapped: int
    at: int


#: Positions that a walk finds lacking, and runs that it finds, at most.
WALK = 1024


class Memory:
    """A journal behind a descriptor, which stays the caller's."""

    def __init__(self, descriptor: int, layout: JournalLayout, owner: int = 0) -> None:
        """Raises :class:`OSError` if the memory cannot be had.

        ``owner``: whose it is to be if it is nobody's yet, as :func:`~tempos._slots.journal_owner` has it.
        """
        size = -(-layout.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._held = ffi.from_buffer("uint8_t[]", self._memory, require_writable=True)
        self.layout = layout
        self.view: CJournal = ffi.new("struct tempos_journal_view *")
        self.view.memory = self._held
        self.view.slots, self.view.cells, self.view.bytes = layout.slots, layout.cells, layout.bytes
        _SIZES.pack_into(self._memory, 0, layout.slots, layout.cells, layout.bytes)
        self._walked = (
            ffi.new("struct tempos_walked[]", WALK), ffi.new("uint64_t[]", WALK),
            ffi.new("uint32_t *"), ffi.new("uint32_t *"),
        )  # fmt: skip
        #: Whether nobody has had it before.
        self.is_new = not self.identity
        if self.is_new:
            identity = owner | secrets.randbits(32) if owner else secrets.randbits(62) + 1
            _IDENTITY.pack_into(self._memory, _IDENTITY_AT, identity)

    @property
    def identity(self) -> int:
        """Whose positions they are: another journal has another one, whatever its size."""
        (identity,) = _IDENTITY.unpack_from(self._memory, _IDENTITY_AT)
        return int(identity)

    @property
    def latest(self) -> int:
        """The highest epoch that it has a place for; 0: none yet."""
        told = _TWO_EPOCHS.unpack_from(self._memory, _EPOCHS_AT)
        return max((each for each in told if each <= _U32), default=0)

    def first(self, epoch: int) -> int:
        """The position at which an epoch begins; 0: it is not there."""
        return lib.tempos_journal_first(self.view, epoch)

    def has(self, epoch: int) -> bool:
        """Whether events of an epoch find their places."""
        return self.first(epoch) > 0

    def find(self, first: int, epoch: int, group: int, ticket: int, reach: int) -> Entry | None:
        """The event that drew a ticket of a group in an epoch that begins at ``first``; None: it is not here.

        ``reach``: by how much it may differ from the ticket of the first group.
        """
        position, group = first + ticket, ticket_of(group)
        if group:
            position = lib.tempos_journal_find(self.view, first, epoch, group, ticket & _U32, reach)
        entry = self.read(position) if position else None
        # It may have been another's by the time that it was read.
        if entry is None or entry.epoch != epoch or entry.tickets[group] != ticket & _U32:
            return None
        return entry

    def begin(self, epoch: int, drawn: int, spare: int | None = None) -> None:
        """An epoch is to come; of the one before so many tickets were drawn in its first group.

        ``spare``: places that stay free for those that are drawn yet, an eighth of all at most (None: that).
        """
        lib.tempos_journal_begin(self.view, epoch, drawn, self.layout.slots if spare is None else spare)

    def put(self, epoch: int, tickets: Sequence[int], payload: bytes) -> bool:
        """Write an event with these tickets, by group; whether it is kept."""
        first = self.first(epoch)
        if not first:
            return False
        kept = tickets[:TICKETS]
        return bool(
            lib.tempos_journal_put(
                self.view, first + tickets[0], epoch, kept, len(kept), payload, len(payload), now()
            )
        )

    def positions(self, after: int = 0) -> Sequence[int]:
        """Of the events that stand there whole now, those after one, in their order."""
        found = ffi.new("uint64_t[]", self.layout.slots)
        count = lib.tempos_journal_scan(self.view, after, found)
        return ffi.unpack(found, count)

    def read(self, position: int) -> Entry | None:
        """The event of a position; None: it is not there, or not any more."""
        head = ffi.new("struct tempos_journal_slot *")
        tickets = ffi.new("uint32_t[]", TICKETS)
        payload = ffi.new("uint8_t[]", self.layout.bytes)
        if not lib.tempos_journal_read(self.view, position, head, tickets, payload):
            return None
        others = range(1, min(head.groups, TICKETS))
        held = head.length <= self.layout.bytes
        return Entry(
            position,
            head.epoch,
            (head.ticket, *(tickets[group] for group in others)),
            head.at_ns,
            head.length,
            bytes(ffi.buffer(payload, head.length)) if held else None,
        )

    def walk(self, at: int, end: int) -> Walked:
        """What stands at the positions from one on, to another, or as much as one walk takes."""
        place, (found, lacking, count, lapped) = ffi.new("uint64_t *", at), self._walked
        runs = lib.tempos_journal_walk(self.view, place, end, WALK, found, lacking, count, lapped)
        return Walked(_runs(found, runs), ffi.unpack(lacking, count[0]), lapped[0], place[0])

    def walk_all(self, publisher: int) -> list[Run]:
        """What stands there of a publisher, in no order."""
        found = ffi.new("struct tempos_walked[]", self.layout.slots)
        count = lib.tempos_journal_walk_all(self.view, publisher, self.layout.slots, found)
        return _runs(found, count)

    @property
    def has_guards(self) -> bool:
        """Whether events are guarded."""
        return bool(lib.tempos_journal_has_guards(self.view))

    def guard(self, publisher: int, sequence: int) -> None:
        """Have nobody else forward this event any more."""
        lib.tempos_journal_guard(self.view, publisher, sequence)

    def is_guarded(self, publisher: int, sequence: int) -> bool:
        """Whether an event has been sent again meanwhile."""
        return bool(lib.tempos_journal_guarded(self.view, publisher, sequence))

    def unguard(self) -> None:
        """Guard none any more."""
        lib.tempos_journal_unguard(self.view)

    def mend(self) -> int:
        """Free what a process was writing that is dead, while none writes; how many slots that were."""
        return lib.tempos_journal_mend(self.view)

    def continue_from(self, other: Memory) -> None:
        """Have epochs and identity of another journal of the topic; before anything is written here."""
        self._memory[_EPOCHS] = other._memory[_EPOCHS]

    def follow(self, other: Memory) -> None:
        """Take over what fits of one that nobody writes any more, which this one continues."""
        lib.tempos_journal_follow(self.view, other.view)


def _runs(found: Any, count: int) -> list[Run]:
    return [Run(each.publisher, each.first, each.count) for each in found[0:count]]


def make(layout: JournalLayout) -> int:
    """The descriptor of memory for a journal of that size; raises :class:`OSError`."""
    descriptor = os.memfd_create("tempos-journal", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, -(-layout.size // mmap.PAGESIZE) * mmap.PAGESIZE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def now() -> int:
    """The moment as events have it."""
    return lib.tempos_journal_now()
