"""What the registry knows of members: who each is, of which group, and those that are about to leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from tempos import Member
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import OWN_GROUP, StaticMember

#: Members and holders that are one object wherever they are the same, as who is in thousands of topics is.
SHARED = 4096


@lru_cache(SHARED)
def member_of(ip: str, port: int, mac: str | None, source: str | None) -> Member:
    """A member."""
    return Member(ip, port, mac, source)


@lru_cache(SHARED)
def holder_of(ip: str, port: int, client: int | None) -> Holder:
    """Who holds a place."""
    return Holder(ip, port, client)


@dataclass(slots=True)
class Membership:
    """One member inside one group. ``expires`` and ``client`` are None for a static member."""

    member: Member
    client: int | None = None
    expires: float | None = None

    @property
    def holder(self) -> Holder:
        return holder_of(self.member.ip, self.member.port, self.client)


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
