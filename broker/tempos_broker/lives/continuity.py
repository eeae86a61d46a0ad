"""One account over several lives of a broker: counters that go on, members that are remembered.

Knows nothing of swapping routes: the broker asks what is known of a topic's past, decides, and says what it
decided. Rules: an epoch never goes back; what a killed process drew tickets for and did not live to count
is counted by the next one; where the ticket counters are not those of the former life, its last epochs
are closed with what was stored, and later claims about them are in no account.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tempos import Group, Member, Reason, Route, Topic
from tempos._rows import NoRow, Rows
from tempos._slots import NUMBERS, TICKETS
from tempos.model import NOBODY
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.counting import Counting
from tempos_broker.counts import Counters
from tempos_broker.lives.alike import Documents
from tempos_broker.lives.clock import now_there
from tempos_broker.lives.keeper import MARK, UNSTORED, Keeper
from tempos_broker.lives.memory import (
    UNREADABLE,
    Remembered,
    alive_in,
    data_port_in,
    drains_in,
    instance_in,
    kept_out_in,
    name_in,
    promised_in,
    return_key_in,
    row_in,
)
from tempos_broker.lives.steps import go_on
from tempos_broker.lives.store import Store, Stored
from tempos_broker.lives.wants import WANTED, wants_in
from tempos_broker.members.known import Wanted
from tempos_broker.membership import Registry
from tempos_broker.paths import Elsewhere, FastPath, Tickets
from tempos_broker.slowpath.returns import KEY_LEN
from tempos_broker.state import TopicState
from tempos_broker.tickets import CountedTickets

log = logging.getLogger("tempos.broker.state")


class Continuity:
    """The past of a broker. ``keeper`` writes for its future, ``counting`` counts over all of it.

    ``store`` None: there is no past, and nothing is kept. ``drawn`` counts what the slow path draws, where
    both paths do. ``elsewhere``: where else the former life may have had its counters, for it had a fast
    path or not, as this one. ``rows``: where the topics stand among them. ``data_port``: where members see
    events come from.
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
        *,
        rows: Rows,
        data_port: int,
    ) -> None:
        self._elsewhere = [*elsewhere, *([fast.former] if fast.former is not None else [])]
        #: Which of them has the counters of the former life, if they have to be fetched from there.
        self._source: Elsewhere | None = None
        #: Whether anything survives this life.
        self.has_store = store is not None
        self._store = store
        self._stored = store.stored if store is not None else Stored()
        self._fast = fast
        self._rows = rows
        #: Topics whose counters cannot be theirs, whatever is stored.
        self._forgotten: set[int] = set()
        #: Tickets that were drawn of one group of a topic, over all epochs, when its counters were fetched.
        self._fetched: dict[int, int] = {}
        #: What the fast path had counted of a topic then: what comes on top is of tickets drawn since.
        self._began: dict[int, Mapping[Reason, int]] = {}
        #: Topics that a former life had in the kernel and that there are no more: name and last epoch.
        self._withdrawn: dict[int, tuple[str, int]] = {}
        self._drawn = drawn
        self._registry = registry
        self._ledger = ledger
        self._states = states
        #: Last epochs of topics that a reload has ended.
        self._ended: dict[int, int] = {}
        #: What members of the former life want that are none yet.
        self._wanted: dict[Holder, dict[str, Wanted]] = {}
        self._shared: set[Holder] = set()
        #: What both paths draw from.
        self.tickets: Tickets = fast.tickets if drawn is None else drawn
        self._former = instance_in(self._stored.broker)
        #: The same over lives that go on with each other: to its members, such a broker never restarted.
        self.instance = self._former or new_instance()
        #: What seals return addresses: the same while the machine is up, so that those given out stay good.
        self.return_key = return_key_in(self._stored.broker) or os.urandom(KEY_LEN)
        self.counting = Counting(self.tickets, fast, ledger, states)
        former_port = data_port_in(self._stored.broker)
        #: Whether clients turn away what comes from here: they know another port, until they subscribe anew.
        self._moved = former_port not in (None, data_port)
        own = {"instance": self.instance, "return_key": self.return_key.hex(), "data_port": data_port}
        self.keeper = Keeper(store, own, self.counting, registry, ledger, states, rows)
        #: Names that stood under other ids, once somebody has asked.
        self._renamed: set[str | None] | None = None
        #: Whether the ticket counters are those of the former life.
        self.continued = False

    def stored(self, kind: str) -> Mapping[str, Any]:
        """Things of this kind that the former life had stored, by key: JSON values of any type."""
        return self._stored.things.get(kind, {})

    # --- the past ---------------------------------------------------------------------------

    def take_up(self) -> None:
        """Find out what there is to go on with; from here on the counters are this life's to change.

        Before any member is restored it is known whom an operator keeps out.
        """
        if not self.has_store:
            # A later life that has a store must not take these counters for those of the one that it knows.
            self.keeper.fall_behind(self.tickets.read(*UNSTORED))
            return
        stored, now, there = self._stored.broker, time.monotonic(), now_there(self._stored.broker)
        self._registry.departures.restore(kept_out_in(stored), now, time.time(), there)
        if self._moved:
            log.warning("the data port is another one now: clients have to subscribe anew, and will")
        else:
            known = list(wants_in(self.stored(WANTED)))
            self._wanted = {holder: wanted for holder, wanted, _ in known}
            self._shared = {holder for holder, _, shared in known if shared}
        left = self._registry.lease - max(0.0, there - alive_in(stored))
        for holder in list(self._wanted) if left > 0 else ():
            self._want_again(holder, time.monotonic() + left)
        sources = [(each, each.tickets) for each in self._elsewhere if each.tickets is not None]
        self.keeper.unstored_epoch = max(
            promised_in(self._stored.broker),
            *(tickets.read(*UNSTORED) for tickets in (self.tickets, *(tickets for _, tickets in sources))),
        )
        if self._former is not None:
            self.continued = self._former == self.tickets.read(*MARK)
            for source, tickets in sources:
                if not self.continued and tickets.read(*MARK) == self._former:
                    self._source, self.continued = source, True
        if not self.continued or self._source is not None:
            self.keeper.fall_behind(0)

    async def take_rows(self, kernel: Mapping[int, int]) -> None:
        """Give every topic its row: the one that it had, where its counters are.

        ``kernel``: those in force there. Topics that there are no more go out of there first, for they count
        in rows of theirs.
        """
        for topic in self._fast.adopted().keys() - self._states.keys():
            name = name_in(self._stored.topics.get(topic)) or f"number {topic}"
            self._withdrawn[topic] = name, self.epoch(topic)
            log.warning("topic %s is not configured any more: its route is taken out of the kernel", name)
            await self._fast.withdraw(topic)
        had: dict[int, int | None] = {}
        for topic in self._states:
            row = kernel.get(topic) or self._stored.topics.row(topic)
            if row is None:
                with contextlib.suppress(*UNREADABLE):
                    row = row_in(self._stored.topics[topic])
            had[topic] = row
        for topic in sorted(self._states, key=lambda topic: (topic not in kernel, had.get(topic) is None)):
            try:
                self._rows.give(topic, had.get(topic))
            except NoRow as error:
                log.warning("topic %s: %s, so its account and members begin anew", self._states[topic], error)
                self._forgotten.add(topic)
                self._rows.give(topic)

    def _want_again(self, holder: Holder, expires: float) -> None:
        wanted = self._wanted.pop(holder, None)
        if wanted is not None:
            self._registry.restore_wanted(holder, wanted, expires)
            if holder in self._shared and (lease := self._registry.lease_of(holder)) is not None:
                lease.shared = True

    @property
    def owns_adopted(self) -> bool:
        """Whether the routes that are in force in the kernel are the former life's."""
        return self.continued and (self._source is None or self._source is self._fast.former)

    def fetch(self, topic: int) -> None:
        """Have the tickets of the topic's open epochs where this life draws them."""
        if self._source is None or self._source.tickets is None:
            return
        self._began[topic] = self._fast.counters([topic]).get(topic, {})
        tickets = self.tickets.uncounted if isinstance(self.tickets, CountedTickets) else self.tickets
        for epoch, groups in self._ledger.open_epochs(topic).items():
            # Behind those of the groups a foreign topic has others.
            numbers = NUMBERS if self._states[topic].route.topic.ports else min(groups, TICKETS)
            drawn = [self._source.tickets.read(topic, epoch, number) for number in range(numbers)]
            self._fetched[topic] = self._fetched.get(topic, self._ledger.drawn(topic)) + sum(drawn[:1])
            self.counting.fetched_lost[topic, epoch] = self._source.lost(topic, epoch, groups)
            tickets.reset(topic, epoch)
            for group, count in enumerate(drawn):
                tickets.draw(topic, epoch, group, count)

    def epoch(self, topic: int) -> int:
        """The latest epoch that a topic id ever had here."""
        adopted = self._fast.adopted().get(topic, 0)
        stored = self._stored.epochs.get(topic, 0)
        return max(stored, self._ended.get(topic, 0), adopted, self.keeper.unstored_epoch)

    def recall(self, topic: Topic) -> Remembered | None:
        """Take a topic's account up again; None if nothing usable is known of it."""
        if topic.id in self._forgotten:
            return None
        try:
            memory = self._stored.topics.remembered(topic.id)
            if memory is None or not memory.is_of(topic):
                return None
            now, steps = time.monotonic(), self._stored.steps.get(topic.id, ())
            self._ledger.restore(topic.id, memory.ledger, now)
            memory = go_on(memory, self._ledger, topic.id, steps, now)
        except UNREADABLE as error:
            self._ledger.begin_anew(topic.id)
            log.warning("topic %s: what is stored of it makes no sense, its account and members begin "
                        "anew: %r", topic.name, error)  # fmt: skip
            return None
        return memory

    def comes_otherwise(self, topic: Topic) -> bool:
        """Whether clients of the former life know this id, or this name, as something else."""
        if self._renamed is None:
            states = self._states
            self._renamed = {
                name_in(document) for id_, document in self._stored.topics.items()
                if id_ not in states or states[id_].route.topic.name != name_in(document)
            }  # fmt: skip
        return topic.id in self._stored.topics or topic.name in self._renamed

    def restore_members(self, topic: int, memory: Remembered) -> None:
        """Make those members again whose lease has not ended; all, where the kernel went on serving them.

        What is stored of a topic may be older than the latest renewals: who was a member to the end of the
        former life may have renewed in its last moment. None could while nobody was there: see
        :meth:`Registry.spare`.
        """
        if not memory.members:
            return
        last = max(memory.wall, alive_in(self._stored.broker))
        passed = max(0.0, now_there(self._stored.broker) - last)
        served = self.owns_adopted and topic in self._fast.adopted()
        for member in memory.members:
            if self._moved and member.client is not None:
                continue
            left = member.remaining if memory.wall == last else self._registry.lease
            remaining = left - passed
            nobody = member.ip.startswith(NOBODY)
            if served or remaining > 0 or nobody:
                expires = time.monotonic() + remaining
                endpoint = (member.ip, member.port)
                if not nobody:
                    self._want_again(Holder(*endpoint, member.client), expires)
                self._registry.restore(topic, member.group, endpoint, member.client, expires, member.source)

    def former_route(self, topic: Topic, memory: Remembered) -> tuple[Route, bool]:
        """The latest route of the former life, and whether it is still what the members make."""
        *_, epoch = self._ledger.open_epochs(topic.id)
        stored = self._ledger.route(topic.id, epoch)
        present = self._registry.groups(topic.id)
        same = self._registry.holders(topic.id) == [(name, list(holders)) for name, holders in stored]
        if same:
            return Route(topic, epoch, present), True
        known = {(each.ip, each.port): Member(each.ip, each.port, source=each.source)
                 for each in memory.members}  # fmt: skip
        known |= {(member.ip, member.port): member for group in present for member in group.members}
        groups = tuple(
            Group(name, tuple(known.get((h.ip, h.port)) or Member(h.ip, h.port) for h in holders))
            for name, holders in stored
        )
        return Route(topic, epoch, groups), False

    def close_old(self, topic: int, epoch: int) -> None:
        """Only this epoch's route is in force: the tickets of all others are final."""
        for one, groups in self._ledger.open_epochs(topic).items():
            if one != epoch:
                drawn = self.counting.drawn(topic, one, groups)
                unsent = self.counting.unsent(topic, one, groups)
                self._ledger.closed(topic, one, drawn, unsent)
                self.keeper.closed(topic, one, drawn, unsent)
                self.counting.fetched_lost.pop((topic, one), None)
                self.counting.closed(topic, one)

    def cut(self, topic: int, memory: Remembered) -> None:
        """The tickets are not those of the former life: close its epochs with what it stored."""
        for epoch, groups in self._ledger.open_epochs(topic).items():
            tickets = memory.live.get(epoch, [])
            tickets = tickets if len(tickets) >= groups else [0] * groups
            self._ledger.closed(topic, epoch, tickets, cut=True)

    def recount(self, topics: Mapping[int, Remembered]) -> None:
        """Go on with the counters, those included that died with the process.

        The counters are read of all of these topics at once, so what has passed meanwhile is none of most.
        """
        raw, live, after = self._read(topics)
        self.counting.volumes_from_here(topics)
        since = self._source.counters() if self._source is not None else {}
        for topic, memory in topics.items():
            if raw.get(topic) != after.get(topic):
                raw_of, live_of, after_of = self._read([topic])
                self._recount(topic, memory, since, raw_of, live_of, after_of)
            else:
                self._recount(topic, memory, since, raw, live, after)

    def _read(self, topics: Collection[int]) -> tuple[Counters, Mapping[int, dict[int, list[int]]], Counters]:
        """What the fast path has counted, the tickets drawn, and again what the fast path has counted."""
        raw = self._fast.counters(topics)
        return raw, {topic: self.counting.live(topic) for topic in topics}, self._fast.counters(topics)

    def _recount(
        self,
        topic: int,
        memory: Remembered,
        since: Counters,
        raw_of: Counters,
        live: Mapping[int, dict[int, list[int]]],
        after_of: Counters,
    ) -> None:
        counting = self.counting
        raw, after = raw_of.get(topic, {}), after_of.get(topic, {})
        if self._source is not None:
            counts = since.get(topic, {})
            counted = {
                reason: memory.fast.get(reason, 0) + counts.get(reason, 0) - memory.fast_raw.get(reason, 0)
                for reason in {*memory.fast, *counts, *memory.fast_raw}
            }
            memory = replace(memory, fast=counted, fast_raw=self._began.pop(topic, raw))
        counting.fast_offsets.set(topic, memory.fast, memory.fast_raw if self.continued else raw)
        drawn = self._ledger.drawn(topic) + sum(tickets[0] for tickets in live[topic].values() if tickets)
        fast = counting.fast_offsets.applied_to(topic, after)
        handed = fast.get(Reason.FORWARDED, 0) + fast.get(Reason.NO_EGRESS, 0)
        slow = dict(memory.slow)
        fetched = self._fetched.pop(topic, None)
        if fetched is not None:
            # Whatever has passed since: what was fetched was final, and so is what the fast path did of it.
            of_fast = memory.fast.get(Reason.FORWARDED, 0) + memory.fast.get(Reason.NO_EGRESS, 0)
            slow[Reason.FORWARDED] = max(0, fetched - of_fast)
        elif handed > drawn and not self.continued:
            # Counted after the tickets were, by a program whose tickets are gone.
            less = fast.get(Reason.FORWARDED, 0) - (handed - drawn)
            counting.fast_offsets.set(topic, {**memory.fast, Reason.FORWARDED: max(0, less)}, after)
            slow[Reason.FORWARDED] = 0
        elif raw == after:
            # Nothing passed meanwhile: what the fast path did not hand on, the slow path did.
            slow[Reason.FORWARDED] = max(0, drawn - handed)
        elif self._drawn is not None and self.continued:
            slow[Reason.FORWARDED] = self._drawn.drawn(topic)
        counting.slow_offsets.set(topic, slow, {})
        if self._drawn is not None:
            self._drawn.recount(topic, slow.get(Reason.FORWARDED, 0))

    def begin_anew(self, *topics: int) -> None:
        """Whatever was counted under these ids so far is other topics'."""
        counting = self.counting
        slow, fast = counting.slow_counters(topics), self._fast.counters(topics)
        counting.volumes_from_here(topics)
        self._fast.measure_anew(topics)
        for topic in topics:
            if self.epoch(topic):
                self._ledger.forgot(topic)
            counting.slow_offsets.set(topic, {}, slow.get(topic, {}))
            counting.fast_offsets.set(topic, {}, fast.get(topic, {}))
            if self._drawn is not None:
                self._drawn.forget(topic)

    def ended(self, route: Route) -> None:
        """A topic is no more; its epoch is kept, should the id come back."""
        topic = route.topic.id
        self._ended[topic] = route.epoch
        self._ledger.forget(topic, route.topic.name)
        self.keeper.forget(topic)
        self.begin_anew(topic)

    def resume_drains(self) -> None:
        """Go on with the drains of the former life."""
        for holder, topics, remaining in drains_in(self._stored.broker, now_there(self._stored.broker)):
            self._registry.restore_leaving(holder, topics, time.monotonic() + remaining)

    # --- the future -------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write down what this life begins with; then the ticket counters are its own, and no others are."""
        # Of those that are not back nothing is kept.
        self._registry.holdings.wants.changed.update(self._wanted)
        # Counters that go on where they are need not be written anew: what is stored goes with them.
        await self.keeper.begin(self._unknown(), all_anew=not self.continued or self._source is not None)
        # Documents of topics take several times as much memory as what was made of them.
        self._stored = replace(self._stored, topics=Documents({}), steps={})
        if self._store is not None:
            self._store.stored = self._stored
        for each in self._elsewhere:
            if each.tickets is not None:
                each.tickets.reset(*MARK[:2])
        if self._fast.former is not None:
            self._fast.former.close()

    def _unknown(self) -> dict[int, tuple[str, int]]:
        """Topics that the configuration has no more: their accounts end, and only their epochs go on."""
        gone = self._stored.topics.keys() - self._states.keys()
        stored = {topic: name_in(each) for topic in gone if (each := self._stored.topics[topic])}
        return {
            **{topic: (name or f"number {topic}", self.epoch(topic)) for topic, name in stored.items()},
            **self._withdrawn,
        }


def new_instance() -> int:
    """A number that differs from one start of the broker to the next (u32)."""
    return time.time_ns() // 1_000_000 & 0xFFFFFFFF
