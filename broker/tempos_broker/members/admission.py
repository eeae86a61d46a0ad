"""Who may become a member where: the endpoint, the name of the group, the room that there is."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping

from tempos import ConfigError, TemposError, Topic, Unheard
from tempos.control import Code
from tempos_broker.config.model import OWN_GROUP, Limits, TopicConfig
from tempos_broker.members.known import GroupState, Wanted, own_group

#: Topics that are named to who asks for one that is not there.
KNOWN_NAMED = 8


class Refused(TemposError):
    """A membership operation that cannot be done; carries the parts of an error reply."""

    def __init__(self, code: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


def unknown_topic(name: str, known: Iterable[str]) -> Refused:
    """There is no topic of this name; ``known``: those that there are, of which the first are named."""
    words = ", ".join(heapq.nsmallest(KNOWN_NAMED, known)) or "none"
    return Refused(Code.UNKNOWN_TOPIC, f"no topic is named {name!r}", f"known: {words}")


def check_static(entry: TopicConfig, ports: Collection[int], is_local: Callable[[str], bool]) -> None:
    """Raise :class:`ConfigError` if a static member is where the broker itself takes events."""
    for static in entry.members:
        if static.port in ports and is_local(static.ip):
            raise ConfigError(
                [f"topic {entry.topic.name!r}: member {static.ip}:{static.port} is the broker's own "
                 "socket; events would go round for ever: take it out"]
            )  # fmt: skip


class Admission:
    """Raises :class:`Refused`. ``is_local``: whether an address is this node's own. ``topics``: by id."""

    def __init__(
        self,
        limits: Limits,
        data_port: int,
        is_local: Callable[[str], bool],
        topics: Mapping[int, Topic],
    ) -> None:
        self.limits = limits
        self._data_port = data_port
        self._is_local = is_local
        self._topics = topics
        #: Ids of which a foreign topic may be.
        self._foreign: set[int] = set()

    def is_own(self, endpoint: tuple[str, int]) -> bool:
        """Whether this is a socket of the broker's own: events would go round for ever."""
        return endpoint[1] in self._ports() and self._is_local(endpoint[0])

    def check_static(self, entry: TopicConfig) -> None:
        """See :func:`check_static`."""
        if entry.topic.ports:
            self._foreign.add(entry.topic.id)
        check_static(entry, {*self._ports(), *entry.topic.ports}, self._is_local)

    def _ports(self) -> set[int]:
        """Where events come in."""
        topics = (self._topics.get(topic) for topic in self._foreign)
        return {self._data_port, *(port for topic in topics if topic is not None for port in topic.ports)}

    def check_endpoint(self, endpoint: tuple[str, int]) -> None:
        if self.is_own(endpoint):
            raise Refused(
                Code.NOT_ALLOWED, "that endpoint is the broker's own data socket", "use another port"
            )

    def evicts_unheard(self, topic: Topic) -> bool:
        """Whether members that events do not reach have to go."""
        says = self.limits.unheard if topic.unheard is Unheard.AUTO else topic.unheard.value
        return says == Unheard.EVICT.value

    def how(self, group: str | None, endpoint: tuple[str, int], asked: str | None, who: str | None) -> Wanted:
        """How somebody wants to be a member, by what it asked."""
        own = own_group(*endpoint)
        if group is not None and group.startswith(OWN_GROUP):
            raise Refused(
                Code.BAD_REQUEST, f"group names beginning with {OWN_GROUP} are the broker's", "take another"
            )
        return Wanted(group or own, asked, who)

    def has_room(self, groups: Mapping[str, GroupState], group: str) -> bool:
        """Whether there is room for one more in a group of a topic, or for the group."""
        known = groups.get(group)
        if known is not None:
            most = self.limits.members_per_group
            # Who they are is looked at only where that matters: many may come to one group.
            return len(known.members) < most or most > sum(
                not each.is_vacancy for each in known.members.values()
            )
        return len(groups) < self.limits.groups_per_topic

    def check_room(self, topic: Topic, groups: Mapping[str, GroupState], group: str) -> None:
        if topic.ports:
            raise Refused(
                Code.NOT_ALLOWED,
                f"topic {topic.name!r} is foreign: its datagrams say nothing that a subscriber could go by",
                "receive them by a plain socket, and make that a static member of the topic",
            )
        if self.has_room(groups, group):
            return
        if group in groups:
            raise Refused(
                Code.LIMIT,
                f"group {group!r} of {topic.name!r} has {self.limits.members_per_group} members already",
                "raise limits.members_per_group",
            )
        raise Refused(
            Code.LIMIT,
            f"topic {topic.name!r} has {len(groups)} groups already",
            "raise limits.groups_per_topic, or join one of them",
        )

    def check_share(self, topic: Topic, groups: Mapping[str, GroupState], wanted: Wanted, ip: str) -> None:
        """Nobody makes so many groups of a topic that there is no room for others, or no fast path."""
        most = self.limits.groups_per_client
        if wanted.group in groups or len(groups) < most:
            return
        leases = [
            [known.lease for known in state.members.values() if known.lease] for state in groups.values()
        ]
        at_address = sum(any(lease.holder.ip == ip for lease in each) for each in leases)
        of_client = wanted.client is not None and sum(
            any(lease.client == wanted.client for lease in each) for each in leases
        )
        if max(at_address, of_client) >= most:
            who = f"client {wanted.client!r} is" if of_client >= most else f"members at {ip} are"
            raise Refused(
                Code.LIMIT,
                f"{who} in {most} groups of {topic.name!r} already",
                "join one of them, or raise limits.groups_per_client",
            )
