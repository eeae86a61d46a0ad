"""The account of a topic of which no event has been counted: its open epochs, and nothing else.

Most topics of many are so for long, and a whole account takes ten times as much memory. Nobody can have got,
lost or confirmed anything: who left such a topic is not waited for, and what members tell is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from tempos_broker.account.accounts import SHARED, Account, GroupAccount, GroupRow, Holder, MemberRow
from tempos_broker.account.topics import TopicAccount

Groups: TypeAlias = Sequence[tuple[str, tuple[Holder, ...]]]


class Quiet:
    """``epoch``: the latest; ``open``: epochs that are not closed, the oldest first, with their groups."""

    __slots__ = ("epoch", "open")

    def __init__(self) -> None:
        self.epoch = 0
        self.open: tuple[tuple[int, Groups], ...] = ()

    def copy(self) -> Quiet:
        """The same of another topic."""
        other = Quiet()
        other.epoch, other.open = self.epoch, self.open
        return other

    @classmethod
    def of(cls, state: TopicAccount) -> Quiet | None:
        """What a whole account says, if it says no more than this can; else None."""
        present = {(name, holder) for name, holders in state.open.get(state.epoch, ()) for holder in holders}
        if state.drawn or state.unequal or state.forgot or state.left or state.idle or not state.open:
            return None
        for name, group in state.groups.items():
            if not _is_nothing(group) or any((name, holder) not in present for holder in group.accounts):
                return None
        quiet = cls()
        quiet.epoch = state.epoch
        quiet.open = tuple(sorted(state.open.items()))
        return quiet

    def opened(self, epoch: int, groups: Iterable[tuple[str, Sequence[Holder]]]) -> None:
        """A route is about to be in force."""
        self.epoch = epoch
        opened = tuple((name, tuple(holders)) for name, holders in groups)
        if len(opened) == 1 and len(opened[0][1]) == 1:
            opened = _shared(opened)
        self._open((*self.open, (epoch, opened)))

    def closed(self, epoch: int) -> None:
        """It is in force no more, and no ticket of it was drawn."""
        self._open(tuple(each for each in self.open if each[0] != epoch))

    def _open(self, epochs: tuple[tuple[int, Groups], ...]) -> None:
        is_one = len(epochs) == 1 and isinstance(epochs[0][1], tuple) and len(epochs[0][1]) == 1
        self.open = _shared_open(epochs) if is_one else epochs

    def holds(self, group: str, holder: Holder) -> bool:
        """Whether somebody has a place in a group of an open epoch."""
        return any(name == group and holder in holders for _, groups in self.open for name, holders in groups)

    def rows(self) -> tuple[GroupRow, ...]:
        """The account of the groups of the one epoch that is open: nothing, of each."""
        ((_, groups),) = self.open
        return tuple(
            GroupRow(name, 0, 0, 0, 0, 0, 0, 0, tuple(map(_nothing_of, holders))) for name, holders in groups
        )

    def whole(self, now: float, *, stamped: bool, forgot: bool = False) -> TopicAccount:
        """The whole account, in which events can be counted."""
        state = TopicAccount(forgot=forgot)
        for epoch, groups in self.open:
            state.begin(epoch, groups, now, stamped=stamped)
        state.epoch = self.epoch
        return state


@lru_cache(SHARED)
def _shared(groups: tuple[tuple[str, tuple[Holder, ...]], ...]) -> tuple[tuple[str, tuple[Holder, ...]], ...]:
    """One object wherever the same one member is in thousands of topics."""
    return groups


@lru_cache(SHARED)
def _shared_open(epochs: tuple[tuple[int, Groups], ...]) -> tuple[tuple[int, Groups], ...]:
    return epochs


@lru_cache(SHARED)
def _nothing_of(holder: Holder) -> MemberRow:
    known = None if holder.client is None else 0
    return MemberRow(holder, 0, known, known, 0, 0, left=False)


def _is_nothing(group: GroupAccount) -> bool:
    sums = (group.tickets, group.unsent, group.gone_delivered, group.gone_dropped, group.gone_lost,
            group.gone_unknown)  # fmt: skip
    return not any(sums) and not group.settled and all(map(_is_new, group.accounts.values()))


def _is_new(account: Account) -> bool:
    counts = (account.ticketed, account.delivered, account.base, account.drops, account.drop_base)
    kept = account.shares or account.cut or any(account.counts.values())
    return not any(counts) and not kept and account.left_at is None and not account.unsure
