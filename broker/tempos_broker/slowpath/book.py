"""Where a core writes its account: rows of plain numbers, in lists or in memory that two processes share.

A book in shared memory has one writer, the process whose core it is. Another one may read it at any
time, and what is written stays when the writer is killed: each number is one aligned store.

Rules: what arrived is written before what became of it, so ``received`` is never the smaller one; a number
never goes down, but the copies lost of an epoch, which begin anew with the next epoch of its parity.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from typing import cast

from tempos import Reason
from tempos._abi import TOPICS
from tempos._slots import SLOTS

#: Reasons that count losses beside the datagrams received; all others sum up to them.
BESIDE = frozenset({Reason.SEND_ERROR, Reason.SOCKET_OVERRUN})

_WIDTH = len(Reason)
#: Numbers in a book: by topic what arrived, by topic and reason, and copies lost by topic, epoch and group.
NUMBERS = TOPICS * (1 + _WIDTH) + SLOTS


class Book:
    """The account of one core. ``received[topic]``, ``counts[topic][reason]`` in datagrams.

    ``lost[group_slot(topic, epoch, group)]`` in copies. Row 0 has what had no topic.
    """

    __slots__ = ("counts", "lost", "received")

    def __init__(self, numbers: memoryview | None = None) -> None:
        """``numbers``: at least ``NUMBERS`` u64s, where somebody else is to see them, too."""
        if numbers is None:
            # The usual case; lists are what Python counts fastest in.
            self.received: MutableSequence[int] = [0] * TOPICS
            self.counts: list[MutableSequence[int]] = [[0] * _WIDTH for _ in range(TOPICS)]
            self.lost: MutableSequence[int] = [0] * SLOTS
            return
        rows = TOPICS * (1 + _WIDTH)
        self.received = cast("MutableSequence[int]", numbers[:TOPICS])
        self.counts = [
            cast("MutableSequence[int]", numbers[at : at + _WIDTH]) for at in range(TOPICS, rows, _WIDTH)
        ]
        self.lost = cast("MutableSequence[int]", numbers[rows:NUMBERS])

    @staticmethod
    def number(topic: int, reason: int) -> int:
        """Which of the shared numbers is ``counts[topic][reason]``."""
        return TOPICS + topic * _WIDTH + reason

    def settled(self, topic: int) -> int:
        """Datagrams of a topic of which it is decided what becomes: all that arrived but those that wait."""
        row = self.counts[topic]
        return sum(row) - sum(row[reason] for reason in BESIDE)

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Everything counted since the start, by topic and reason; zeros are left out."""
        return {
            topic: {reason: row[reason] for reason in Reason if row[reason]}
            for topic, row in enumerate(self.counts)
            # Nothing becomes of what never arrived; only row 0 counts what was lost before.
            if (self.received[topic] or not topic) and any(row)
        }
