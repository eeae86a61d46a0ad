"""Whose lease holds what: by holder, by endpoint, by when it ends, and what there is to tell each.

Sans-IO, values only. What a lease is to be told of its topics has a version that only grows, so that whoever
knows everything up to one is told what is new since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tempos import Topic
from tempos.control import Out
from tempos_broker.account.accounts import Holder
from tempos_broker.members.known import Lease, Wanted
from tempos_broker.members.leases import Leases
from tempos_broker.members.wants import Wants


class Holdings:
    """The leases of one broker."""

    def __init__(self) -> None:
        #: By holder; and by endpoint, for a client that began anew may have had the same.
        self._held: dict[Holder, Lease] = {}
        self._at: dict[tuple[str, int], list[Lease]] = {}
        self._ends = Leases(self._end_of)
        #: Who is to be a member of topics that are made.
        self.wants = Wants()
        #: Hears of who has come home.
        self.on_home: Callable[[Lease], object] = lambda lease: None
        #: The version of the latest that there is to tell anybody.
        self.news = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, holder: Holder) -> Lease | None:
        return self._held.get(holder)

    def all(self) -> Iterable[Lease]:
        """All leases."""
        return self._held.values()

    def at(self, endpoint: tuple[str, int]) -> Sequence[Lease]:
        """The leases of an endpoint."""
        return self._at.get(endpoint, ())

    def lease_for(self, holder: Holder) -> Lease:
        """The lease of a holder, or one that is not held yet."""
        return self._held.get(holder) or Lease(holder, 0.0)

    def hold(self, lease: Lease, until: float) -> None:
        """Let a lease last at least so long, at home here."""
        if lease.home:
            lease.home, lease.expires = "", until
            self.on_home(lease)
            self._ends.begun(lease.holder, until)
            self.wants.touch(lease.holder)
        lease.expires = max(lease.expires, until)
        if lease.holder in self._held:
            return
        self._held[lease.holder] = lease
        others = self._at.setdefault(lease.endpoint, [])
        others.append(lease)
        for other in others[:-1]:
            # The same port after a restart of the client: whoever was there before is gone.
            self._want_nothing(other)
            self.end_if_empty(other)
        self._ends.begun(lease.holder, lease.expires)

    def is_shared(self, holder: Holder) -> bool:
        """Whether somebody is a member of a whole fleet."""
        lease = self._held.get(holder)
        return lease is not None and (bool(lease.home) or lease.hears is not None or lease.shared)

    def end(self, lease: Lease) -> None:
        """A lease without memberships is over."""
        self._want_nothing(lease)
        del self._held[lease.holder]
        others = self._at[lease.endpoint]
        others.remove(lease)
        if not others:
            del self._at[lease.endpoint]

    def end_if_empty(self, lease: Lease) -> None:
        """A lease that holds nothing and wants nothing is over."""
        if not lease.topics and not lease.wanted:
            self.end(lease)

    def spare(self, until: float) -> None:
        """Let no lease end before ``until``."""
        for lease in self._held.values():
            lease.expires = max(lease.expires, until)

    def due(self, now: float) -> Iterator[Lease]:
        """Leases that have ended by now; each is to be over before the next."""
        for holder in self._ends.due(now):
            lease = self._held.get(holder)
            if lease is not None and lease.expires <= now:
                yield lease

    def next_end(self) -> float | None:
        """When the next lease ends, or None."""
        return self._ends.next()

    def _end_of(self, holder: Holder) -> float | None:
        lease = self._held.get(holder)
        return None if lease is None else lease.expires

    # --- what is wanted ---------------------------------------------------------------------

    def wanted(self, holders: Iterable[Holder] | None = None) -> dict[Holder, Mapping[str, Wanted]]:
        """What leases want, of these or of all; nothing of those that there are not."""
        leases = {each: self._held.get(each) for each in (self._held if holders is None else holders)}
        return {holder: lease.wanted if lease else {} for holder, lease in leases.items()}

    def left_alone(self, lease: Lease, name: str) -> None:
        """A topic that a lease was in is no more: it awaits another of that name, or wants it no more."""
        if lease.follows(name):
            self.wants.await_topic(name, lease)
        elif lease.wanted.pop(name, None) is not None:
            self.wants.touch(lease.holder)

    def _want_nothing(self, lease: Lease) -> None:
        for each in lease.wanted:
            self.wants.discard(each, lease)
        for topic in lease.missing:
            self.wants.miss_no_more(topic, lease)
        lease.wanted.clear()
        lease.missing.clear()
        self.wants.touch(lease.holder)

    def short(self, lease: Lease, topic: Topic, why: str) -> None:
        """A lease cannot be a member of a topic that it wants."""
        if lease.missing.get(topic.id) != (topic, why):
            lease.missing[topic.id] = topic, why
            self.wants.miss(topic.id, lease)
            self.out(lease, topic.id, topic.name, why)

    def put_off(self, lease: Lease, topic: Topic) -> None:
        """A lease wants a topic whose id was another's, and has not heard of that yet."""
        lease.missing[topic.id] = topic, Out.RELOAD
        self.wants.miss(topic.id, lease)

    # --- what is told -----------------------------------------------------------------------

    def out(self, lease: Lease, topic: int, name: str, why: str) -> None:
        """A lease is to be told that it is out of a topic."""
        lease.gone[topic] = name, why
        self.news += 1
        lease.changed(topic, self.news)

    def in_force(self, topic: int, holders: Iterable[tuple[str, Iterable[Holder]]]) -> None:
        """A route of these holders is in force: each is to be told of it."""
        for _, members in holders:
            for holder in members:
                lease = self._held.get(holder)
                if lease is not None and topic in lease.topics:
                    self.news += 1
                    lease.changed(topic, self.news)

    def forget_of(self, lease: Lease, topic: int) -> None:
        """Whatever there was to be told of a topic is over with."""
        lease.news.pop(topic, None)
        lease.gone.pop(topic, None)
        lease.untold.pop(topic, None)
        if lease.missing.pop(topic, None) is not None:
            self.wants.miss_no_more(topic, lease)
