"""How many tickets of its group each member has: every n-th where they have turns, else what was counted.

Members that are picked by the source have counters of their own, behind those of the groups, by their place
in the route (`fastpath/bpf/pick.h`). They are read one after the other while events pass, so what they are
short of the group's tickets at that moment is given to the member that has the most.

A group that does not get all draws a ticket of each event nevertheless. What of these its members have
follows from what was counted of its senders, and from its sample; those numbers stand behind the tickets of
all groups, where they are told, stored and read again together with those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tempos._senders import Taken
from tempos_broker.account.accounts import Holder, Share, share

#: Behind the tickets, for each group that does not get all: which, how many its senders sent, its sample.
_OF_EACH = 3


def with_taken(tickets: Sequence[int], taken: Iterable[Taken], read: Callable[[int], int]) -> list[int]:
    """The tickets of all groups, and behind them what says how many their members have."""
    told = list(tickets)
    for each in taken:
        told += (each.group, read(each.meant) if each.meant else tickets[each.group], each.every)
    return told


def shares_of(
    groups: Sequence[tuple[str, Sequence[Holder]]], drawn: Sequence[int], picked: Callable[[int], int] | None
) -> Iterator[Share]:
    """For each group. ``picked``: what the member at a place was counted; None: all have turns."""
    first, less = 0, _less(drawn, len(groups))
    for index, (_, holders) in enumerate(groups):
        tickets, count = drawn[index], len(holders)
        meant, every = less.get(index, (tickets, 1))
        # Counted one after the other, they may be read in between.
        meant = min(meant, tickets)
        handed = -(-meant // every)
        shares = [share(handed, place, count) for place in range(count)]
        if picked is not None and count > 1:
            counted = [picked(first + place) for place in range(count)]
            if any(counted):
                counted[counted.index(max(counted))] += handed - sum(counted)
                shares = counted
        first += count
        yield Share(shares, tickets - meant, meant - handed)


def _less(drawn: Sequence[int], groups: int) -> dict[int, tuple[int, int]]:
    rest = drawn[groups:]
    return {rest[at]: (rest[at + 1], rest[at + 2]) for at in range(0, len(rest) - _OF_EACH + 1, _OF_EACH)}
