"""How large a journal is: worked out of a topic's options, with nothing compiled."""

from __future__ import annotations

from dataclasses import dataclass

from tempos._abi import JOURNAL_BYTES, JOURNAL_CELL

#: Bytes that the journal of one topic may take.
MOST_MEMORY = 1 << 30
#: What stands in front of the payload in a slot: ``struct tempos_journal_slot``.
SLOT_HEAD = 32


@dataclass(frozen=True, slots=True)
class Layout:
    """``slots`` events, a power of two, in as many ``cells`` each; of their payloads ``bytes`` at most."""

    slots: int
    cells: int
    bytes: int

    @classmethod
    def of(cls, events: int, room: int = JOURNAL_BYTES) -> Layout:
        """One that keeps so many events at least, with so many bytes of payload each."""
        slots = 1 << max(3, (events - 1).bit_length())
        return cls(slots, -(-(SLOT_HEAD + room) // JOURNAL_CELL) + 1, room)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return (1 + self.slots * self.cells) * JOURNAL_CELL
