"""Who is a member of what: topics, groups, leases, and what members say they got.

Sans-IO: time is an argument (monotonic seconds), nothing here sends, waits or swaps a route. Every
operation is idempotent and says whether the groups of a topic changed; the shell then builds a new
route from :meth:`Registry.groups` and swaps it in.

Rules kept here: a member is an endpoint (IPv4, UDP port) inside one group of one topic; static
members have no lease; an endpoint is in at most one group of a topic, otherwise it would get events
twice; the order of members inside a group is the order in which they joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tempos import ConfigError, Group, Member, TemposError, Topic
from tempos.control import Code, Received
from tempos_broker.config.model import OWN_GROUP, BrokerConfig


class Refused(TemposError):
    """A membership operation that cannot be done; carries the parts of an error reply."""

    def __init__(self, code: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


@dataclass(slots=True)
class Membership:
    """One member inside one group. ``expires`` is None for a static member.

    ``delivered`` is the number of datagrams the member said it got, None while it never said
    anything: a bare socket that does not speak the control protocol is *unknown*, not zero.
    """

    member: Member
    client: int | None = None
    expires: float | None = None
    delivered: int | None = None
    _reported: dict[int, int] = field(default_factory=dict)

    def report(self, epoch: int, datagrams: int) -> None:
        """Take a count of one epoch; counts of an epoch only grow, so a smaller one is a new epoch's."""
        before = self._reported.get(epoch, 0)
        gained = datagrams - before if datagrams >= before else datagrams
        self._reported[epoch] = datagrams
        self.delivered = (self.delivered or 0) + gained


@dataclass(slots=True)
class GroupState:
    """The members of one group, and what those that left had got."""

    name: str
    members: dict[tuple[str, int], Membership] = field(default_factory=dict)
    departed: int = 0


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The outcome of a subscription. ``changed``: the topic needs a new route."""

    topic: Topic
    group: str
    changed: bool


class Registry:
    """Memberships of every configured topic.

    ``is_local`` tells whether an address is this node's own: the broker's data port there would make
    events go round for ever. Raises :class:`ConfigError` for a static member that would do that.
    """

    def __init__(self, config: BrokerConfig, is_local: Callable[[str], bool]) -> None:
        self._limits = config.limits
        self._lease = config.control.lease
        self._data_port = config.data_port
        self._is_local = is_local
        self._by_name = {entry.topic.name: entry.topic for entry in config.topics}
        self._groups: dict[int, dict[str, GroupState]] = {}
        self._past: dict[int, dict[str, GroupState]] = {}
        for entry in config.topics:
            self._groups[entry.topic.id] = {}
            self._past[entry.topic.id] = {}
            for static in entry.members:
                name = static.group or own_group(static.ip, static.port)
                group = self._group(entry.topic.id, name)
                member = Member(static.ip, static.port, static.mac)
                if static.port == config.data_port and is_local(static.ip):
                    raise ConfigError(
                        [f"topic {entry.topic.name!r}: member {member} is the broker's own data socket; "
                         "events would go round for ever: take it out"]
                    )  # fmt: skip
                group.members[static.ip, static.port] = Membership(member)

    @property
    def topics(self) -> Iterable[Topic]:
        return self._by_name.values()

    def topic(self, name: str) -> Topic:
        """The topic of this name; raises :class:`Refused`."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)[:8]) or "none"
            raise Refused(Code.UNKNOWN_TOPIC, f"no topic is named {name!r}", f"known: {known}") from None

    def groups(self, topic: int) -> tuple[Group, ...]:
        """The groups of a topic as a route takes them: only those with members."""
        return tuple(
            Group(state.name, tuple(m.member for m in state.members.values()))
            for state in self._groups[topic].values()
        )

    def states(self, topic: int) -> Iterable[GroupState]:
        """The groups of a topic with all that is known of their members."""
        return self._groups[topic].values()

    def member_count(self, topic: int) -> int:
        return sum(len(state.members) for state in self._groups[topic].values())

    def subscribe(
        self, name: str, group: str | None, endpoint: tuple[str, int], client: int, now: float
    ) -> Subscribed:
        """Make ``endpoint`` a member, or renew it; raises :class:`Refused`."""
        topic = self.topic(name)
        if group is not None and group.startswith(OWN_GROUP):
            raise Refused(
                Code.BAD_REQUEST, f"group names beginning with {OWN_GROUP} are the broker's", "take another"
            )
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
            known.expires = now + self._lease
            if known.client != client:
                # The same port after a restart: the same route, but counts begin anew.
                state.departed += known.delivered or 0
                state.members[endpoint] = Membership(known.member, client, known.expires)
            return Subscribed(topic, wanted, changed=False)
        self._check_limits(topic, wanted, endpoint)
        membership = Membership(Member(*endpoint), client, now + self._lease)
        self._group(topic.id, wanted).members[endpoint] = membership
        return Subscribed(topic, wanted, changed=True)

    def unsubscribe(self, name: str, group: str | None, endpoint: tuple[str, int]) -> bool:
        """Take ``endpoint`` out of a group; whether it was in. Static members stay."""
        topic = self.topic(name)
        state = self._groups[topic.id].get(group or own_group(*endpoint))
        known = state.members.get(endpoint) if state else None
        if state is None or known is None or known.expires is None:
            return False
        self._remove(topic.id, state, endpoint)
        return True

    def heartbeat(self, endpoint: tuple[str, int], client: int, received: list[Received], now: float) -> bool:
        """Renew every membership of ``endpoint``; False if it has none (its lease ended, or we restarted)."""
        mine = list(self._of(endpoint, client))
        for _, _, membership in mine:
            membership.expires = now + self._lease
        self._report(endpoint, client, received)
        return bool(mine)

    def goodbye(self, endpoint: tuple[str, int], client: int, received: list[Received]) -> set[int]:
        """End every membership of ``endpoint``; the ids of the topics that changed."""
        self._report(endpoint, client, received)
        changed = set()
        for topic, state, _ in list(self._of(endpoint, client)):
            self._remove(topic, state, endpoint)
            changed.add(topic)
        return changed

    def expire(self, now: float) -> dict[int, list[Member]]:
        """Take out every member whose lease ended; those that went, by topic id."""
        gone: dict[int, list[Member]] = {}
        for topic, groups in self._groups.items():
            for state in list(groups.values()):
                for endpoint, membership in list(state.members.items()):
                    if membership.expires is not None and membership.expires <= now:
                        self._remove(topic, state, endpoint)
                        gone.setdefault(topic, []).append(membership.member)
        return gone

    def next_expiry(self) -> float | None:
        """When the earliest lease ends, or None."""
        leases = [
            membership.expires
            for groups in self._groups.values()
            for state in groups.values()
            for membership in state.members.values()
            if membership.expires is not None
        ]
        return min(leases, default=None)

    def _group(self, topic: int, name: str) -> GroupState:
        groups = self._groups[topic]
        if name not in groups:
            past = self._past[topic]
            groups[name] = past.pop(name) if name in past else GroupState(name)
        return groups[name]

    def _remove(self, topic: int, state: GroupState, endpoint: tuple[str, int]) -> None:
        gone = state.members.pop(endpoint)
        state.departed += gone.delivered or 0
        if not state.members:
            # What the group has behind it stays known, unless it was one endpoint's own.
            del self._groups[topic][state.name]
            if not state.name.startswith(OWN_GROUP):
                self._past[topic][state.name] = state

    def _of(self, endpoint: tuple[str, int], client: int) -> Iterator[tuple[int, GroupState, Membership]]:
        for topic, groups in self._groups.items():
            for state in groups.values():
                membership = state.members.get(endpoint)
                if membership is not None and membership.client == client:
                    yield topic, state, membership

    def _report(self, endpoint: tuple[str, int], client: int, received: list[Received]) -> None:
        for row in received:
            state = self._groups.get(row.topic, {}).get(row.group)
            membership = state.members.get(endpoint) if state else None
            if membership is not None and membership.client == client:
                membership.report(row.epoch, row.datagrams)

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


def own_group(ip: str, port: int) -> str:
    """The name of the group of a subscriber that names none."""
    return f"{OWN_GROUP}{ip}:{port}"
