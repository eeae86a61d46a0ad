"""The topics with their groups and members as they are now: what is asked of it without changing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator

from tempos import Group, Member, Prefer, Topic
from tempos_broker.account.accounts import Holder
from tempos_broker.members.admission import unknown_topic
from tempos_broker.members.known import GroupState, Lease, Membership, group_of_one, member_of


class Table:
    """``source_of`` gives the address that events to a member leave from, by its IP and the one it asked."""

    def __init__(self, source_of: Callable[[str, str | None], str | None]) -> None:
        #: Where this broker of a fleet is.
        self.zone = ""
        self._source_of = source_of
        self._by_name: dict[str, Topic] = {}
        self._by_id: dict[int, Topic] = {}
        #: Those with ports of their own.
        self._foreign: dict[int, Topic] = {}
        self._groups: dict[int, dict[str, GroupState]] = {}
        #: Grow by one with each change of what makes a topic's route.
        self._versions: dict[int, int] = {}
        #: By topic: members that are in no route, as long as others of their group are.
        self._down: dict[int, frozenset[tuple[str, int]]] = {}
        #: Where events to members leave from, as long as it is the same for all topics; and for how many.
        self._same: dict[tuple[str, str | None], str | None] = {}
        self._sames = 0

    @contextlib.contextmanager
    def same_sources(self) -> Iterator[None]:
        """Inside, the address that events to a member leave from is asked for once for all topics."""
        self._same = {}
        self._sames += 1
        try:
            yield
        finally:
            self._sames -= 1

    def touch(self, topic: int) -> None:
        """Something else than the members makes the topic's route another one."""
        self._versions[topic] += 1

    @property
    def topics(self) -> Iterable[Topic]:
        return self._by_name.values()

    @property
    def foreign(self) -> Collection[Topic]:
        """Those that take datagrams at ports of their own."""
        return self._foreign.values()

    def _know(self, topic: Topic) -> None:
        """A topic is new, or has other options."""
        self._by_name[topic.name] = self._by_id[topic.id] = topic
        if topic.ports:
            self._foreign[topic.id] = topic
        else:
            self._foreign.pop(topic.id, None)

    def _drop(self, topic: int) -> None:
        """A topic is no more."""
        del self._by_name[self._by_id.pop(topic).name]
        self._foreign.pop(topic, None)

    def topic(self, name: str) -> Topic:
        """The topic of this name; raises :class:`Refused`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise unknown_topic(name, self._by_name) from None

    def numbered(self, topic: int) -> Topic | None:
        """The topic of this id, if there is one."""
        return self._by_id.get(topic)

    def still_has(self, topic: Topic) -> bool:
        """Whether a topic that was looked up before is still there: not gone, nor another one by now."""
        known = self._by_name.get(topic.name)
        return known is not None and (known.id, known.framing) == (topic.id, topic.framing)

    # --- what holds of a topic --------------------------------------------------------------

    def set_down(self, topic: int, down: frozenset[tuple[str, int]]) -> None:
        """These members of a topic are in no route, as long as others of their group are."""
        if down != self._down.get(topic, frozenset()):
            if down:
                self._down[topic] = down
            else:
                self._down.pop(topic, None)
            self._versions[topic] += 1

    def _up(self, topic: int, state: GroupState) -> Iterable[Membership]:
        """The members of a group that take what they are sent; all where none does."""
        members, down = state.members.values(), self._down.get(topic)
        if not down:
            return members
        return [each for place, each in state.members.items() if place not in down] or members

    def groups(self, topic: int) -> tuple[Group, ...]:
        """The groups of a topic as a route takes them: only those with members, each with its source.

        Of a member that asked no address that depends on the network, and may be another one next time.
        """
        chosen = self._same if self._sames else {}

        def sourced(member: Member) -> Member:
            key = member.ip, member.source
            if key not in chosen:
                chosen[key] = member.source if member.is_nobody else self._source_of(*key)
            if (source := chosen[key]) == member.source:
                return member
            return member_of(member.ip, member.port, member.mac, source, member.weight)

        states = self._groups[topic]
        if len(states) == 1 and len((only := next(iter(states.values()))).members) == 1:
            return group_of_one(only.name, sourced(next(iter(only.members.values())).member))
        return tuple(
            Group(state.name, tuple(sourced(m.member) for m in self._preferred(topic, state)))
            for state in states.values()
        )

    def _preferred(self, topic: int, state: GroupState) -> Iterable[Membership]:
        """The members of a group that get events of a topic now."""
        known, members = self._by_id.get(topic), self._up(topic, state)
        if known is None or known.prefer is Prefer.ANY or not self.zone:
            return members
        return [each for each in members if self._is_near(each)] or members

    def _is_near(self, membership: Membership) -> bool:
        lease = membership.lease
        return lease is None or not lease.home or lease.zone == self.zone

    def passed_over(self, topic: int) -> dict[str, int]:
        """How many members of each group get nothing of a topic from here, for others are nearer."""
        counts = {
            state.name: len(list(self._up(topic, state))) - len(list(self._preferred(topic, state)))
            for state in self._groups[topic].values()
        }
        return {name: number for name, number in counts.items() if number}

    def moved(self, lease: Lease) -> set[int]:
        """Somebody has another home, or that another zone: the topics whose routes may change by that."""
        topics = {each for each in lease.topics if self._by_id[each].prefer is Prefer.ZONE}
        for topic in topics:
            self.touch(topic)
        return topics

    def leaves_from(self, ip: str, asked: str | None) -> str | None:
        """The address of ours that events to who asked one leave from; None: any."""
        return self._source_of(ip, asked)

    def version(self, topic: int) -> int:
        """Grows by one at each change of the topic's members."""
        return self._versions[topic]

    def states(self, topic: int) -> Iterable[GroupState]:
        """The groups of a topic with all that is known of their members."""
        return self._groups[topic].values()

    def holders(self, topic: int) -> list[tuple[str, list[Holder]]]:
        """The groups of a topic as the ledger takes them."""
        return [
            (state.name, [membership.holder for membership in self._preferred(topic, state)])
            for state in self._groups[topic].values()
        ]

    def member_count(self, topic: int) -> int:
        return sum(len(state.members) for state in self._groups[topic].values())

    def _state_of(self, topic: int, endpoint: tuple[str, int]) -> GroupState | None:
        """The group of a topic that an endpoint is in."""
        return next((state for state in self._groups[topic].values() if endpoint in state.members), None)
