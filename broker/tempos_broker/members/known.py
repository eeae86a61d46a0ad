"""What the registry knows of members: who each is, of which group, and those that are about to leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from tempos import Group, Member, Topic
from tempos.model import NOBODY
from tempos.names import is_filter, matches
from tempos_broker.account.accounts import SHARED, Holder, shared_holder
from tempos_broker.config.model import OWN_GROUP, StaticMember
from tempos_broker.members.unheard import Progress

#: The discard protocol's, for a place needs one.
_NOBODYS_PORT = 9


@lru_cache(SHARED)
def member_of(ip: str, port: int, mac: str | None, source: str | None, weight: int = 1) -> Member:
    """A member."""
    return Member(ip, port, mac, source, weight)


@lru_cache(SHARED)
def group_of_one(name: str, member: Member) -> tuple[Group, ...]:
    """The groups of a topic that has one member."""
    return (Group(name, (member,)),)


@lru_cache(SHARED)
def _endpoint_of(ip: str, port: int) -> tuple[str, int]:
    return ip, port


class Wanted(NamedTuple):
    """How somebody wants to be a member of what it named: in which group, and from which address of ours.

    ``client``: whose rights it goes by, where requests are signed. ``follows``: it is told of what it is a
    member, and can be made one again without asking; not so clients of before.
    """

    group: str
    source: str | None = None
    client: str | None = None
    follows: bool = True


@dataclass(slots=True, eq=False)
class Lease:
    """What one client has at one endpoint: until when, what it asked for, and of what it is a member."""

    holder: Holder
    expires: float
    #: What it asked for, by the name or filter.
    wanted: dict[str, Wanted] = field(default_factory=dict)
    #: By topic id, the group that it is in.
    topics: dict[int, GroupState] = field(default_factory=dict)
    #: How many topics were found to match, and are about to be joined.
    joining: int = 0
    #: Topics it wants and cannot be in now, and why not (:class:`tempos.control.Out`): it is tried again.
    missing: dict[int, tuple[Topic, str]] = field(default_factory=dict)
    #: Whether what it is sent reaches it.
    progress: Progress = field(default_factory=Progress)
    #: How often in a row it was taken out because it did not.
    put_out: int = 0
    #: The broker that is its home, where that is another one of the fleet, and the zone of that one.
    home: str = ""
    zone: str = ""
    #: At home here: the other brokers of the fleet that it hears, by number; None: it has not said.
    hears: tuple[int, ...] | None = None
    #: Whether it was a member of the whole fleet in a former life, and has not been heard since.
    shared: bool = False
    #: Looks in a row at which nothing had been heard of it here, while its home is another broker.
    silent: int = 0
    #: Topics by when what it is to know of them changed last, the latest at the end.
    news: dict[int, int] = field(default_factory=dict)
    #: Those of them that it is out of: their names, and why.
    gone: dict[int, tuple[str, str]] = field(default_factory=dict)
    #: When it came into one of them last, or went out of one.
    turned: int = 0
    #: Topics that it was let into unasked, as they were then, as long as no answer has told it so.
    untold: dict[int, Topic] = field(default_factory=dict)

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.holder.ip, self.holder.port

    @property
    def client(self) -> str | None:
        """The client whose rights it goes by, where requests are signed."""
        return next((wanted.client for wanted in self.wanted.values()), None)

    @property
    def filters(self) -> Iterator[str]:
        """What it asked for that is more than a name."""
        return (each for each in self.wanted if is_filter(each))

    def follows(self, name: str) -> bool:
        """Whether it is to be a member of the topic of this name again, once there is one, by that name."""
        wanted = self.wanted.get(name)
        return wanted is not None and wanted.follows and not is_filter(name)

    def wants(self, name: str) -> Wanted | None:
        """How it wants to be a member of the topic of this name: as it asked first; None: it does not."""
        by_name = self.wanted.get(name)
        if by_name is not None:
            return by_name
        return next((self.wanted[each] for each in self.filters if matches(each, name)), None)

    def changed(self, topic: int, version: int) -> None:
        """There is something to be told of a topic."""
        if self.news.pop(topic, None) is None or topic in self.gone:
            self.turned = version
        self.news[topic] = version

    def has_not_heard_of(self, topic: Topic) -> bool:
        """Whether it was let into this very topic, and no answer has told it so."""
        then = self.untold.get(topic.id)
        return then is not None and (then.name, then.framing) == (topic.name, topic.framing)

    def since(self, version: int) -> Iterator[tuple[int, int]]:
        """What is to be told to who knows all up to ``version``: topics and their versions, oldest first."""
        new: list[tuple[int, int]] = []
        for topic in reversed(self.news):
            if self.news[topic] <= version:
                break
            new.append((topic, self.news[topic]))
        return reversed(new)

    def heard(self, version: int) -> None:
        """Everything up to ``version`` has been told: what it is out of is over with."""
        for topic in [topic for topic in self.gone if self.news[topic] <= version]:
            del self.gone[topic], self.news[topic]
            self.untold.pop(topic, None)


@dataclass(slots=True)
class Membership:
    """One member inside one group; one without a lease is static."""

    member: Member
    lease: Lease | None = None

    @property
    def client(self) -> int | None:
        return None if self.lease is None else self.lease.holder.client

    @property
    def expires(self) -> float | None:
        return None if self.lease is None else self.lease.expires

    @property
    def holder(self) -> Holder:
        if self.lease is not None:
            return self.lease.holder
        return shared_holder(self.member.ip, self.member.port, None)

    @property
    def is_vacancy(self) -> bool:
        """Whether nobody is there."""
        return self.member.is_nobody


@lru_cache(SHARED)
def static_membership(member: Member) -> Membership:
    """A static member in any group: it is never another one."""
    return Membership(member)


@dataclass(slots=True)
class GroupState:
    """The members of one group, in the order in which they joined."""

    name: str
    members: dict[tuple[str, int], Membership] = field(default_factory=dict)

    def put(self, membership: Membership) -> None:
        """A member more, or another one at its endpoint."""
        self.members[_endpoint_of(membership.member.ip, membership.member.port)] = membership


@dataclass(slots=True)
class Leaving:
    """A member that drains: out of every route, until it has confirmed what was ticketed for it."""

    topics: frozenset[int]
    deadline: float
    #: What it was ticketed and what of it is lost, once that was answered: its accounts may be settled soon.
    answered: tuple[int, int] | None = None


def vacancy_of(topic: int, number: int, client: int, until: float) -> Membership:
    """Nobody's place in a group of a topic: one of so many of it, until somebody comes."""
    ip, port = f"{NOBODY}{topic >> 8}.{topic & 0xFF}.{number}", _NOBODYS_PORT
    return Membership(member_of(ip, port, None, None), Lease(Holder(ip, port, client), until))


def is_static(member: Member, group: str, static: StaticMember) -> bool:
    """Whether a member without a lease is as the configuration has it."""
    wanted = static.group or own_group(static.ip, static.port)
    now, then = (member.mac, member.source, member.weight), (static.mac, static.source, static.weight)
    return (now, group) == (then, wanted)


def own_group(ip: str, port: int) -> str:
    """The name of the group of a subscriber that names none."""
    return f"{OWN_GROUP}{ip}:{port}"
