"""Where the numbers of a topic, an epoch and a group stand in every table that has them.

Two epochs of a topic live side by side, told apart by the lowest bit: the one that holds, and the one that
the swap under way ends. Tickets in the kernel, in files and in shared memory, and copies lost, all lie so.
"""

from __future__ import annotations

from tempos._abi import GROUPS_PER_TOPIC, TOPICS

EPOCHS = 2
#: Rows, and numbers, in a table of all topics.
ROWS = TOPICS * EPOCHS
SLOTS = ROWS * GROUPS_PER_TOPIC


def epoch_row(topic: int, epoch: int) -> int:
    """Which row is an epoch's."""
    return topic * EPOCHS + epoch % EPOCHS


def group_slot(topic: int, epoch: int, group: int) -> int:
    """Which number is a group's."""
    return epoch_row(topic, epoch) * GROUPS_PER_TOPIC + group
