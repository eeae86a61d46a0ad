"""Members that come to places in groups and go, and nobody's: where a work queue waits for the next one.

Rules kept here: a group is there as long as it has a member. Of a topic whose members' leftovers go to others
(``redeliver``) it stays, without one, when the last did not want to go: nobody then has a place in its route,
so that what comes draws tickets and is in the journal, and goes to whoever comes next like what any member
leaves behind. For so many seconds, and for so many groups of a topic.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tempos.model import NOBODY
from tempos_broker.config.model import OWN_GROUP, Limits, StaticMember
from tempos_broker.members.departures import Departures
from tempos_broker.members.holdings import Holdings
from tempos_broker.members.known import (
    GroupState,
    Membership,
    member_of,
    own_group,
    static_membership,
    vacancy_of,
)
from tempos_broker.members.table import Table


class Places(Table):
    """``limits`` are those that hold now."""

    def __init__(
        self, source_of: Callable[[str, str | None], str | None], limits: Callable[[], Limits]
    ) -> None:
        super().__init__(source_of)
        self._limits = limits
        #: Whose lease holds what, and what there is to tell each.
        self.holdings = Holdings()
        #: Why members went, and who is not to come back.
        self.departures = Departures()

    def _add_static(self, topic: int, static: StaticMember) -> None:
        member = member_of(static.ip, static.port, static.mac, static.source, static.weight)
        name = static.group or own_group(static.ip, static.port)
        self._fill(topic, self._groups[topic].get(name))
        self._groups[topic].setdefault(name, GroupState(name)).put(static_membership(member))

    def _put(self, topic: int, group: str, membership: Membership) -> None:
        state = self._groups[topic].setdefault(group, GroupState(group))
        state.put(membership)
        self._versions[topic] += 1
        if membership.lease is not None:
            self.holdings.forget_of(membership.lease, topic)
            membership.lease.topics[topic] = state

    def _remove(
        self,
        topic: int,
        state: GroupState,
        endpoint: tuple[str, int],
        why: str = "",
        now: float = 0.0,
        *,
        waits: bool = False,
    ) -> None:
        """Take a member out; ``why``, if it did not want to go.

        ``waits``: of a work queue that has no other member what comes is for the next one.
        """
        known = state.members.pop(endpoint)
        self._versions[topic] += 1
        if known.lease is not None:
            del known.lease.topics[topic]
            known.lease.news.pop(topic, None)
            if why:
                self.holdings.out(known.lease, topic, self._by_id[topic].name, why)
                self.departures.note(topic, known.lease.holder, why, now)
        if state.members:
            return
        if waits and not known.is_vacancy and (vacancy := self._vacancy(topic, state.name, now)):
            self._put(topic, state.name, vacancy)
            return
        del self._groups[topic][state.name]

    def _vacancy(self, topic: int, group: str, now: float) -> Membership | None:
        """Nobody's place in a group that has lost its last member; None: what comes does not wait there.

        Of a topic no more groups may wait than one client may be in: so nobody takes the room of all others.
        """
        limits = self._limits()
        if not self._by_id[topic].redeliver or not limits.vacant or group.startswith(OWN_GROUP):
            return None
        numbers = set(range(1, min(limits.groups_per_client, 255) + 1))
        for state in self._groups[topic].values():
            numbers -= {int(ip.rpartition(".")[2]) for ip, _ in state.members if ip.startswith(NOBODY)}
        if not numbers:
            return None
        made = vacancy_of(topic, min(numbers), random.getrandbits(63), now + limits.vacant)
        assert made.lease is not None, "it has one"
        self.holdings.hold(made.lease, made.lease.expires)
        return made

    def _fill(self, topic: int, state: GroupState | None) -> None:
        """Nobody's place in a group is no more: somebody comes, or nothing waits there any more."""
        # Nobody has a place only where it is the only one.
        if state is None or len(state.members) != 1:
            return
        ((endpoint, known),) = state.members.items()
        if known.lease is not None and known.is_vacancy:
            self._remove(topic, state, endpoint)
            self.holdings.end_if_empty(known.lease)
