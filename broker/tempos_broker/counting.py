"""What both paths and the ticket counters say, over all lives of the broker: read in one place.

Counters that begin anew with a life, or go on from another one, are shifted so that the account goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from tempos import Pick, Reason, Route
from tempos._abi import NARROW
from tempos._senders import Taken, options_of, takings
from tempos._slots import ticket_of
from tempos.model import Volume
from tempos_broker.account.ledger import Ledger
from tempos_broker.account.shares import with_taken
from tempos_broker.counts import Counted, Counters, Drawn
from tempos_broker.paths import FastPath, Tickets
from tempos_broker.state import TopicState


class Offsets:
    """What is to be added to counters that began anew, or not, with this life."""

    def __init__(self) -> None:
        self._of: dict[int, dict[Reason, int]] = {}

    def set(self, topic: int, wanted: Mapping[Reason, int], now: Mapping[Reason, int]) -> None:
        """From here on the topic's counters go on from ``wanted``; ``now`` is what they say themselves."""
        if not wanted and not now:
            self._of.pop(topic, None)
            return
        offsets = {
            reason: offset
            for reason in {*wanted, *now}
            if (offset := wanted.get(reason, 0) - now.get(reason, 0))
        }
        if offsets:
            self._of[topic] = offsets
        else:
            self._of.pop(topic, None)

    def forget(self, topic: int) -> None:
        self._of.pop(topic, None)

    def has(self, topic: int) -> bool:
        """Whether there is anything to be added to a topic's counters."""
        return topic in self._of

    def applied(self, counters: Counters, topics: Collection[int] | None = None) -> Counters:
        """The counters over all lives, of these topics or of all."""
        wanted = {*counters, *self._of} if topics is None else topics
        return {topic: self.applied_to(topic, counters.get(topic, {})) for topic in wanted}

    def applied_to(self, topic: int, row: Mapping[Reason, int]) -> Mapping[Reason, int]:
        """One topic's counters over all lives."""
        offset = self._of.get(topic)
        if not offset:
            return row
        return {reason: row.get(reason, 0) + offset.get(reason, 0) for reason in {*row, *offset}}


class Counting:
    """``tickets``: what both paths draw from."""

    def __init__(
        self, tickets: Tickets, fast: FastPath, ledger: Ledger, states: Mapping[int, TopicState]
    ) -> None:
        self.tickets = tickets
        self._fast = fast
        self._ledger = ledger
        self._states = states
        ledger.tickets = tickets.read
        ledger.by_source = self._by_source
        #: By topic and epoch: its groups that do not get all.
        self._taken: dict[int, dict[int, tuple[Taken, ...]]] = {}
        #: What is to be added to what this life counts.
        self.slow_offsets, self.fast_offsets = Offsets(), Offsets()
        #: Bytes on the fast path from which on those of a topic are counted.
        self._volumes: dict[int, Volume] = {}
        #: Copies that could not be sent in epochs that were fetched from another place: topic and epoch -> of
        #: each group.
        self.fetched_lost: dict[tuple[int, int], Sequence[int]] = {}
        #: Of these topics, or of all.
        self.slow_counters: Callable[[Collection[int] | None], Counters] = lambda topics: {}
        #: Datagrams for which another process draws tickets now, as far as it has not counted them.
        self.slow_under_way: Callable[[], int] = lambda: 0
        #: Copies for a group that the slow path could not send: of topic, epoch and group.
        self.slow_lost: Callable[[int, int, int], int] = lambda topic, epoch, group: 0

    def _by_source(self, topic: int) -> bool:
        state = self._states.get(topic)
        return state is not None and state.route.topic.pick is not Pick.TURN

    def drawn(self, topic: int, epoch: int, groups: int) -> list[int]:
        """Tickets drawn so far from each group of an epoch, and what goes with them (`account.shares`)."""
        drawn = [self.drawn_of(topic, epoch, index) for index in range(groups)]
        taken = self._taken.get(topic, {}).get(epoch, ())
        return with_taken(drawn, taken, partial(self.tickets.read, topic, epoch)) if taken else drawn

    def drawn_of(self, topic: int, epoch: int, group: int) -> int:
        """Tickets drawn so far from the group at this place of an epoch's route."""
        return self.tickets.read(topic, epoch, ticket_of(group))

    def opened(self, route: Route) -> None:
        """An epoch begins; of groups that do not get all more is counted than tickets."""
        if route.topic.groups and (taken := takings(options_of(route))):
            self._taken.setdefault(route.topic.id, {})[route.epoch] = taken

    def closed(self, topic: int, epoch: int) -> None:
        """The epochs up to this one are over."""
        kept = {each: taken for each, taken in self._taken.pop(topic, {}).items() if each > epoch}
        if kept:
            self._taken[topic] = kept

    def _is_quiet(self, topic: int, *counters: Counters) -> bool:
        """Whether no event of a topic was ever counted; then none drew a ticket, for who draws counts it."""
        return not (
            any(each.get(topic) for each in counters)
            or self.slow_offsets.has(topic)
            or self.fast_offsets.has(topic)
        )

    def have_counted(self, topics: Collection[int]) -> frozenset[int]:
        """Those of these topics of which any event was ever counted, or is under way."""
        fast, slow = self._fast.counters(topics), self.slow_counters(topics)
        return frozenset(topic for topic in topics if not self._is_quiet(topic, fast, slow))

    def unsent(self, topic: int, epoch: int, groups: int) -> list[int]:
        """Copies so far for each group of an epoch that either path could not send."""
        fast = self._fast.lost(topic, epoch, groups)
        before = self.fetched_lost.get((topic, epoch), [0] * groups)
        return [
            lost + earlier + self.slow_lost(topic, epoch, index)
            for index, (lost, earlier) in enumerate(zip(fast, before, strict=True))
        ]

    def live(self, topic: int) -> dict[int, list[int]]:
        """Tickets drawn so far in every open epoch of a topic."""
        return {
            epoch: self.drawn(topic, epoch, groups)
            for epoch, groups in self._ledger.open_epochs(topic).items()
        }

    def _none(self, topic: int) -> dict[int, list[int]]:
        """The same of a topic of which nobody has drawn any; its counters need not be looked at."""
        return {epoch: [0] * groups for epoch, groups in self._ledger.open_epochs(topic).items()}

    def slow(self, topics: Collection[int] | None = None) -> Counters:
        """What the slow path has counted, over all lives; of these topics, or of all."""
        return self.slow_offsets.applied(self.slow_counters(topics), topics)

    def volumes_from_here(self, topics: Collection[int]) -> None:
        """What the fast path has had of these topics so far is of others, or of a former life."""
        for topic in topics:
            self._volumes.pop(topic, None)
        self._volumes.update(self._fast.volumes(topics))

    def fast_volume(self, topic: int) -> Volume:
        """Bytes that the fast path forwarded and dropped of a topic, in this life."""
        now, before = self._fast.volumes([topic]).get(topic, Volume()), self._volumes.get(topic, Volume())
        # What begins anew in the kernel meanwhile begins below that.
        return Volume(*(max(0, there - then) for there, then in zip(now, before, strict=True)))

    def fast_raw(self, topics: Collection[int] | None = None) -> Counters:
        """What the fast path has counted, as the kernel has it."""
        return self._fast.counters(topics)

    def of_no_topic(self) -> tuple[Counters, Counters]:
        """What slow and fast path have counted under no topic; the rows of that are narrow ones."""
        strange = [row for row in range(NARROW) if row not in self._states]
        return self.slow(strange), self.fast_raw(strange)

    def total(self) -> int:
        """All that either path has counted: it grows with each datagram."""
        return sum(
            sum(each.values()) for counters in (self.slow(), self.fast_raw()) for each in counters.values()
        )

    def counted(self, topics: Sequence[int] | None = None) -> Counted:
        """Everything counted, over all lives; or of these topics only, and then nothing of no topic."""
        before, slow_before = self._fast.counters(topics), self.slow_counters(topics)
        wanted = self._states if topics is None else topics
        quiet = {topic for topic in wanted if self._is_quiet(topic, before, slow_before)}
        tickets = {topic: self._none(topic) if topic in quiet else self.live(topic) for topic in wanted}
        # In this order: a run that is not under way any more has been counted.
        under_way = self.slow_under_way()
        after, slow = self._fast.counters(topics), self.slow_counters(topics)
        drawn = {
            topic: Drawn(
                live,
                live
                if topic in quiet
                else {
                    epoch: self.unsent(topic, epoch, groups)
                    for epoch, groups in self._ledger.open_epochs(topic).items()
                },
                _passing(before.get(topic, {}), after.get(topic, {}))
                + _passed(slow_before.get(topic, {}), slow.get(topic, {}))
                + under_way,
            )
            for topic, live in tickets.items()
        }
        return Counted(
            self.slow_offsets.applied(slow, topics), self.fast_offsets.applied(after, topics), drawn, after
        )


def _passing(before: Mapping[Reason, int], after: Mapping[Reason, int]) -> int:
    """How many events may have passed between reading counters twice, and tickets in between."""
    passed = _passed(before, after)
    # An event in the middle of its way has drawn its ticket and is not counted yet: one per CPU.
    return passed + (os.cpu_count() or 1) if passed else 0


def _passed(before: Mapping[Reason, int], after: Mapping[Reason, int]) -> int:
    return sum(after.values()) - sum(before.values())
