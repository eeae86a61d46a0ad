"""How many tickets of its group each member has: every n-th where they have turns, else what was counted.

Members that are picked by the source have counters of their own, behind those of the groups, by their place
in the route (`fastpath/bpf/pick.h`). They are read one after the other while events pass, so what they are
short of the group's tickets at that moment is given to the member that has the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tempos_broker.account.accounts import Holder, share


def shares_of(
    groups: Sequence[tuple[str, Sequence[Holder]]], drawn: Sequence[int], picked: Callable[[int], int] | None
) -> Iterator[list[int]]:
    """For each group, by member. ``picked``: what the member at a place was counted; None: all have turns."""
    first = 0
    for (_, holders), tickets in zip(groups, drawn, strict=True):
        count = len(holders)
        shares = [share(tickets, index, count) for index in range(count)]
        if picked is not None and count > 1:
            counted = [picked(first + index) for index in range(count)]
            if any(counted):
                counted[counted.index(max(counted))] += tickets - sum(counted)
                shares = counted
        first += count
        yield shares
