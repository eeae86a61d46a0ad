"""What members that are gone were sent and had not processed, in the account of their groups. Values.

A part of a group's tickets, whatever else they are: of what a dead member told to have got, too, it may not
be known that its program had processed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tempos_broker.account.accounts import NO_ORPHANS, GroupRow, Orphans


def with_orphans(rows: Sequence[GroupRow], orphans: Mapping[str, Orphans]) -> list[GroupRow]:
    """The groups with theirs; some of which nobody is left have nothing but that."""
    if not orphans:
        return list(rows)
    left = dict(orphans)
    told = [replace(row, orphans=left.pop(row.name, NO_ORPHANS)) for row in rows]
    return [*told, *(GroupRow(name, 0, 0, 0, 0, 0, 0, 0, (), orphans=each) for name, each in left.items())]


def unlike_orphans(orphans: Mapping[str, Orphans]) -> Iterator[str]:
    """Where that does not add up."""
    for group, (orphaned, redelivered, pending, lapsed) in orphans.items():
        if orphaned != redelivered + pending + lapsed:
            yield (
                f"group {group}: {orphaned} orphaned are not {redelivered} redelivered + {pending} pending "
                f"+ {lapsed} lapsed"
            )
