"""What the registry knows of members: who each is, of which group, and those that are about to leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from tempos import Member
from tempos_broker.account.accounts import Holder


@dataclass(slots=True)
class Membership:
    """One member inside one group. ``expires`` and ``client`` are None for a static member."""

    member: Member
    client: int | None = None
    expires: float | None = None

    @property
    def holder(self) -> Holder:
        return Holder(self.member.ip, self.member.port, self.client)


@dataclass(slots=True)
class GroupState:
    """The members of one group, in the order in which they joined."""

    name: str
    members: dict[tuple[str, int], Membership] = field(default_factory=dict)


@dataclass(slots=True)
class Leaving:
    """A member that drains: out of every route, until it has confirmed what was ticketed for it."""

    topics: frozenset[int]
    deadline: float
    #: What it was ticketed and what of it is lost, once that was answered: its accounts may be settled soon.
    answered: tuple[int, int] | None = None
