"""Who is a member of what: topics, groups, leases, drains.

Sans-IO: time is an argument (monotonic seconds), nothing here sends, waits or swaps a route. Every
operation is idempotent. A change moves the topic's :meth:`Registry.version`; the shell then builds a
new route from :meth:`Registry.groups` and swaps it in. What members received is the ledger's business.

Rules kept here: a member is an endpoint (IPv4, UDP port) inside one group of one topic; static
members have no lease; an endpoint is in at most one group of a topic, otherwise it would get events
twice; the order of members inside a group is the order in which they joined.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tempos import ConfigError, Group, Member, TemposError, Topic
from tempos.control import Code, Out
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import OWN_GROUP, BrokerConfig, StaticMember, TopicConfig
from tempos_broker.members.departures import Departures, Place
from tempos_broker.members.known import GroupState, Leaving, Membership, is_static, member_of, own_group
from tempos_broker.members.leases import Leases

#: Topics that are named to who asks for one that is not there.
KNOWN_NAMED = 8


class Refused(TemposError):
    """A membership operation that cannot be done; carries the parts of an error reply."""

    def __init__(self, code: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The outcome of a subscription."""

    topic: Topic
    group: str


def unknown_topic(name: str, known: Iterable[str]) -> Refused:
    """There is no topic of this name; ``known``: those that there are, of which the first are named."""
    words = ", ".join(heapq.nsmallest(KNOWN_NAMED, known)) or "none"
    return Refused(Code.UNKNOWN_TOPIC, f"no topic is named {name!r}", f"known: {words}")


def check_static(entry: TopicConfig, data_port: int, is_local: Callable[[str], bool]) -> None:
    """Raise :class:`ConfigError` if a static member is the broker's own data socket."""
    for static in entry.members:
        if static.port == data_port and is_local(static.ip):
            raise ConfigError(
                [f"topic {entry.topic.name!r}: member {static.ip}:{static.port} is the broker's own "
                 "data socket; events would go round for ever: take it out"]
            )  # fmt: skip


class Registry:
    """Memberships of every configured topic.

    ``is_local`` tells whether an address is this node's own: the broker's data port there would make
    events go round for ever. Raises :class:`ConfigError` for a static member that would do that.
    ``source_of`` gives the address that events to a member leave from, by its IP and the address it asked.
    """

    def __init__(
        self,
        config: BrokerConfig,
        is_local: Callable[[str], bool],
        source_of: Callable[[str, str | None], str | None] = lambda ip, asked: asked,
    ) -> None:
        self._limits = config.limits
        #: Seconds that a membership lasts without a heartbeat.
        self.lease = config.control.lease
        self._data_port = config.data_port
        self._is_local = is_local
        self._source_of = source_of
        self._by_name = {entry.topic.name: entry.topic for entry in config.topics}
        self._groups: dict[int, dict[str, GroupState]] = {}
        self._versions: dict[int, int] = {}
        #: Topics that nobody joins any more, for they are about to be no more.
        self._closing: set[int] = set()
        self._leaving: dict[Holder, Leaving] = {}
        #: By endpoint and topic, the group that it is in.
        self._mine: dict[tuple[str, int], dict[int, GroupState]] = {}
        self._leases = Leases(self._earliest)
        #: Why members went, and who is not to come back.
        self.departures = Departures()
        self.check(config.topics)
        for entry in config.topics:
            self.begin(entry)

    def check(self, entries: Iterable[TopicConfig]) -> None:
        """Raise :class:`ConfigError` for a static member that is the broker's own data socket."""
        for entry in entries:
            check_static(entry, self._data_port, self._is_local)

    def begin(self, entry: TopicConfig) -> None:
        """A topic that is new, with its static members; checked before."""
        topic = entry.topic
        self._by_name[topic.name] = topic
        self._groups[topic.id] = {}
        self._versions[topic.id] = 1
        for static in entry.members:
            self._add_static(topic.id, static)

    def configure(self, config: BrokerConfig, gone: Iterable[int], now: float) -> None:
        """Go by another configuration, all at once; topics that are ``gone`` lose every member.

        Static members come and go as the configuration says; members with a lease stay. Checked before.
        """
        for topic in gone:
            for state in list(self._groups[topic].values()):
                for endpoint in list(state.members):
                    self._remove(topic, state, endpoint, Out.RELOAD, now)
            self._versions[topic] += 1
        self._limits, self.lease = config.limits, config.control.lease
        self._by_name = {entry.topic.name: entry.topic for entry in config.topics}
        for entry in config.topics:
            self.amend(entry, now)

    def amend(self, entry: TopicConfig, now: float) -> None:
        """Go by other options and static members of one topic; members with a lease stay."""
        topic = entry.topic.id
        self._by_name[entry.topic.name] = entry.topic
        self._versions.setdefault(topic, 1)
        groups = self._groups.setdefault(topic, {})
        wanted = {(static.ip, static.port): static for static in entry.members}
        for state in list(groups.values()):
            for endpoint, known in list(state.members.items()):
                static_ = wanted.get(endpoint)
                if (
                    known.expires is None
                    and static_ is not None
                    and is_static(known.member, state.name, static_)
                ):
                    del wanted[endpoint]
                elif known.expires is None or static_ is not None:
                    self._remove(topic, state, endpoint, Out.RELOAD, now)
        for static in wanted.values():
            self._add_static(topic, static)
            self._versions[topic] += 1

    def close(self, topic: int) -> None:
        """Let nobody join a topic any more, for it is about to be no more."""
        self._closing.add(topic)

    def reopen(self, topic: int) -> None:
        """It stays after all."""
        self._closing.discard(topic)

    def clear(self, topic: int, now: float) -> list[tuple[str, Holder]]:
        """Take every member out of a topic that is about to be no more; who they were, by group."""
        gone = []
        for state in list(self._groups[topic].values()):
            for endpoint, known in list(state.members.items()):
                gone.append((state.name, known.holder))
                self._remove(topic, state, endpoint, Out.REMOVED, now)
        return gone

    def end(self, topic: Topic) -> None:
        """A topic that has no member any more is gone for good."""
        self._by_name.pop(topic.name, None)
        self._closing.discard(topic.id)

    def forget(self, topic: int) -> None:
        """Nothing is known of this id any more."""
        self._groups.pop(topic, None)
        self._versions.pop(topic, None)

    def touch(self, topic: int) -> None:
        """Something else than the members makes the topic's route another one."""
        self._versions[topic] += 1

    def _add_static(self, topic: int, static: StaticMember) -> None:
        group = self._group(topic, static.group or own_group(static.ip, static.port))
        member = member_of(static.ip, static.port, static.mac, static.source)
        self._put(topic, group, Membership(member))

    @property
    def topics(self) -> Iterable[Topic]:
        return self._by_name.values()

    def topic(self, name: str) -> Topic:
        """The topic of this name; raises :class:`Refused`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise unknown_topic(name, self._by_name) from None

    def still_has(self, topic: Topic) -> bool:
        """Whether a topic that was looked up before is still there: not gone, nor another one by now."""
        known = self._by_name.get(topic.name)
        return known is not None and (known.id, known.framing) == (topic.id, topic.framing)

    def groups(self, topic: int) -> tuple[Group, ...]:
        """The groups of a topic as a route takes them: only those with members, each with its source.

        Of a member that asked no address that depends on the network, and may be another one next time.
        """
        chosen: dict[tuple[str, str | None], str | None] = {}

        def sourced(member: Member) -> Member:
            key = member.ip, member.source
            if key not in chosen:
                chosen[key] = self._source_of(*key)
            return member_of(member.ip, member.port, member.mac, chosen[key])

        return tuple(
            Group(state.name, tuple(sourced(m.member) for m in state.members.values()))
            for state in self._groups[topic].values()
        )

    def version(self, topic: int) -> int:
        """Grows by one at each change of the topic's members."""
        return self._versions[topic]

    def states(self, topic: int) -> Iterable[GroupState]:
        """The groups of a topic with all that is known of their members."""
        return self._groups[topic].values()

    def holders(self, topic: int) -> list[tuple[str, list[Holder]]]:
        """The groups of a topic as the ledger takes them."""
        return [
            (state.name, [membership.holder for membership in state.members.values()])
            for state in self._groups[topic].values()
        ]

    def places(self, holder: Holder) -> list[tuple[int, str]]:
        """The topics and groups that somebody is in."""
        endpoint = holder.ip, holder.port
        return [
            (topic, state.name)
            for topic, state in self._mine.get(endpoint, {}).items()
            if state.members[endpoint].client == holder.client
        ]

    def member_count(self, topic: int) -> int:
        return sum(len(state.members) for state in self._groups[topic].values())

    def subscribe(
        self,
        name: str,
        group: str | None,
        endpoint: tuple[str, int],
        client: int,
        now: float,
        asked: str | None = None,
    ) -> Subscribed:
        """Make ``endpoint`` a member, or renew it; raises :class:`Refused`.

        ``asked``: the address of ours that it asked, from which it gets its events from now on.
        """
        topic = self.topic(name)
        if group is not None and group.startswith(OWN_GROUP):
            raise Refused(
                Code.BAD_REQUEST, f"group names beginning with {OWN_GROUP} are the broker's", "take another"
            )
        if topic.id in self._closing:
            raise Refused(Code.UNKNOWN_TOPIC, f"topic {name!r} is being removed", "take another")
        wanted = group or own_group(*endpoint)
        groups = self._groups[topic.id]
        for state in groups.values():
            known = state.members.get(endpoint)
            if known is None:
                continue
            if known.expires is None:
                raise Refused(
                    Code.NOT_ALLOWED,
                    f"{known.member} is a static member of group {state.name!r}",
                    "use another port, or take it out of the configuration",
                )
            if state.name != wanted:
                raise Refused(
                    Code.NOT_ALLOWED,
                    f"{known.member} is in group {state.name!r} of this topic already",
                    "unsubscribe first, or use another port",
                )
            if known.client != client:
                # The same port after a restart of the client: whoever was there before is gone.
                self._remove(topic.id, state, endpoint)
                break
            known.expires = now + self.lease
            if known.member.source != asked:
                known.member = replace(known.member, source=asked)
                self._versions[topic.id] += 1
            return Subscribed(topic, wanted)
        self._check_kept_out(Place(name, wanted, *endpoint), now)
        self._check_limits(topic, wanted, endpoint)
        membership = Membership(member_of(*endpoint, None, asked), client, now + self.lease)
        self._put(topic.id, self._group(topic.id, wanted), membership)
        self._versions[topic.id] += 1
        self._leaving.pop(membership.holder, None)
        self.departures.came(topic.id, membership.holder)
        return Subscribed(topic, wanted)

    def restore(
        self,
        topic: int,
        group: str,
        endpoint: tuple[str, int],
        client: int,
        expires: float,
        asked: str | None = None,
    ) -> bool:
        """Take back a member of a former life; whether that could be.

        It cannot where the configuration has come to speak against it.
        """
        own = endpoint[1] == self._data_port and self._is_local(endpoint[0])
        groups = self._groups[topic]
        if own or topic in self._mine.get(endpoint, ()):
            return False
        if group not in groups and len(groups) >= self._limits.groups_per_topic:
            return False
        state = self._group(topic, group)
        if len(state.members) >= self._limits.members_per_group:
            return False
        self._put(topic, state, Membership(member_of(*endpoint, None, asked), client, expires))
        self._versions[topic] += 1
        return True

    def spare(self, until: float) -> None:
        """Let no lease end before ``until``."""
        for groups in self._groups.values():
            for state in groups.values():
                for membership in state.members.values():
                    if membership.expires is not None:
                        membership.expires = max(membership.expires, until)

    def restore_leaving(self, holder: Holder, topics: Iterable[int], deadline: float) -> None:
        """Go on with a drain of a former life."""
        self._leaving[holder] = Leaving(frozenset(topics) & self._groups.keys(), deadline)

    def leaving(self) -> Mapping[Holder, Leaving]:
        """The members that drain, or have drained lately."""
        return self._leaving

    def evict(self, topic: int, group: str, endpoint: tuple[str, int], now: float) -> Holder | None:
        """Take one member with a lease out of one group by an operator's order; who it was, or None."""
        state = self._groups[topic].get(group)
        known = state.members.get(endpoint) if state else None
        if state is None or known is None or known.expires is None:
            return None
        self._remove(topic, state, endpoint, Out.OPERATOR, now)
        return known.holder

    def drain_one(self, holder: Holder, topic: int, deadline: float) -> None:
        """Remember that a member which was evicted from a topic may confirm until ``deadline``."""
        known = self._leaving.setdefault(holder, Leaving(frozenset(), deadline))
        known.topics |= {topic}
        known.deadline = max(known.deadline, deadline)

    def unsubscribe(self, name: str, group: str | None, endpoint: tuple[str, int], client: int) -> bool:
        """Take ``endpoint`` out of a group; whether it was in. Static members and other clients' stay."""
        topic = self.topic(name)
        state = self._groups[topic.id].get(group or own_group(*endpoint))
        known = state.members.get(endpoint) if state else None
        if state is None or known is None or known.client != client:
            return False
        self._remove(topic.id, state, endpoint)
        return True

    def heartbeat(self, endpoint: tuple[str, int], client: int, now: float) -> set[int] | None:
        """Renew every membership of ``endpoint``: of which topics it is a member.

        None if it is no member of anything: its lease ended, or we restarted.
        """
        mine = set()
        for topic, _, membership in self._of(endpoint, client):
            membership.expires = now + self.lease
            mine.add(topic)
        return mine if mine or Holder(*endpoint, client) in self._leaving else None

    def goodbye(self, endpoint: tuple[str, int], client: int) -> set[int]:
        """End every membership of ``endpoint``; the ids of the topics that changed."""
        changed = set()
        for topic, state, _ in list(self._of(endpoint, client)):
            self._remove(topic, state, endpoint)
            changed.add(topic)
        return changed

    def drain(self, endpoint: tuple[str, int], client: int, now: float, patience: float) -> Leaving:
        """Take ``endpoint`` out of every route at once, and remember until when it may confirm.

        The first drain of a member sets the deadline, ``patience`` seconds from now; raises
        :class:`Refused` for one that is no member and was none.
        """
        holder = Holder(*endpoint, client)
        topics = frozenset(self.goodbye(endpoint, client))
        known = self._leaving.get(holder)
        if known is None and not topics:
            raise Refused(
                Code.UNKNOWN_MEMBER,
                f"{endpoint[0]}:{endpoint[1]} is no member of anything",
                "nothing to drain",
            )
        if known is None:
            known = self._leaving[holder] = Leaving(topics, now + patience)
        elif topics:
            known.topics |= topics
        return known

    def expire(self, now: float) -> dict[int, list[Member]]:
        """Take out every member whose lease ended; those that went, by topic id.

        A member that drained is remembered for a lease after its deadline, so that a repeated request
        is answered like the first.
        """
        for holder, leaving in list(self._leaving.items()):
            if leaving.deadline + self.lease <= now:
                del self._leaving[holder]
        self.departures.tidy(now)
        gone: dict[int, list[Member]] = {}
        for endpoint in self._leases.due(now):
            for topic, state in list(self._mine.get(endpoint, {}).items()):
                membership = state.members[endpoint]
                if membership.expires is not None and membership.expires <= now:
                    self._remove(topic, state, endpoint, Out.LEASE, now)
                    gone.setdefault(topic, []).append(membership.member)
        return gone

    def next_expiry(self) -> float | None:
        """When the next lease or drain ends, or None."""
        ends = [leaving.deadline + self.lease for leaving in self._leaving.values()]
        if (first := self._leases.next()) is not None:
            ends.append(first)
        return min(ends, default=None)

    def _put(self, topic: int, state: GroupState, membership: Membership) -> None:
        endpoint = (membership.member.ip, membership.member.port)
        state.members[endpoint] = membership
        self._mine.setdefault(endpoint, {})[topic] = state
        if membership.expires is not None:
            self._leases.begun(endpoint, membership.expires)

    def _earliest(self, endpoint: tuple[str, int]) -> float | None:
        """When the first lease of an endpoint ends."""
        states = self._mine.get(endpoint, {}).values()
        leases = (state.members[endpoint].expires for state in states)
        return min((each for each in leases if each is not None), default=None)

    def _group(self, topic: int, name: str) -> GroupState:
        return self._groups[topic].setdefault(name, GroupState(name))

    def _remove(
        self, topic: int, state: GroupState, endpoint: tuple[str, int], why: str = "", now: float = 0.0
    ) -> None:
        """Take a member out; ``why``, if it did not want to go."""
        known = state.members.pop(endpoint)
        mine = self._mine[endpoint]
        del mine[topic]
        if not mine:
            del self._mine[endpoint]
        self._versions[topic] += 1
        if why and known.client is not None:
            self.departures.note(topic, known.holder, why, now)
        if not state.members:
            del self._groups[topic][state.name]

    def _of(self, endpoint: tuple[str, int], client: int) -> Iterator[tuple[int, GroupState, Membership]]:
        for topic, state in self._mine.get(endpoint, {}).items():
            membership = state.members[endpoint]
            if membership.client == client:
                yield topic, state, membership

    def _check_kept_out(self, place: Place, now: float) -> None:
        kept = self.departures.kept_out(place, now)
        if kept is not None:
            raise Refused(
                Code.KEPT_OUT,
                f"an operator keeps {place} {kept.when}",
                f"tempos ctl let-in {place.topic} {place.group} {place.ip}:{place.port}",
            )

    def _check_limits(self, topic: Topic, group: str, endpoint: tuple[str, int]) -> None:
        groups = self._groups[topic.id]
        if endpoint[1] == self._data_port and self._is_local(endpoint[0]):
            raise Refused(
                Code.NOT_ALLOWED, "that endpoint is the broker's own data socket", "use another port"
            )
        if group in groups:
            limit = self._limits.members_per_group
            if len(groups[group].members) >= limit:
                raise Refused(
                    Code.LIMIT,
                    f"group {group!r} of {topic.name!r} has {limit} members already",
                    "raise limits.members_per_group",
                )
        elif len(groups) >= self._limits.groups_per_topic:
            raise Refused(
                Code.LIMIT,
                f"topic {topic.name!r} has {len(groups)} groups already",
                "raise limits.groups_per_topic, or join one of them",
            )
