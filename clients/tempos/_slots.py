"""Where the numbers of a topic, an epoch and a group stand in every table that has them.

Two epochs of a topic live side by side, told apart by the lowest bit: the one that holds, and the one that
the swap under way ends. Tickets in the kernel, in files and in shared memory, and copies lost, all lie so.
A topic's place is its *row* (:mod:`._rows`), which for narrow ids is the id.
"""

from __future__ import annotations

from tempos._abi import GROUPS_PER_TOPIC

EPOCHS = 2


def slots(rows: int) -> int:
    """Numbers in a table of so many rows."""
    return rows * EPOCHS * GROUPS_PER_TOPIC


def epoch_row(row: int, epoch: int) -> int:
    """Which of the places of a topic with this row is an epoch's."""
    return row * EPOCHS + epoch % EPOCHS


def group_slot(row: int, epoch: int, group: int) -> int:
    """Which number is a group's."""
    return epoch_row(row, epoch) * GROUPS_PER_TOPIC + group
