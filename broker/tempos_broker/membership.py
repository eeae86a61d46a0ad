"""Who is a member of what: topics, groups, leases, drains, and what is wanted by filters.

Sans-IO: time is an argument (monotonic seconds), nothing here sends, waits or swaps a route. Every
operation is idempotent. A change moves the topic's :meth:`Registry.version`; the shell then builds a
new route from :meth:`Registry.groups` and swaps it in. What members received is the ledger's business.

Rules kept here: a member is an endpoint (IPv4, UDP port) inside one group of one topic; static members have
no lease, all others one for everything that they are a member of; an endpoint is in at most one group of a
topic, otherwise it would get events twice, whatever and by however many filters it asked; the order of
members inside a group is the order in which they joined. Whoever wants topics is a member of them, made later
or not, unless it is kept out, there is no room, or it has no right; of these it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, replace

from tempos import Member, Topic
from tempos.control import Code, Out
from tempos.model import NOBODY
from tempos.names import is_filter, matcher
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import OWN_GROUP, BrokerConfig, ClientConfig, TopicConfig
from tempos_broker.members.admission import Admission, Refused, unknown_topic
from tempos_broker.members.departures import KeptOut, Place
from tempos_broker.members.known import (
    Lease,
    Leaving,
    Membership,
    Wanted,
    is_static,
    member_of,
    own_group,
)
from tempos_broker.members.places import Places
from tempos_broker.members.unheard import stays_out

__all__ = ["OWN_GROUP", "Refused", "Registry", "Subscribed", "unknown_topic"]

#: Topics that a lease misses and is tried for again at a heartbeat.
TRIED_AGAIN = 64
#: Topics of one lease that ended of which it is noted.
NOTED = 256
_NOTHING: KeysView[int] = dict[int, int]().keys()
#: Why one is not what it wants to be, by the code of the refusal.
_WHYS = {Code.LIMIT: Out.LIMIT}


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The outcome of a subscription."""

    topic: Topic
    group: str


class Registry(Places):
    """Memberships of every topic.

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
        super().__init__(source_of, lambda: self._admission.limits)
        self._admission = Admission(config.limits, config.data_port, is_local, self._by_id)
        self._clients = {client.id: client for client in config.control.clients}
        #: Seconds that a membership lasts without a heartbeat.
        self.lease = config.control.lease
        #: Topics that nobody joins any more, for they are about to be no more.
        self._closing: set[int] = set()
        self._leaving: dict[Holder, Leaving] = {}
        self.check(config.topics)
        for entry in config.topics:
            self.begin(entry, 0.0)

    # --- topics -----------------------------------------------------------------------------

    def check(self, entries: Iterable[TopicConfig]) -> None:
        """Raise :class:`ConfigError` for a static member that is the broker's own data socket."""
        for entry in entries:
            self._admission.check_static(entry)

    def begin(self, entry: TopicConfig, now: float) -> None:
        """A topic that is new, with its static members and those that want it; checked before."""
        topic = entry.topic
        self._know(topic)
        self._groups[topic.id] = {}
        self._versions[topic.id] = 1
        for static in entry.members:
            self._add_static(topic.id, static)
        self.join_all(topic, now)

    def configure(
        self, config: BrokerConfig, gone: Iterable[int], changed: Sequence[TopicConfig], now: float
    ) -> None:
        """Go by another configuration, all at once; topics that are ``gone`` lose every member.

        ``changed``: the topics that are new, or other than they were. Their static members come and go as the
        configuration says; members with a lease stay. Checked before.
        """
        for topic in gone:
            self._clear(topic, Out.RELOAD, now)
            self._versions[topic] += 1
            self._drop(topic)
        self._admission.limits, self.lease = config.limits, config.control.lease
        self._clients = {client.id: client for client in config.control.clients}
        new = [entry.topic for entry in changed if entry.topic.id not in self._by_id]
        for entry in changed:
            self.amend(entry, now)
        for each in new:
            self.join_all(each, now)

    def amend(self, entry: TopicConfig, now: float) -> None:
        """Go by other options and static members of one topic; members with a lease stay."""
        topic = entry.topic.id
        self._know(entry.topic)
        self._versions.setdefault(topic, 1)
        groups = self._groups.setdefault(topic, {})
        wanted = {(static.ip, static.port): static for static in entry.members}
        for state in list(groups.values()):
            for endpoint, known in list(state.members.items()):
                static_ = wanted.get(endpoint)
                if (
                    known.lease is None
                    and static_ is not None
                    and is_static(known.member, state.name, static_)
                ):
                    del wanted[endpoint]
                elif known.lease is None or static_ is not None:
                    self._remove(topic, state, endpoint, Out.RELOAD, now)
                elif known.is_vacancy and not entry.topic.redeliver:
                    self._fill(topic, state)
        for static in wanted.values():
            self._add_static(topic, static)
            self._versions[topic] += 1

    def set_client(self, name: str, client: ClientConfig | None) -> None:
        """Go by other rights of one client; None: it has none any more."""
        self._clients.pop(name, None)
        if client is not None:
            self._clients[name] = client

    def close(self, topic: int) -> None:
        """Let nobody join a topic any more, for it is about to be no more."""
        self._closing.add(topic)

    def reopen(self, topic: int) -> None:
        """It stays after all."""
        self._closing.discard(topic)

    def clear(self, topic: int, now: float) -> list[tuple[str, Holder]]:
        """Take every member out of a topic that is about to be no more; who they were, by group."""
        return self._clear(topic, Out.REMOVED, now)

    def _clear(self, topic: int, why: str, now: float) -> list[tuple[str, Holder]]:
        gone = []
        name = self._by_id[topic].name
        for state in list(self._groups[topic].values()):
            for endpoint, known in list(state.members.items()):
                gone.append((state.name, known.holder))
                self._remove(topic, state, endpoint, why, now)
                if known.lease is not None:
                    self.holdings.left_alone(known.lease, name)
        for lease in self.holdings.wants.without(topic):
            self.holdings.out(lease, topic, name, why)
            if lease.follows(name):
                self.holdings.wants.await_topic(name, lease)
        return gone

    def end(self, topic: Topic) -> None:
        """A topic that has no member any more is gone for good."""
        self._by_name.pop(topic.name, None)
        self._by_id.pop(topic.id, None)
        self._foreign.pop(topic.id, None)
        self._closing.discard(topic.id)
        for lease in self.holdings.wants.without(topic.id):
            self.holdings.forget_of(lease, topic.id)
            if lease.follows(topic.name):
                self.holdings.wants.await_topic(topic.name, lease)

    def forget(self, topic: int) -> None:
        """Nothing is known of this id any more."""
        self._groups.pop(topic, None)
        self._versions.pop(topic, None)

    # --- joining ----------------------------------------------------------------------------

    def subscribe(
        self,
        name: str,
        group: str | None,
        endpoint: tuple[str, int],
        client: int,
        now: float,
        asked: str | None = None,
        who: str | None = None,
        *,
        follows: bool = False,
    ) -> Subscribed:
        """Make ``endpoint`` a member, or renew it; raises :class:`Refused`.

        ``asked``: the address of ours that it asked, from which it gets its events from now on. ``who``: the
        client whose rights it goes by. ``follows``: see :class:`Wanted`.
        """
        topic = self.topic(name)
        wanted = self._admission.how(group, endpoint, asked, who)._replace(follows=follows)
        lease = self.holdings.lease_for(Holder(*endpoint, client))
        self._join(topic, wanted, lease, now)
        self.holdings.hold(lease, now + self.lease)
        self._want(lease, name, wanted)
        return Subscribed(topic, wanted.group)

    def subscribe_by(
        self,
        wanted: str,
        group: str | None,
        endpoint: tuple[str, int],
        client: int,
        now: float,
        asked: str | None = None,
        who: str | None = None,
    ) -> list[Topic]:
        """Let ``endpoint`` be a member of whatever matches a filter from now on; raises :class:`Refused`.

        Of what there is already it becomes one by :meth:`join`: these topics are given back.
        """
        how = self._admission.how(group, endpoint, asked, who)
        self._admission.check_endpoint(endpoint)
        lease = self.holdings.lease_for(Holder(*endpoint, client))
        self.holdings.hold(lease, now + self.lease)
        self._want(lease, wanted, how)
        match = matcher(wanted)
        return [topic for name, topic in self._by_name.items() if not topic.ports and match(name)]

    def will_join(self, holder: Holder, topics: int) -> None:
        """So many topics more (or less, below 0) are about to be joined: it is told of them as its own."""
        lease = self.holdings.get(holder)
        if lease is not None:
            lease.joining = max(0, lease.joining + topics)

    def _want(self, lease: Lease, wanted: str, how: Wanted) -> None:
        if lease.wanted.get(wanted) == how:
            return
        lease.wanted[wanted] = how
        if is_filter(wanted):
            self.holdings.wants.add(wanted, lease)
        self.holdings.wants.touch(lease.holder)

    def join(self, holder: Holder, topics: Iterable[Topic], now: float) -> set[int]:
        """Make a holder a member of topics that it wants by its filters; which of them changed."""
        lease = self.holdings.get(holder)
        if lease is None:
            return set()
        return {topic.id for topic in topics if self.still_has(topic) and self._try(lease, topic, now)}

    def join_all(self, topic: Topic, now: float, *, known: bool = True) -> None:
        """Make members of a topic of all who want it; not ``known``: once they have heard what it is now.

        Who may still take its id for that of another topic has to hear first that this is no more.
        """
        for lease in () if topic.ports else self.holdings.wants.of(topic.name):
            if topic.id in lease.gone or not known:
                self.holdings.put_off(lease, topic)
            else:
                self._try(lease, topic, now)

    def try_again(self, holder: Holder, now: float) -> set[int]:
        """Let a holder into topics that it misses, as far as that can be by now; which of them changed."""
        lease = self.holdings.get(holder)
        if lease is None:
            return set()
        changed = set()
        # What it was not told of yet has time.
        told = [entry for number, entry in lease.missing.items() if number not in lease.gone]
        for topic, why in told[:TRIED_AGAIN]:
            if self._try(lease, topic, now):
                changed.add(topic.id)
            elif topic.id in lease.missing:
                # All have their turn.
                del lease.missing[topic.id]
                lease.missing[topic.id] = topic, why
        return changed

    def _try(self, lease: Lease, topic: Topic, now: float) -> bool:
        """Join a topic that is wanted, or note why that cannot be; whether anything changed."""
        wanted = lease.wants(topic.name)
        if wanted is None:
            return False
        if wanted.client is not None:
            client = self._clients.get(wanted.client)
            if client is None or not client.may("subscribe", topic.name):
                self.holdings.short(lease, topic, Out.RIGHT)
                return False
        try:
            if joined := self._join(topic, wanted, lease, now):
                lease.untold[topic.id] = topic
            return joined
        except Refused as error:
            # One that is about to be no more is not missed.
            if error.code != Code.UNKNOWN_TOPIC:
                place = Place(topic.name, wanted.group, *lease.endpoint)
                kept = self.departures.kept_out(place, now)
                why = kept.why if kept is not None else _WHYS.get(error.code, Out.ELSEWHERE)
                self.holdings.short(lease, topic, why)
            return False

    def _join(self, topic: Topic, wanted: Wanted, lease: Lease, now: float) -> bool:
        """Make a lease a member; whether anything changed. Raises :class:`Refused`."""
        if topic.id in self._closing:
            raise Refused(Code.UNKNOWN_TOPIC, f"topic {topic.name!r} is being removed", "take another")
        endpoint = lease.endpoint
        groups = self._groups[topic.id]
        state = self._state_of(topic.id, endpoint)
        if state is not None:
            known = state.members[endpoint]
            if known.lease is None:
                raise Refused(
                    Code.NOT_ALLOWED,
                    f"{known.member} is a static member of group {state.name!r}",
                    "use another port, or take it out of the configuration",
                )
            if known.lease is lease:
                if state.name != wanted.group:
                    raise Refused(
                        Code.NOT_ALLOWED,
                        f"{known.member} is in group {state.name!r} of this topic already",
                        "unsubscribe first, or use another port",
                    )
                if known.member.source == wanted.source:
                    return False
                known.member = replace(known.member, source=wanted.source)
                self._versions[topic.id] += 1
                return True
            # The same port after a restart of the client, in whatever group: whoever was there is gone.
            self._remove(topic.id, state, endpoint)
            self.holdings.end_if_empty(known.lease)
        self._check_kept_out(Place(topic.name, wanted.group, *endpoint), now)
        self._admission.check_endpoint(endpoint)
        self._admission.check_room(topic, groups, wanted.group)
        self._admission.check_share(topic, groups, wanted, endpoint[0])
        self._fill(topic.id, groups.get(wanted.group))
        self._put(topic.id, wanted.group, Membership(member_of(*endpoint, None, wanted.source), lease))
        self._leaving.pop(lease.holder, None)
        self.departures.came(topic.id, lease.holder)
        lease.progress.beats = 0
        return True

    def _check_kept_out(self, place: Place, now: float) -> None:
        kept = self.departures.kept_out(place, now)
        if kept is not None:
            raise Refused(
                Code.KEPT_OUT,
                str(kept),
                f"tempos ctl let-in {place.topic} {place.group} {place.ip}:{place.port}",
            )

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

        It cannot where the configuration has come to speak against it. Nobody's place has all its time again.
        """
        if endpoint[0].startswith(NOBODY):
            if not self._by_id[topic].redeliver or not self._admission.limits.vacant:
                return False
            expires += self._admission.limits.vacant
            if self._groups[topic].get(group) is not None:
                return False
        if self._admission.is_own(endpoint) or self._state_of(topic, endpoint) is not None:
            return False
        if not self._admission.has_room(self._groups[topic], group):
            return False
        self._fill(topic, self._groups[topic].get(group))
        lease = self.holdings.lease_for(Holder(*endpoint, client))
        self._put(topic, group, Membership(member_of(*endpoint, None, asked), lease))
        self.holdings.hold(lease, expires)
        return True

    def restore_wanted(self, holder: Holder, wanted: Mapping[str, Wanted], expires: float) -> None:
        """Take back what a lease of a former life wanted; before the members of any topic."""
        lease = self.holdings.lease_for(holder)
        self.holdings.hold(lease, expires)
        for each, how in wanted.items():
            self._want(lease, each, how)
            if lease.follows(each):
                self.holdings.wants.await_topic(each, lease)

    # --- staying and leaving ----------------------------------------------------------------

    def heartbeat(self, endpoint: tuple[str, int], client: int, now: float) -> KeysView[int] | None:
        """Renew the lease of ``endpoint``: of which topics it is a member.

        None if it has none: it ended, or we restarted.
        """
        holder = Holder(*endpoint, client)
        lease = self.holdings.get(holder)
        if lease is None:
            return _NOTHING if holder in self._leaving else None
        lease.expires = lease.expires if lease.home else now + self.lease
        return lease.topics.keys()

    def places(self, holder: Holder) -> list[tuple[int, str]]:
        """The topics and groups that somebody is in."""
        lease = self.holdings.get(holder)
        return [(topic, state.name) for topic, state in lease.topics.items()] if lease else []

    def lease_of(self, holder: Holder) -> Lease | None:
        """What a holder has; None: nothing."""
        return self.holdings.get(holder)

    def take_place(self, holder: Holder) -> set[int]:
        """It has shown that it is the one who receives at its endpoint: who was there before is gone.

        Gives the ids of the topics that others were in there.
        """
        others = [each.holder.client for each in self.holdings.at((holder.ip, holder.port))]
        return {
            topic
            for client in others
            if client is not None and client != holder.client
            for topic in self.goodbye((holder.ip, holder.port), client)
        }

    def is_known(self, holder: Holder, asked: str | None) -> bool:
        """Whether a holder has a lease already, and asked for something of it at this address of ours."""
        lease = self.holdings.get(holder)
        return lease is not None and any(each.source == asked for each in lease.wanted.values())

    def spare(self, until: float) -> None:
        """Let no lease end before ``until``."""
        self.holdings.spare(until)

    def unsubscribe(self, name: str, group: str | None, endpoint: tuple[str, int], client: int) -> set[int]:
        """Want a topic, or what matches a filter, no more; the ids of the topics that this leaves.

        Of what is wanted otherwise, too, it stays a member, and so do static members and other clients'.
        Raises :class:`Refused` for a name that no topic has, and that is not wanted.
        """
        lease = self.holdings.get(Holder(*endpoint, client))
        how = lease.wanted.get(name) if lease is not None else None
        if lease is None or how is None or how.group != (group or own_group(*endpoint)):
            if not is_filter(name):
                self.topic(name)
            return set()
        del lease.wanted[name]
        self.holdings.wants.discard(name, lease)
        match = matcher(name)
        known = self._by_name.values() if is_filter(name) else filter(None, [self._by_name.get(name)])
        left = set()
        for topic in [each for each in known if match(each.name) and lease.wants(each.name) is None]:
            if topic.id in lease.topics:
                self._remove(topic.id, lease.topics[topic.id], endpoint)
                left.add(topic.id)
            self.holdings.forget_of(lease, topic.id)
        self.holdings.end_if_empty(lease)
        return left

    def goodbye(self, endpoint: tuple[str, int], client: int) -> set[int]:
        """End every membership of ``endpoint``; the ids of the topics that changed."""
        lease = self.holdings.get(Holder(*endpoint, client))
        if lease is None:
            return set()
        changed = set(lease.topics)
        for topic, state in list(lease.topics.items()):
            self._remove(topic, state, endpoint)
        self.holdings.end(lease)
        return changed

    def evict(self, topic: int, group: str, endpoint: tuple[str, int], now: float) -> Holder | None:
        """Take one member with a lease out of one group by an operator's order; who it was, or None."""
        state = self._groups[topic].get(group)
        known = state.members.get(endpoint) if state else None
        if state is None or known is None or known.lease is None:
            return None
        self._remove(topic, state, endpoint, Out.OPERATOR, now, waits=True)
        return known.holder

    def evict_unheard(self, lease: Lease, now: float, wall: float) -> list[KeptOut]:
        """Take a member that events do not reach out of those of its topics that want that, for a while.

        The longer, the oftener in a row that happens to it.
        """
        gone = []
        seconds = stays_out(self.lease, lease.put_out)
        for number, state in list(lease.topics.items()):
            topic = self._by_id[number]
            place = Place(topic.name, state.name, *lease.endpoint)
            if not self._admission.evicts_unheard(topic) or self.departures.is_full(place):
                continue
            self._remove(number, state, lease.endpoint, Out.UNHEARD, now, waits=True)
            gone.append(self.departures.keep_out(place, now, wall, seconds, Out.UNHEARD))
            self.keep_waiting(topic, place, now)
        lease.put_out += bool(gone)
        return gone

    def keep_waiting(self, topic: Topic, place: Place, now: float) -> None:
        """Who wants to be at a place that is kept empty is tried again until it may."""
        for lease in self.holdings.at((place.ip, place.port)):
            wanted = lease.wants(topic.name)
            if wanted is None or not wanted.follows:
                continue
            if wanted.group == place.group and topic.id not in lease.topics:
                kept = self.departures.kept_out(place, now)
                self.holdings.short(lease, topic, kept.why if kept is not None else Out.KEPT_OUT)

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
        for lease in self.holdings.due(now):
            for number, (topic, state) in enumerate(list(lease.topics.items())):
                gone.setdefault(topic, []).append(state.members[lease.endpoint].member)
                why = Out.LEASE if number < NOTED else ""
                self._remove(topic, state, lease.endpoint, why, now, waits=True)
            self.holdings.end(lease)
        return gone

    def next_expiry(self) -> float | None:
        """When the next lease or drain ends, or None."""
        ends = [leaving.deadline + self.lease for leaving in self._leaving.values()]
        if (first := self.holdings.next_end()) is not None:
            ends.append(first)
        return min(ends, default=None)

    # --- drains -----------------------------------------------------------------------------

    def drain(self, endpoint: tuple[str, int], client: int, now: float, patience: float) -> Leaving:
        """Take ``endpoint`` out of every route at once, and remember until when it may confirm.

        The first drain of a member sets the deadline, ``patience`` seconds from now; raises
        :class:`Refused` for one that is no member and was none.
        """
        holder = Holder(*endpoint, client)
        is_one = self.holdings.get(holder) is not None
        topics = frozenset(self.goodbye(endpoint, client))
        known = self._leaving.get(holder)
        if known is None and not is_one:
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

    def restore_leaving(self, holder: Holder, topics: Iterable[int], deadline: float) -> None:
        """Go on with a drain of a former life."""
        self._leaving[holder] = Leaving(frozenset(topics) & self._groups.keys(), deadline)

    def leaving(self) -> Mapping[Holder, Leaving]:
        """The members that drain, or have drained lately."""
        return self._leaving

    def drain_one(self, holder: Holder, topic: int, deadline: float) -> None:
        """Remember that a member which was evicted from a topic may confirm until ``deadline``."""
        known = self._leaving.setdefault(holder, Leaving(frozenset(), deadline))
        known.topics |= {topic}
        known.deadline = max(known.deadline, deadline)
