"""The routes of all topics: made of the members, swapped in whole on both paths, taken up from a former life.

A change of membership becomes one new route of the next epoch, swapped first in the kernel, then in the slow
path. Swaps of one topic happen one after the other, under its lock; swapping in the kernel waits for a grace
period and never blocks the event loop. A swap that has begun is carried out, whoever gives up waiting for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from tempos import Group, Path, PathChoice, PathPolicy, Route, Topic
from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.account.pace import Pace
from tempos_broker.account.topics import ASKS_AGAIN
from tempos_broker.addresses import Towards
from tempos_broker.lives.continuity import Continuity
from tempos_broker.lives.memory import Remembered
from tempos_broker.membership import Registry
from tempos_broker.paths import FastPath
from tempos_broker.redelivery.desk import Redelivery
from tempos_broker.repair.desk import Desk
from tempos_broker.state import TopicState
from tempos_broker.tasks import Tasks, whole
from tempos_broker.topics.locks import KeyedLocks
from tempos_broker.worker.slowpaths import SlowPaths

#: Topics that are taken up at a time when the broker starts.
TOGETHER = 256

NO_MEMBER = PathChoice(Path.SLOW, "the topic has no member")
SAID_SLOW = PathChoice(Path.SLOW, "a command says path = slow")
CONFIGURED_SLOW = PathChoice(Path.SLOW, "the configuration says path = slow")

log = logging.getLogger("tempos.broker")

#: Members of a topic whose next swap waits for more who come, as long as the last one took; seconds at most.
CROWD, REST = 64, 0.1
#: Topics of one change that are swapped at a time: more would keep whoever waits for the loop waiting.
AT_ONCE = 16


class Routes:
    """What is in force, by topic id. ``lease`` in seconds: so long a member may still report old epochs.

    ``pace``: how fast routes of a topic may follow each other. ``changes`` hears who came and went, and of
    paths, once ``telling``: not what a start takes up.
    """

    def __init__(
        self,
        states: dict[int, TopicState],
        registry: Registry,
        ledger: Ledger,
        past: Continuity,
        fast: FastPath,
        slow: SlowPaths,
        lease: float,
        pace: Pace,
        changes: Changes | None = None,
        repairs: Desk | None = None,
        redelivery: Redelivery | None = None,
    ) -> None:
        self.states = states
        #: Where members are that events go to now, and how many are there.
        self.towards: dict[Towards, int] = {}
        self.changes = Changes() if changes is None else changes
        self.telling = False
        self.lease = lease
        self.pace = pace
        self._registry = registry
        self._ledger = ledger
        self._past = past
        self._fast = fast
        self._slow = slow
        self._repairs = repairs
        self._redelivery = redelivery
        self._locks: KeyedLocks[int] = KeyedLocks()

    def epoch(self, topic: int) -> int:
        """The epoch in force."""
        return self.states[topic].route.epoch

    def name(self, topic: int) -> str:
        """A topic as the log names it."""
        return str(self.states[topic])

    def topic_name(self, topic: int) -> str:
        """A topic's name."""
        return self.states[topic].route.topic.name

    @contextlib.asynccontextmanager
    async def held(self, topics: Iterable[int]) -> AsyncIterator[None]:
        """No swap of these topics is under way, or begins, inside."""
        async with self._locks.held(topics):
            yield

    async def swap(self, topic: int, *, renew: bool = False) -> None:
        """Give the topic a route of its present groups, if they changed.

        ``renew``: the network is another one. Install the route anyway; where members get their events from
        another address now, it is a new one.
        """
        async with self._locks.one(topic):
            state = self.states.get(topic)
            if state is None:
                # Removed while this waited for its turn.
                return
            if state.version != self._registry.version(topic):
                # Whoever comes or goes meanwhile is in the same route.
                await self._keep_pace(state)
            moved = renew and self._registry.groups(topic) != state.route.groups
            if moved or state.version != self._registry.version(topic):
                await whole(self._swap(state))
            elif renew:
                self._chosen(state, await self._install(state, state.route))

    async def _swap(self, state: TopicState) -> None:
        topic, began = state.route.topic.id, time.monotonic()
        version = self._registry.version(topic)
        await self.replace(state, self._registry.groups(topic), self._registry.holders(topic))
        state.version, ended = version, time.monotonic()
        if sum(len(group.members) for group in state.route.groups) >= CROWD:
            # What a swap costs goes by how many there are: half of the time is for those who come.
            state.rested = ended + min(ended - began, REST)

    async def _keep_pace(self, state: TopicState) -> None:
        now = time.monotonic()
        if (wait := max(self.pace.wait(state.due, now), state.rested - now)) > 0:
            await asyncio.sleep(wait)
        state.due = self.pace.next(state.due, time.monotonic())

    async def move(self, topic: Topic, policy: PathPolicy) -> bool:
        """Let a topic take another path; route, epoch and tickets stay. Whether it was still there.

        While this waits for its turn a reload may take the topic away, or give its id to another one.
        """
        async with self.held((topic.id,)):
            state = self.states.get(topic.id)
            if state is None or state.route.topic.name != topic.name:
                return False
            state.moved = None if policy is state.route.topic.policy else policy
            self._chosen(state, await self._install(state, state.route))
            return True

    async def keep_wants(self) -> None:
        """Have it stored who wants what, before anybody is told that it is so."""
        await self._past.keeper.keep_wants()

    async def swap_all(self, topics: Iterable[int], *, renew: bool = False) -> None:
        """:meth:`swap` of all of these topics, :data:`AT_ONCE` of them at a time.

        So grace periods are waited for together, and what is written of several topics is one transaction.
        """
        topics = [topic for topic in topics if self.is_due(topic, renew=renew)]
        waiting = iter(topics)

        async def one_by_one() -> None:
            for topic in waiting:
                await self.swap(topic, renew=renew)
                # None may have waited for anything, and there may be thousands.
                await asyncio.sleep(0)

        if len(topics) > 1:
            with self._registry.same_sources():
                await asyncio.gather(*(one_by_one() for _ in range(min(AT_ONCE, len(topics)))))
        elif topics:
            await self.swap(topics[0], renew=renew)

    def is_due(self, topic: int, *, renew: bool = False) -> bool:
        """Whether a topic's route in force is not of its present members, or is of some and to be renewed."""
        state = self.states.get(topic)
        if state is None:
            return False
        return state.version != self._registry.version(topic) or (renew and bool(state.route.groups))

    def renew_all(self, tasks: Tasks) -> None:
        """The network changed: install every route anew, which may change the path."""
        tasks.spawn(self.swap_all(self.states, renew=True), "renew every topic")

    async def replace(
        self,
        state: TopicState,
        groups: tuple[Group, ...],
        holders: Sequence[tuple[str, Sequence[Holder]]],
    ) -> None:
        """Swap the next epoch's route in on both paths; the topic is held."""
        topic = state.route.topic.id
        route = Route(state.route.topic, state.route.epoch + 1, groups)
        tickets, journals = self._past.tickets, self._slow.journals
        tickets.reset(topic, route.epoch)
        if journals.keeps(topic):
            journals.begin(topic, route.epoch, tickets.read(topic, state.route.epoch, 0))
            journals.joined(topic, route.epoch, holders)
        if self._repairs is not None:
            self._repairs.opened(route, holders)
        if self._redelivery is not None:
            self._redelivery.opened(route, holders)
        now = time.monotonic()
        self._ledger.opened(topic, route.epoch, holders, now)
        self._past.counting.opened(route)
        await self._past.keeper.opening(route)
        choice = await self._install(state, route)
        await self._slow.swap(route)
        # Both paths have let go of the old route: its tickets are final.
        if journals.keeps(topic):
            journals.ended(topic, state.route.epoch, tickets.read(topic, state.route.epoch, 0))
        self._past.close_old(topic, route.epoch)
        if self._repairs is not None:
            self._repairs.closed(state.route)
        if self._redelivery is not None:
            self._redelivery.closed(topic, state.route.epoch, len(state.route.groups))
        self._ledger.settle(now - self.lease, now - ASKS_AGAIN)
        self._ledger.in_force(topic, time.monotonic())
        before, gone, come = state.route, *unlike(state.route.groups, route.groups)
        self._enter(state, route, gone, come)
        self._registry.holdings.in_force(topic, holders)
        if self.telling:
            self._tell_members(route, gone, come)
            self._tell_waiting(before, route)
        self._chosen(state, choice)
        if self._redelivery is not None:
            await self._redelivery.keep(topic)
        # The slot of the epoch after this one may be reset only once its old tickets are stored.
        await self._past.keeper.swapped(topic)
        if log.isEnabledFor(logging.INFO):
            log.info(
                "topic %s: epoch %d, %d groups, %d members",
                state, route.epoch, len(groups), sum(len(group.members) for group in groups),
            )  # fmt: skip

    def _tell_waiting(self, before: Route, route: Route) -> None:
        """Of which groups what comes waits from now on for a member."""
        known = {group.name for group in before.groups if group.members[0].is_nobody}
        for group in route.groups:
            if group.members[0].is_nobody and group.name not in known:
                self.changes.tell(
                    Kind.LEFT,
                    f"topic {route.topic.name}, group {group.name}: no member is left; what comes waits for "
                    "the next one, as far as the journal goes",
                    level=logging.WARNING, topic=route.topic.name,
                )  # fmt: skip

    def _tell_members(self, route: Route, gone: Sequence[Group], come: Sequence[Group]) -> None:
        departures = self._registry.departures
        number, name = route.topic.id, route.topic.name

        def why(ip: str, port: int) -> str:
            return departures.why_at(number, name, ip, port)

        self.changes.route(name, gone, come, why)

    # --- topics that come and go ------------------------------------------------------------

    def begin(self, topic: Topic) -> None:
        """A topic that is new; its id may have had epochs before."""
        self.states[topic.id] = TopicState(Route(topic, self._past.epoch(topic.id), ()))

    def redescribe(self, topic: Topic) -> None:
        """Go by other options of a topic that stays the same one; :meth:`swap` then installs its route."""
        state = self.states[topic.id]
        if state.route.topic.policy is not topic.policy:
            state.moved = None
        state.route = replace(state.route, topic=topic)
        self._registry.touch(topic.id)

    async def clear(self, state: TopicState) -> None:
        """Take a held topic off both paths, before its id can mean something else."""
        await whole(self.replace(state, (), []))

    def end(self, route: Route, successor: Topic | None) -> None:
        """Forget a topic, but for its epoch: account and counters begin anew, should its id come back."""
        topic = route.topic.id
        if self._repairs is not None:
            self._repairs.end(topic)
        if self._redelivery is not None:
            self._redelivery.forget(topic)
        self._past.ended(route)
        if successor is None:
            del self.states[topic]
            self._registry.forget(topic)
        else:
            self.begin(successor)

    async def resume_all(self) -> None:
        """Take every topic up, many at a time: what waits for kernel and disk waits together."""
        topics = list(self.states)
        for first in range(0, len(topics), TOGETHER):
            await self.resume(*topics[first : first + TOGETHER])

    async def resume(self, *topics: int) -> None:
        """Take up topics where the former life left them, as far as that is known; each gets its route."""
        with self._registry.same_sources():
            adopted, known = self._fast.adopted(), dict(zip(topics, map(self._recall, topics), strict=True))
            there = {topic: memory for topic, memory in known.items() if memory is not None}
            former = [topic for topic in topics if topic in there or topic in adopted]
            await asyncio.gather(*(self._take_up(topic, there.get(topic)) for topic in former))
            # Counters are read in one go: calls by the thousand beside threads of the kernel's take seconds.
            self._past.recount(there)
            self._past.begin_anew(*(topic for topic in topics if topic not in there))
            for topic in topics:
                self._let_in(topic, known=topic in there)
            await asyncio.gather(*(self.swap(topic) for topic in topics if self.is_due(topic)))

    def _recall(self, topic: int) -> Remembered | None:
        """Take up a topic's account and members, as far as they are known; its route is nobody's yet."""
        state, past = self.states[topic], self._past
        # Also behind those of lives that left no more than a journal: its places are found by epochs.
        epoch = max(past.epoch(topic), self._slow.journals.latest(topic))
        state.route = Route(state.route.topic, epoch, ())
        memory = past.recall(state.route.topic)
        if memory is not None:
            past.restore_members(topic, memory)
        elif self._redelivery is not None:
            self._redelivery.begun(topic, 0)
        return memory

    async def _take_up(self, topic: int, memory: Remembered | None) -> None:
        """Take up the route where it is in force still, or its epoch may be."""
        state, past = self.states[topic], self._past
        adopted = self._fast.adopted().get(topic, 0)
        known = self._ledger.open_epochs(topic)
        if adopted and not past.owns_adopted:
            log.warning("topic %s: what the kernel's route rests on is lost; it is replaced", state)
            await self._fast.withdraw(topic)
            adopted = 0
        if memory is not None and past.continued and known and (not adopted or adopted in known):
            await self._go_on(state, memory, known)
            return
        if adopted:
            log.warning("topic %s: the kernel's route is of an unknown epoch; it is replaced", state)
            await self._fast.withdraw(topic)
        if memory is not None:
            past.cut(topic, memory)
            if self._redelivery is not None:
                self._redelivery.begun(topic, 0)

    async def _go_on(self, state: TopicState, memory: Remembered, known: Mapping[int, int]) -> None:
        """Have the former life's route in force on both paths. ``known``: open epochs, with their groups."""
        topic, past, journals = state.route.topic.id, self._past, self._slow.journals
        past.fetch(topic)
        route, same = past.former_route(state.route.topic, memory)
        holders = self._registry.holders(topic) if same or journals.keeps(topic) else ()
        for each in known if route.topic.groups else ():
            stored = tuple(Group(name, ()) for name, _ in self._ledger.route(topic, each))
            past.counting.opened(replace(route, epoch=each, groups=stored))
        if journals.keeps(topic):
            journals.begin(topic, route.epoch, 0)
            journals.joined(topic, route.epoch, holders, before=True)
        if self._repairs is not None:
            self._repairs.opened(route, self._ledger.route(topic, route.epoch))
        if self._redelivery is not None and self._redelivery.concerns(route.topic):
            for each, groups in known.items():
                self._redelivery.opened(replace(route, epoch=each), self._ledger.route(topic, each))
                if each != route.epoch:
                    self._redelivery.closed(topic, each, groups)
            self._redelivery.begun(topic, route.epoch)
        self._chosen(state, await self._install(state, route))
        await self._slow.swap(route)
        self._enter(state, route, state.route.groups, route.groups)
        # A swap that was under way is finished by this.
        past.close_old(topic, route.epoch)
        state.version = self._registry.version(topic) if same else 0
        self._ledger.in_force(topic, time.monotonic())
        self._registry.holdings.in_force(topic, holders if same else ())

    def _let_in(self, topic: int, *, known: bool) -> None:
        """Who wants a topic and was none of its members: it may be new."""
        present = self.states[topic].route.topic
        as_it_was = known or not self._past.comes_otherwise(present)
        self._registry.join_all(present, time.monotonic(), known=as_it_was)

    def _enter(self, state: TopicState, route: Route, gone: Sequence[Group], come: Sequence[Group]) -> None:
        """Let this be the topic's route from now on; without who is ``gone``, and with who has ``come``."""
        towards = self.towards
        for group in come:
            for member in group.members:
                if member.is_nobody:
                    continue
                place = member.ip, member.source
                towards[place] = towards.get(place, 0) + 1
        for group in gone:
            for member in group.members:
                if member.is_nobody:
                    continue
                place = member.ip, member.source
                towards[place] -= 1
                if not towards[place]:
                    del towards[place]
        state.route = route

    # --- which path -------------------------------------------------------------------------

    async def _install(self, state: TopicState, route: Route) -> PathChoice:
        if state.policy is PathPolicy.SLOW:
            # A route that was there before a move or a reload, or that a former life left.
            if (state.choice and state.choice.path is Path.FAST) or route.topic.id in self._fast.adopted():
                await self._fast.withdraw(route.topic.id)
            return SAID_SLOW if state.moved else CONFIGURED_SLOW
        if not route.groups:
            await self._fast.withdraw(route.topic.id)
            return NO_MEMBER
        if state.moved is not None:
            route = replace(route, topic=replace(route.topic, policy=state.moved))
        return await self._fast.install(route)

    def _chosen(self, state: TopicState, choice: PathChoice) -> None:
        if choice != state.choice:
            wanted = state.policy is PathPolicy.FAST and state.route.groups
            level = logging.WARNING if wanted and choice.path is Path.SLOW else logging.INFO
            if self.telling:
                text = f"topic {state}: {choice.path.value} path: {choice.reason}"
                self.changes.tell(Kind.PATH, text, level=level, topic=state.route.topic.name)
            else:
                log.log(level, "topic %s: %s path: %s", state, choice.path.value, choice.reason)
        if state.choice is not None and state.choice.path is not choice.path:
            state.moves += 1
        state.choice = choice


def unlike(before: Sequence[Group], after: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Of both what the other does not have at the same place: who stays is as a rule where it was.

    A group without members is one of which nothing is left over.
    """
    had = {group.name: group.members for group in before}
    gone, come = [], []
    for group in after:
        old, new = had.pop(group.name, ()), group.members
        same = 0
        for one, other in zip(old, new, strict=False):
            if one is not other:
                break
            same += 1
        gone.append(Group(group.name, old[same:]))
        come.append(Group(group.name, new[same:]))
    return [*gone, *(Group(name, members) for name, members in had.items())], come
