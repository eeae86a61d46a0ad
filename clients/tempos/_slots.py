"""Where the numbers of a topic, an epoch and a group stand in every table that has them.

Two epochs of a topic live side by side, told apart by the lowest bit: the one that holds, and the one that
the swap under way ends. Tickets in the kernel, in files and in shared memory, and copies lost, all lie so.
Each event draws a ticket of every group of its epoch. Groups from the 32nd on, which only the slow path
carries, have theirs together: it is drawn once for all of them, and is the last that a journal has room for.
Of a foreign topic, which never has so many, other counters stand behind the tickets.
A topic's place is its *row* (:mod:`._rows`), which for narrow ids is the id. A topic's journal is memory of
its own, whose size follows from the topic's options.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tempos._abi import GROUPS_PER_TOPIC, JOURNAL_BYTES, JOURNAL_CELL, JOURNAL_GUARDS, JOURNAL_TICKETS

EPOCHS = 2
#: Tickets of one epoch; and numbers in all.
TICKETS = JOURNAL_TICKETS
NUMBERS = GROUPS_PER_TOPIC
#: Groups of one topic at most.
MOST_GROUPS = 4096
#: Bytes that the journal of one topic may take.
MOST_MEMORY = 1 << 30
#: What stands in front of the payload in a slot of a journal: ``struct tempos_journal_slot``.
SLOT_HEAD = 32
#: Of an identity of a journal: its upper half says whose it is.
_SAYS_WHOSE = 1 << 63


def slots(rows: int) -> int:
    """Numbers in a table of so many rows."""
    return rows * EPOCHS * NUMBERS


def epoch_row(row: int, epoch: int) -> int:
    """Which of the places of a topic with this row is an epoch's."""
    return row * EPOCHS + epoch % EPOCHS


def group_slot(row: int, epoch: int, group: int) -> int:
    """Where the number of a group with a ticket of its own is, or one behind those."""
    return epoch_row(row, epoch) * NUMBERS + group


def ticket_of(group: int) -> int:
    """Which of the numbers of an epoch is a group's ticket."""
    return min(group, TICKETS - 1)


def journal_owner(name: str, framing: str) -> int:
    """What the identity of a topic's journals begins with: their upper half."""
    digest = hashlib.blake2b(f"{framing} {name}".encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "big") | _SAYS_WHOSE >> 32) << 32


def is_owned(identity: int, owner: int) -> bool:
    """Whether a journal may be that of a topic with this :func:`journal_owner`.

    One that is nobody's yet (0) may be anybody's, as that of a version which did not say whose it was.
    """
    return not identity & _SAYS_WHOSE or identity >> 32 == owner >> 32


@dataclass(frozen=True, slots=True)
class JournalLayout:
    """``slots`` events, a power of two, in as many ``cells`` each; of their payloads ``bytes`` at most."""

    slots: int
    cells: int
    bytes: int

    @classmethod
    def of(cls, events: int, room: int = JOURNAL_BYTES) -> JournalLayout:
        """One that keeps so many events at least, with so many bytes of payload each."""
        slots = 1 << max(3, (events - 1).bit_length())
        return cls(slots, -(-(SLOT_HEAD + room) // JOURNAL_CELL) + 1, room)

    @property
    def all_cells(self) -> int:
        """Its head, the slots, and the guards behind them, of 8 bytes each."""
        return 1 + self.slots * self.cells + JOURNAL_GUARDS * 8 // JOURNAL_CELL

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.all_cells * JOURNAL_CELL
