"""What members have told as one count of topics that are no more, should these be made anew.

A client goes on counting where it was: to it a topic of the same id, name and framing is the same one. Rule:
of so many topics, and of so many members of a group, as are remembered of those that left.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

from tempos_broker.account.accounts import SETTLED_KEPT, GroupAccount, Holder
from tempos_broker.account.topics import TopicAccount

#: By group and holder: received, dropped.
Totals: TypeAlias = dict[str, dict[Holder, tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class _Ended:
    """``forgot``: there were more than are remembered. ``untold``: see :class:`GroupAccount`, by group."""

    name: str
    stamped: bool
    totals: Totals
    forgot: bool
    untold: Mapping[str, AbstractSet[Holder]]


class Ended:
    """By topic id; the one that ended first is forgotten first."""

    def __init__(self) -> None:
        self._topics: dict[int, _Ended] = {}

    def put(self, topic: int, name: str, state: TopicAccount, *, stamped: bool) -> None:
        """Note what is in an account that ends with its topic."""
        self._topics.pop(topic, None)
        totals = state.totals()
        forgot = state.forgot or len(totals) > SETTLED_KEPT
        for group, told in list(totals.items())[-SETTLED_KEPT:]:
            forgot |= len(told) > SETTLED_KEPT
            totals[group] = dict(list(told.items())[-SETTLED_KEPT:])
        if totals:
            untold = {group: state.groups[group].all_untold & told.keys() for group, told in totals.items()}
            self._topics[topic] = _Ended(name, stamped, totals, forgot, untold)
        while len(self._topics) > SETTLED_KEPT:
            del self._topics[next(iter(self._topics))]

    def begin(self, topic: int, name: str, *, stamped: bool) -> None:
        """There is a topic of this id again: what was told of another one is not about it."""
        ended = self._topics.get(topic)
        if ended is not None and (ended.name, ended.stamped) != (name, stamped):
            del self._topics[topic]

    def take(self, topic: int) -> TopicAccount | None:
        """The account with which a topic goes on that was made anew; None: nothing is known of it."""
        ended = self._topics.pop(topic, None)
        if ended is None:
            return None
        state = TopicAccount(forgot=ended.forgot)
        for group, told in ended.totals.items():
            state.groups[group] = GroupAccount(settled=dict(told), untold=set(ended.untold[group]))
        state.retire(list(state.groups), lambda name: None)
        return state
