"""One account over several lives of a broker: counters that go on, members that are remembered.

Knows nothing of swapping routes: the broker asks what is known of a topic's past, decides, and says what it
decided. Rules: an epoch never goes back; what a killed process drew tickets for and did not live to count
is counted by the next one; where the ticket counters are not those of the former life, its last epochs
are closed with what was stored, and later claims about them are in no account.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from tempos import Group, Member, Reason, Route, Topic
from tempos_broker.account.ledger import Ledger
from tempos_broker.counts import Counted, Counters, Drawn
from tempos_broker.membership import Registry
from tempos_broker.memory import (
    UNREADABLE,
    Kept,
    Offsets,
    Remembered,
    alive_in,
    drains_in,
    instance_in,
    kept_out_in,
    name_in,
    read,
    write,
)
from tempos_broker.paths import Elsewhere, FastPath, Tickets
from tempos_broker.state import TopicState
from tempos_broker.store import Store, Stored
from tempos_broker.tickets import CountedTickets

log = logging.getLogger("tempos.broker.state")

#: Tickets of a topic's open epochs, what the slow path counted, and what the fast path's counters say.
_Moving: TypeAlias = tuple[Mapping[int, Sequence[int]], Mapping[Reason, int], Mapping[Reason, int]]

#: Seconds between two writings of the state, if nothing changes that must be known before.
SAVE_EVERY = 1.0
#: Of what is written about once a second: members (and topics) at once, and seconds between two such slices.
MEMBERS_AT_ONCE, PAUSE = 64, 0.002
#: Topic 0 has no route, so its first ticket counter can tell whose counters these are: the instance number
#: of the lives they belong to, or 0 where what is stored has not kept up with them.
_MARK = (0, 0, 0)
#: The next one: the highest epoch that was given while the state could not be written.
_UNSTORED = (0, 0, 1)


class Continuity:
    """The past of a broker, and what is written for its future.

    ``store`` None: neither. ``drawn`` counts what the slow path draws, where both paths do. ``elsewhere``:
    where else the former life may have had its counters, for it had a fast path or not, as this one.
    """

    def __init__(
        self,
        store: Store | None,
        fast: FastPath,
        drawn: CountedTickets | None,
        registry: Registry,
        ledger: Ledger,
        states: Mapping[int, TopicState],
        elsewhere: Sequence[Elsewhere] = (),
    ) -> None:
        self._elsewhere = [*elsewhere, *([fast.former] if fast.former is not None else [])]
        #: Which of them has the counters of the former life, if they have to be fetched from there.
        self._source: Elsewhere | None = None
        #: Copies that could not be sent in epochs that were fetched: topic and epoch -> of each group.
        self._fetched_lost: dict[tuple[int, int], Sequence[int]] = {}
        self._store = store
        self._stored = store.stored if store is not None else Stored()
        #: What could not be written yet: topics, and topics that ended with their name and last epoch.
        self._unsaved: set[int] = set()
        #: What of each topic's counters was written last: its account may stay as it is while they move.
        self._written: dict[int, _Moving] = {}
        self._unsaved_ends: dict[int, tuple[str, int]] = {}
        self._kept_up = True
        self._fast = fast
        self._drawn = drawn
        self._registry = registry
        self._ledger = ledger
        ledger.live = self.live
        self._states = states
        self._slow_offsets, self._fast_offsets = Offsets(), Offsets()
        #: Last epochs of topics that a reload has ended.
        self._ended: dict[int, int] = {}
        self.slow_counters: Callable[[], Counters] = dict
        #: Copies for a group that the slow path could not send: of topic, epoch and group.
        self.slow_lost: Callable[[int, int, int], int] = lambda topic, epoch, group: 0
        #: What both paths draw from.
        self.tickets: Tickets = fast.tickets if drawn is None else drawn
        self._former = instance_in(self._stored.broker)
        #: The same over lives that go on with each other: to its members, such a broker never restarted.
        self.instance = self._former or new_instance()
        #: Whether the ticket counters are those of the former life.
        self.continued = False
        self._unstored_epoch = 0
        self._begun = False

    @property
    def where(self) -> str:
        """The state file, or "off"."""
        return "off" if self._store is None else str(self._store.path)

    # --- counting ---------------------------------------------------------------------------

    def drawn(self, topic: int, epoch: int, groups: int) -> list[int]:
        """Tickets drawn so far from each group of an epoch."""
        tickets = self.tickets.read
        return [tickets(topic, epoch, index) for index in range(groups)]

    def unsent(self, topic: int, epoch: int, groups: int) -> list[int]:
        """Copies so far for each group of an epoch that either path could not send."""
        fast = self._fast.lost(topic, epoch, groups)
        before = self._fetched_lost.get((topic, epoch), [0] * groups)
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

    def counted(self, topics: Sequence[int] | None = None) -> Counted:
        """Everything counted, over all lives; or of these topics only, and then nothing of no topic."""
        before = self._fast.counters(topics)
        tickets = {topic: self.live(topic) for topic in (self._states if topics is None else topics)}
        after = self._fast.counters(topics)
        drawn = {
            topic: Drawn(
                live,
                {epoch: self.unsent(topic, epoch, len(drawn)) for epoch, drawn in live.items()},
                _passing(before.get(topic, {}), after.get(topic, {})),
            )
            for topic, live in tickets.items()
        }
        slow = self._slow_offsets.applied(self.slow_counters())
        return Counted(slow, self._fast_offsets.applied(after), drawn, after)

    # --- the past ---------------------------------------------------------------------------

    def take_up(self) -> None:
        """Find out what there is to go on with; from here on the counters are this life's to change.

        Before any member is restored it is known whom an operator keeps out.
        """
        if self._store is None:
            return
        self._registry.departures.restore(kept_out_in(self._stored.broker), time.monotonic(), time.time())
        sources = [(each, each.tickets) for each in self._elsewhere if each.tickets is not None]
        self._unstored_epoch = max(
            tickets.read(*_UNSTORED) for tickets in (self.tickets, *(tickets for _, tickets in sources))
        )
        if self._former is not None:
            self.continued = self._former == self.tickets.read(*_MARK)
            for source, tickets in sources:
                if not self.continued and tickets.read(*_MARK) == self._former:
                    self._source, self.continued = source, True
        if not self.continued or self._source is not None:
            self._fall_behind(0)

    @property
    def owns_adopted(self) -> bool:
        """Whether the routes that are in force in the kernel are the former life's."""
        return self.continued and (self._source is None or self._source is self._fast.former)

    def fetch(self, topic: int) -> None:
        """Have the tickets of the topic's open epochs where this life draws them."""
        if self._source is None or self._source.tickets is None:
            return
        tickets = self.tickets.uncounted if isinstance(self.tickets, CountedTickets) else self.tickets
        for epoch, groups in self._ledger.open_epochs(topic).items():
            drawn = [self._source.tickets.read(topic, epoch, group) for group in range(groups)]
            self._fetched_lost[topic, epoch] = self._source.lost(topic, epoch, groups)
            tickets.reset(topic, epoch)
            for group, count in enumerate(drawn):
                tickets.draw(topic, epoch, group, count)

    def epoch(self, topic: int) -> int:
        """The latest epoch that a topic id ever had here."""
        adopted = self._fast.adopted().get(topic, 0)
        stored = self._stored.epochs.get(topic, 0)
        return max(stored, self._ended.get(topic, 0), adopted, self._unstored_epoch)

    def recall(self, topic: Topic) -> Remembered | None:
        """Take a topic's account up again; None if nothing usable is known of it."""
        document = self._stored.topics.get(topic.id)
        if not document:
            return None
        try:
            memory = read(document)
            if not memory.is_of(topic):
                return None
            self._ledger.restore(topic.id, memory.ledger, time.monotonic())
        except UNREADABLE as error:
            log.warning("topic %s: what is stored of it makes no sense, its account and members begin "
                        "anew: %r", topic.name, error)  # fmt: skip
            return None
        return memory

    def restore_members(self, topic: int, memory: Remembered) -> None:
        """Make those members again whose lease has not ended; all, where the kernel went on serving them.

        What is stored of a topic may be older than the latest renewals: who was a member to the end of the
        former life may have renewed in its last moment. None could while nobody was there: see
        :meth:`Registry.spare`.
        """
        last = max(memory.wall, alive_in(self._stored.broker))
        passed = max(0.0, time.time() - last)
        served = self.owns_adopted and topic in self._fast.adopted()
        for member in memory.members:
            left = member.remaining if memory.wall == last else self._registry.lease
            remaining = left - passed
            if served or remaining > 0:
                expires = time.monotonic() + remaining
                endpoint = (member.ip, member.port)
                self._registry.restore(topic, member.group, endpoint, member.client, expires, member.source)

    def former_route(self, topic: Topic, memory: Remembered) -> tuple[Route, bool]:
        """The latest route of the former life, and whether it is still what the members make."""
        *_, epoch = self._ledger.open_epochs(topic.id)
        stored = self._ledger.route(topic.id, epoch)
        present = self._registry.groups(topic.id)
        known = {(each.ip, each.port): Member(each.ip, each.port, source=each.source)
                 for each in memory.members}  # fmt: skip
        known |= {(member.ip, member.port): member for group in present for member in group.members}
        groups = tuple(
            Group(name, tuple(known.get((h.ip, h.port)) or Member(h.ip, h.port) for h in holders))
            for name, holders in stored
        )
        same = self._registry.holders(topic.id) == [(name, list(holders)) for name, holders in stored]
        return Route(topic, epoch, groups), same

    def close_old(self, topic: int, epoch: int) -> None:
        """Only this epoch's route is in force: the tickets of all others are final."""
        for one, groups in self._ledger.open_epochs(topic).items():
            if one != epoch:
                unsent = self.unsent(topic, one, groups)
                self._ledger.closed(topic, one, self.drawn(topic, one, groups), unsent)
                self._fetched_lost.pop((topic, one), None)

    def cut(self, topic: int, memory: Remembered) -> None:
        """The tickets are not those of the former life: close its epochs with what it stored."""
        for epoch, groups in self._ledger.open_epochs(topic).items():
            tickets = memory.live.get(epoch, [])
            tickets = tickets if len(tickets) == groups else [0] * groups
            self._ledger.closed(topic, epoch, tickets, cut=True)

    def recount(self, topic: int, memory: Remembered) -> None:
        """Go on with the counters, those included that died with the process."""
        raw = self._fast.counters().get(topic, {})
        if self._source is not None:
            since = self._source.counters().get(topic, {})
            counted = {
                reason: memory.fast.get(reason, 0) + since.get(reason, 0) - memory.fast_raw.get(reason, 0)
                for reason in {*memory.fast, *since, *memory.fast_raw}
            }
            memory = replace(memory, fast=counted, fast_raw=raw)
        self._fast_offsets.set(topic, memory.fast, memory.fast_raw if self.continued else raw)
        live = self.live(topic)
        after = self._fast.counters().get(topic, {})
        drawn = self._ledger.drawn(topic) + sum(tickets[0] for tickets in live.values() if tickets)
        fast = self._fast_offsets.applied_to(topic, after)
        handed = fast.get(Reason.FORWARDED, 0) + fast.get(Reason.NO_EGRESS, 0)
        slow = dict(memory.slow)
        if handed > drawn and not self.continued:
            # Counted after the tickets were, by a program whose tickets are gone.
            less = fast.get(Reason.FORWARDED, 0) - (handed - drawn)
            self._fast_offsets.set(topic, {**memory.fast, Reason.FORWARDED: max(0, less)}, after)
            slow[Reason.FORWARDED] = 0
        elif raw == after:
            # Nothing passed meanwhile: what the fast path did not hand on, the slow path did.
            slow[Reason.FORWARDED] = max(0, drawn - handed)
        elif self._drawn is not None and self.continued:
            slow[Reason.FORWARDED] = self._drawn.drawn(topic)
        self._slow_offsets.set(topic, slow, {})
        if self._drawn is not None:
            self._drawn.recount(topic, slow.get(Reason.FORWARDED, 0))

    def begin_anew(self, topic: int) -> None:
        """Whatever was counted under this id so far is another topic's."""
        self._slow_offsets.set(topic, {}, self.slow_counters().get(topic, {}))
        self._fast_offsets.set(topic, {}, self._fast.counters().get(topic, {}))
        if self._drawn is not None:
            self._drawn.forget(topic)

    def ended(self, route: Route) -> None:
        """A topic is no more; its epoch is kept, should the id come back."""
        topic = route.topic.id
        self._ended[topic] = route.epoch
        self._ledger.forget(topic)
        self.begin_anew(topic)

    def resume_drains(self) -> None:
        """Go on with the drains of the former life."""
        for holder, topics, remaining in drains_in(self._stored.broker, time.time()):
            self._registry.restore_leaving(holder, topics, time.monotonic() + remaining)

    # --- the future -------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write down what this life begins with; then the ticket counters are its own, and no others are."""
        self._begun = True
        await self._end_unknown()
        await self.save(list(self._states))
        for each in self._elsewhere:
            if each.tickets is not None:
                each.tickets.reset(*_MARK[:2])
        if self._fast.former is not None:
            self._fast.former.close()

    async def _end_unknown(self) -> None:
        """Topics that the configuration has no more: their accounts end, and only their epochs go on."""
        for topic in {*self._stored.topics, *self._fast.adopted()} - self._states.keys():
            name = name_in(self._stored.topics.get(topic)) or f"number {topic}"
            if self._stored.topics.get(topic) or topic in self._fast.adopted():
                self._unsaved_ends[topic] = name, self.epoch(topic)
            if topic in self._fast.adopted():
                log.warning("topic %s is not configured any more: its route is taken out of the kernel", name)
                await self._fast.withdraw(topic)

    async def save_before(self, route: Route) -> None:
        """Write down an epoch that is about to be in force: it never goes back.

        Where it cannot be written, the counters are made to say so: the next life will not take them for
        those of the epochs that it finds stored, and begins beyond the highest that was given.
        """
        await self.save([route.topic.id])
        if route.topic.id in self._unsaved:
            self._fall_behind(route.epoch)

    async def save(self, topics: Iterable[int]) -> None:
        """Write down these topics, and who drains; what could not be written before, too."""
        if self._store is None:
            return
        now, wall = time.monotonic(), time.time()
        wanted = [topic for topic in {*topics, *self._unsaved} if topic in self._states]
        counted = self.counted(wanted)
        moving: dict[int, _Moving] = {}
        ends = dict(self._unsaved_ends)
        rows: dict[int, tuple[str, int, Mapping[str, Any]]] = {
            topic: (name, epoch, {}) for topic, (name, epoch) in ends.items()
        }
        self._unsaved &= self._states.keys()
        for topic in wanted:
            described = self._states[topic].route.topic
            members = tuple(
                Kept(group.name, m.member.ip, m.member.port, m.client, m.expires - now, m.member.source)
                for group in self._registry.states(topic)
                for m in group.members.values()
                if m.client is not None and m.expires is not None
            )
            memory = Remembered(
                described.name, described.framing, wall, members, self._ledger.export(topic, now),
                counted.drawn[topic].tickets, counted.slow.get(topic, {}), counted.fast.get(topic, {}),
                counted.fast_raw.get(topic, {}),
            )  # fmt: skip
            rows[topic] = (described.name, self._ledger.epoch(topic), write(memory))
            moving[topic] = memory.live, memory.slow, memory.fast_raw
        leaving = [
            [*holder, sorted(each.topics), each.deadline - now]
            for holder, each in self._registry.leaving().items()
        ]
        self._ledger.changed.difference_update(rows)
        kept_out = self._registry.departures.export(now)
        broker = {"instance": self.instance, "wall": wall, "leaving": leaving, "kept_out": kept_out}
        # Writings are done in the order in which they were asked for: the last one says what is true.
        if not await self._store.save(broker, rows):
            self._unsaved.update(rows.keys() & self._states.keys())
            return
        self._unsaved.difference_update(rows)
        self._written.update(moving)
        self._unsaved_ends = {
            topic: end for topic, end in self._unsaved_ends.items() if ends.get(topic) != end
        }
        if self._begun and not (self._kept_up or self._unsaved or self._unsaved_ends):
            self._kept_up = True
            self._mark(self.instance)

    async def save_ended(self, routes: Iterable[Route]) -> None:
        """Write down the epochs of topics that ended, and nothing else of them."""
        self._unsaved_ends.update((r.topic.id, (r.topic.name, r.epoch)) for r in routes)
        await self.save([])

    async def keep_saving(self) -> None:
        """Write down what changes, until cancelled: about once a second, a slice at a time."""
        while self._store is not None:
            # That this broker lives, and who drains, whatever else there is to say.
            await asyncio.gather(asyncio.sleep(SAVE_EVERY), self.save(()))
            slow, fast = self._slow_offsets.applied(self.slow_counters()), self._fast.counters()
            for some in self._slices():
                if moved := self._moved(some, slow, fast):
                    await self.save(moved)
                await asyncio.sleep(PAUSE)

    def _slices(self) -> Iterator[list[int]]:
        """The topics, so many at a time that whoever waits for the loop does not notice."""
        slice_: list[int] = []
        weight = 0
        for topic in list(self._states):
            slice_.append(topic)
            weight += 1 + self._registry.member_count(topic)
            if weight >= MEMBERS_AT_ONCE:
                yield slice_
                slice_, weight = [], 0
        yield slice_

    def _moved(self, topics: Iterable[int], slow: Counters, fast: Counters) -> list[int]:
        """Those of which the state file does not say how they are; ``slow``, ``fast``: what was counted."""
        return [
            topic
            for topic in topics
            if topic in self._states
            and (
                topic in self._ledger.changed
                or self._written.get(topic) != (self.live(topic), slow.get(topic, {}), fast.get(topic, {}))
            )
        ]

    def _fall_behind(self, epoch: int) -> None:
        """What is stored does not go with the counters: nobody is to take them for a pair."""
        self._unstored_epoch = max(self._unstored_epoch, epoch)
        self._kept_up = False
        self._mark(0)

    def _mark(self, instance: int) -> None:
        self.tickets.reset(*_MARK[:2])
        self.tickets.draw(*_UNSTORED, self._unstored_epoch)
        self.tickets.draw(*_MARK, instance)

    async def close(self) -> None:
        """Let go of the store; safe to call twice."""
        if self._store is not None:
            await self._store.close()


def _passing(before: Mapping[Reason, int], after: Mapping[Reason, int]) -> int:
    """How many events may have passed between reading counters twice, and tickets in between."""
    passed = sum(after.values()) - sum(before.values())
    # An event in the middle of its way has drawn its ticket and is not counted yet: one per CPU.
    return passed + (os.cpu_count() or 1) if passed else 0


def new_instance() -> int:
    """A number that differs from one start of the broker to the next (u32)."""
    return time.time_ns() // 1_000_000 & 0xFFFFFFFF
