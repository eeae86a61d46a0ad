"""What the registry knows of members: who each is, of which group, and those that are about to leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from tempos import Member
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import OWN_GROUP, StaticMember


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


def is_static(member: Member, group: str, static: StaticMember) -> bool:
    """Whether a member without a lease is as the configuration has it."""
    wanted = static.group or own_group(static.ip, static.port)
    return (member.mac, member.source, group) == (static.mac, static.source, wanted)


def own_group(ip: str, port: int) -> str:
    """The name of the group of a subscriber that names none."""
    return f"{OWN_GROUP}{ip}:{port}"
