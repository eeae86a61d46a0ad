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
from typing import NamedTuple

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
from tempos_broker.tasks import Tasks, first_to_fail, whole
from tempos_broker.topics.locks import KeyedLocks
from tempos_broker.worker.slowpaths import SlowPaths

#: Topics that are taken up at a time when the broker starts, and how often that at the same time.
TOGETHER, BESIDE = 256, 2

NO_MEMBER = PathChoice(Path.SLOW, "the topic has no member")
SAID_SLOW = PathChoice(Path.SLOW, "a command says path = slow")
CONFIGURED_SLOW = PathChoice(Path.SLOW, "the configuration says path = slow")

log = logging.getLogger("tempos.broker")

#: Members of a topic whose next swap waits for more who come, as long as the last one took; seconds at most.
CROWD, REST = 64, 0.1
#: Topics of one change that are swapped at a time: more would keep whoever waits for the loop waiting.
AT_ONCE = 16


class Next(NamedTuple):
    """What is to be in force of a topic that is held: a ``route``, and who has its places, by group."""

    state: TopicState
    route: Route
    holders: Sequence[tuple[str, Sequence[Holder]]]


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
                self._chosen(state, *await self._install_all([(state, state.route)]))

    async def _swap(self, *states: TopicState) -> None:
        """Give these held topics routes of their present groups, all together."""
        began, registry = time.monotonic(), self._registry
        versions = [registry.version(state.route.topic.id) for state in states]
        await self._replace([self._next(state) for state in states])
        ended = time.monotonic()
        for state, version in zip(states, versions, strict=True):
            state.version = version
            if sum(len(group.members) for group in state.route.groups) >= CROWD:
                # What a swap costs goes by how many there are: half of the time is for those who come.
                state.rested = ended + min(ended - began, REST)

    def _next(self, state: TopicState) -> Next:
        """The next epoch's route, of the present groups."""
        route, topic = state.route, state.route.topic.id
        groups, holders = self._registry.groups(topic), self._registry.holders(topic)
        return Next(state, Route(route.topic, route.epoch + 1, groups), holders)

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
            self._chosen(state, *await self._install_all([(state, state.route)]))
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

    async def _replace(self, swaps: Sequence[Next]) -> None:
        """Swap these routes in on both paths; each of another topic, and of its next epoch.

        What is written, and what waits for the kernel, is of all of them together.
        """
        for each in swaps:
            self._open(each)
        keeper, topics = self._past.keeper, [each.route.topic.id for each in swaps]
        await keeper.opening([each.route for each in swaps])
        choices = await self._install_all([(each.state, each.route) for each in swaps])
        await self._slow.swap(*(each.route for each in swaps))
        now = time.monotonic()
        for each, choice in zip(swaps, choices, strict=True):
            self._close_former(each, choice, now)
        self._ledger.settle(now - self.lease, now - ASKS_AGAIN)
        if self._redelivery is not None:
            await self._redelivery.keep(*topics)
        # The slot of the epoch after this one may be reset only once its old tickets are stored.
        await keeper.swapped(topics)

    def _open(self, new: Next) -> None:
        """A route is about to be in force: everybody who goes by its epoch hears of it."""
        route, holders = new.route, new.holders
        topic, before = route.topic.id, new.state.route.epoch
        tickets, journals = self._past.tickets, self._slow.journals
        tickets.reset(topic, route.epoch)
        if journals.keeps(topic):
            journals.begin(topic, route.epoch, tickets.read(topic, before, 0))
            journals.joined(topic, route.epoch, holders)
        if self._repairs is not None:
            self._repairs.opened(route, holders)
        if self._redelivery is not None:
            self._redelivery.opened(route, holders)
        self._ledger.opened(topic, route.epoch, holders, time.monotonic())
        self._past.counting.opened(route)

    def _close_former(self, new: Next, choice: PathChoice, now: float) -> None:
        """A route is in force, and both paths have let go of the one before: its tickets are final."""
        state, route, holders = new
        topic, before = route.topic.id, state.route
        tickets, journals = self._past.tickets, self._slow.journals
        if journals.keeps(topic):
            journals.ended(topic, before.epoch, tickets.read(topic, before.epoch, 0))
        self._past.close_old(topic, route.epoch)
        if self._repairs is not None:
            self._repairs.closed(before)
        if self._redelivery is not None:
            self._redelivery.closed(topic, before.epoch, len(before.groups))
        self._ledger.in_force(topic, now)
        gone, come = unlike(before.groups, route.groups)
        self._enter(state, route, gone, come)
        self._registry.holdings.in_force(topic, holders)
        if self.telling:
            self._tell_members(route, gone, come)
            self._tell_waiting(before, route)
        self._chosen(state, choice)
        if log.isEnabledFor(logging.INFO):
            log.info(
                "topic %s: epoch %d, %d groups, %d members",
                state, route.epoch, len(route.groups), sum(len(group.members) for group in route.groups),
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
        route = Route(state.route.topic, state.route.epoch + 1, ())
        await whole(self._replace([Next(state, route, [])]))

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
        slices = (topics[first : first + TOGETHER] for first in range(0, len(topics), TOGETHER))

        async def one_by_one() -> None:
            for some in slices:
                await self._resume(some)

        with self._registry.same_sources():
            # While some wait there is something to do for the next.
            await first_to_fail(*(one_by_one() for _ in range(BESIDE)))

    async def _resume(self, topics: Sequence[int]) -> None:
        """Take up topics where the former life left them, as far as that is known; each gets its route.

        Nobody is served yet who could ask for another one, so none of them need be held.
        """
        known = {topic: memory for topic in topics if (memory := self._recall(topic)) is not None}
        await self._take_up(topics, known)
        # Counters are read in one go: calls by the thousand beside threads of the kernel's take seconds.
        self._past.recount(known)
        self._past.begin_anew(*(topic for topic in topics if topic not in known))
        for topic in topics:
            self._let_in(topic, known=topic in known)
        if due := [self.states[topic] for topic in topics if self.is_due(topic)]:
            await whole(self._swap(*due))

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

    async def _take_up(self, topics: Iterable[int], known: Mapping[int, Remembered]) -> None:
        """Take up the routes that are in force still, or whose epoch may be."""
        past, adopted = self._past, self._fast.adopted()
        lost: list[int] = []
        former: list[tuple[Next, bool]] = []
        for topic in topics:
            state, memory, epoch = self.states[topic], known.get(topic), adopted.get(topic, 0)
            if memory is None and not epoch:
                continue
            opened = self._ledger.open_epochs(topic)
            if epoch and not past.owns_adopted:
                log.warning("topic %s: what the kernel's route rests on is lost; it is replaced", state)
                lost.append(topic)
                epoch = 0
            if memory is not None and past.continued and opened and (not epoch or epoch in opened):
                former.append(self._former(state, memory, opened))
                continue
            if epoch:
                log.warning("topic %s: the kernel's route is of an unknown epoch; it is replaced", state)
                lost.append(topic)
            if memory is not None:
                past.cut(topic, memory)
                if self._redelivery is not None:
                    self._redelivery.begun(topic, 0)
        await asyncio.gather(*map(self._fast.withdraw, lost))
        await self._go_on(former)

    def _former(self, state: TopicState, memory: Remembered, known: Mapping[int, int]) -> tuple[Next, bool]:
        """The former life's latest route, about to be in force again, and whether its members are as it was.

        ``known``: open epochs, with their groups.
        """
        topic, past, journals = state.route.topic.id, self._past, self._slow.journals
        past.fetch(topic)
        route, same = past.former_route(state.route.topic, memory)
        holders = self._registry.holders(topic) if same or journals.keeps(topic) else []
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
        return Next(state, route, holders if same else []), same

    async def _go_on(self, former: Sequence[tuple[Next, bool]]) -> None:
        """Have the former life's routes in force on both paths."""
        choices = await self._install_all([(each.state, each.route) for each, _ in former])
        for (each, _), choice in zip(former, choices, strict=True):
            self._chosen(each.state, choice)
        await self._slow.swap(*(each.route for each, _ in former))
        now = time.monotonic()
        for (state, route, holders), same in former:
            topic = route.topic.id
            self._enter(state, route, state.route.groups, route.groups)
            # A swap that was under way is finished by this.
            self._past.close_old(topic, route.epoch)
            state.version = self._registry.version(topic) if same else 0
            self._ledger.in_force(topic, now)
            self._registry.holdings.in_force(topic, holders)

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

    async def _install_all(self, swaps: Sequence[tuple[TopicState, Route]]) -> list[PathChoice]:
        """Have these routes in the kernel, each of another topic, or none where it is not to have one.

        It is waited for once.
        """
        out: list[int] = []
        wanted: dict[int, Route] = {}
        choices: list[PathChoice | None] = []
        for state, route in swaps:
            topic = route.topic.id
            if state.policy is PathPolicy.SLOW:
                choices.append(_said_slow(state))
                if self._asks_kernel(state):
                    out.append(topic)
            elif not route.groups:
                choices.append(NO_MEMBER)
                out.append(topic)
            else:
                choices.append(None)
                if state.moved is not None:
                    route = replace(route, topic=replace(route.topic, policy=state.moved))
                wanted[topic] = route
        withdrawn = asyncio.gather(*map(self._fast.withdraw, out))
        found = iter(await self._fast.install_all(list(wanted.values())) if wanted else ())
        await withdrawn
        return [next(found) if each is None else each for each in choices]

    def _asks_kernel(self, state: TopicState) -> bool:
        """Whether a topic's route may be the kernel's, or one is there: of a former life, move or reload."""
        is_there = state.choice is not None and state.choice.path is Path.FAST
        return state.policy is not PathPolicy.SLOW or is_there or state.route.topic.id in self._fast.adopted()

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


def _said_slow(state: TopicState) -> PathChoice:
    """Of a topic whose policy that is."""
    return SAID_SLOW if state.moved else CONFIGURED_SLOW


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
