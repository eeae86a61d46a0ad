"""Which devmap the kernel must broadcast into for an event, whichever members it goes to.

A devmap has one slot for each copy of an event, so how often it names an interface is how many groups pick
a member that leaves by it. Where every group has all its members behind one interface, that is always the
same devmap. Groups whose members are spread over several are what makes a difference: each pick adds a
weight, and the sum of the weights says how many of these groups went to which interface. So the program
finds the devmap by additions alone. A group that does not get every event may also be left out of one: to
it that is one more interface, NOWHERE, which takes no slot and adds nothing. Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tempos import _abi

#: What one topic may take of the kernel's table; each devmap there costs an RCU grace period to put in.
MAX_KEYS = 1024
MAX_DEVMAPS = 64

#: In place of an interface's index: the group is left out of the event. Comes before every other.
NOWHERE = 0

#: By key, beginning with a topic's first: the interface of each slot, or None where no picks lead to that
#: leave a copy to be made.
Devmaps = tuple["tuple[int, ...] | None", ...]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """``weights``: of each group, in order, what picking a member adds, by that member's interface."""

    weights: tuple[dict[int, int], ...]
    devmaps: Devmaps


def plan_broadcast(groups: Sequence[Sequence[int]], less: Collection[int] = ()) -> Broadcast | str:
    """The broadcast for groups given as the interfaces of their members, or why there can be none.

    ``less``: groups that do not get every event.
    """
    interfaces = [sorted({*group, NOWHERE} if at in less else set(group)) for at, group in enumerate(groups)]
    everywhere = {index for group in interfaces for index in group} - {NOWHERE}
    if len(everywhere) > _abi.MAX_FANOUT_EGRESS:
        return f"members by {len(everywhere)} interfaces; a broadcast serves at most {_abi.MAX_FANOUT_EGRESS}"
    fixed = [group[0] for group in interfaces if len(group) == 1]
    spread = [group for group in interfaces if len(group) > 1]
    ways = sorted({index for group in spread for index in group})
    # In a number system with one more digit than there are such groups, no sum carries.
    weight = {index: (len(spread) + 1) ** (place - 1) if place else 0 for place, index in enumerate(ways)}
    keys = (len(spread) + 1) ** max(0, len(ways) - 1)
    too_many = f"{len(spread)} groups are spread over {len(ways)} interfaces: too many combinations"
    if NOWHERE in ways:
        too_many = (
            f"{len(spread)} groups are spread over {len(ways) - 1} interfaces or do not get every event: "
            "too many combinations"
        )
    if keys > MAX_KEYS:
        return too_many
    reached: dict[int, tuple[int, ...]] = {0: ()}
    for group in spread:
        reached = {key + weight[index]: (*picks, index) for key, picks in reached.items() for index in group}
    if len(reached) > MAX_DEVMAPS:
        return too_many
    return Broadcast(
        tuple({index: weight[index] if len(group) > 1 else 0 for index in group} for group in interfaces),
        tuple(
            tuple(sorted(each for each in (*fixed, *reached[key]) if each != NOWHERE)) or None
            if key in reached
            else None
            for key in range(max(reached) + 1)
        ),
    )
