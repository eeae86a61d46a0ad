"""The fast path as the broker sees it: hands topics to the kernel, keeps them true, takes them back.

Rules: nothing here blocks the event loop (netlink and map updates run in threads); the kernel holds a
route only while every member's way and MAC are known; when a fact that some route rests on changes,
the broker is told to install again, and nothing else happens behind its back. Whatever the network does
becomes a reason in words, never an exception. What an earlier broker left is untouched until this one
takes it over, when nothing can keep it from starting any more; from then on its routes stay in force until
this one installs or withdraws the topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from tempos import FastPathStatus, Path, PathChoice, Quality, Reason, Route, Topic, Unavailable
from tempos._abi import Way
from tempos._awaitables import Bell, until_next
from tempos._remarks import Remark
from tempos._rows import Rows
from tempos._slots import epoch_row
from tempos.errors import one_line
from tempos.histogram import Latency
from tempos.model import Volume
from tempos_fastpath.drops import Drops
from tempos_fastpath.journals import KernelJournals
from tempos_fastpath.kernel_routes import Claim
from tempos_fastpath.layout import decode_counters, decode_volumes
from tempos_fastpath.network.changes import ChangeTrigger
from tempos_fastpath.network.facts import Destination, Facts
from tempos_fastpath.network.firewall import Firewall
from tempos_fastpath.network.following import Follower
from tempos_fastpath.network.ipsec import guarded
from tempos_fastpath.network.reading import read_neighbours, resolve_neighbours
from tempos_fastpath.network.resolving import Resolving
from tempos_fastpath.network.targets import served_now
from tempos_fastpath.plan import Means, Plan, Planner, Refusal, Wanted
from tempos_fastpath.ports import Places
from tempos_fastpath.pulse import Pulse
from tempos_fastpath.resources import Resources
from tempos_fastpath.rows import lost_of, measure_anew, measured, of_topics
from tempos_fastpath.selector import attach_selector
from tempos_fastpath.sources import Sources
from tempos_fastpath.survival.pins import LATENCY
from tempos_fastpath.swaps import Swaps, Turns, waits_once
from tempos_fastpath.tickets import SharedTickets
from tempos_fastpath.topics import SharedTopics
from tempos_fastpath.words import Choices, interfaces_of, status_of, with_generic

#: Seconds between two looks at the network without an event, each of which also has the kernel confirm
#: the neighbours in use: redirected frames do not pass its own stack, so nothing else keeps them fresh.
_REFRESH = 5.0
#: Seconds between two looks at what the kernel's programs have noticed.
_ALERT = 0.25
#: Whoever sets up an interface takes several steps: seconds without one that are waited for, and at most.
_QUIET, _MOST = 0.05, 0.25
#: Seconds from one look to the next, however busy the neighbour table is.
_SPACING = 0.2

T = TypeVar("T")
_Judged: TypeAlias = Plan | Refusal
_log = logging.getLogger(__name__)


class Offload:
    """Implements the broker's ``FastPath``; made by :func:`tempos_fastpath.starting.prepare`."""

    def __init__(
        self,
        resources: Resources,
        facts: Facts,
        lacks: tuple[str, ...],
        feature_group: int,
        gone_after: float,
        tos: Mapping[Quality, int],
        port: int,
        rows: Rows,
    ) -> None:
        self._programs = resources.programs
        self._survey = resources.survey
        self._kernel = resources.routes
        self._fanouts = resources.fanouts
        self._ownership = resources.ownership
        self._threads = resources.threads
        write = functools.partial(self._in_thread, resources.routes.write)
        self._swaps = Swaps(write, together=waits_once(os.uname().release))
        self._resources = resources
        self._facts = facts
        self._drops: Drops | None = None
        self._adopted: dict[int, int] = {}
        self._adopted_rows: dict[int, int] = {}
        self._rows = rows
        self._note = ""
        self._lacks = lacks
        self._tos = dict(tos)
        self._planner = Planner(self._tos)
        self._port = port
        self._loop = asyncio.get_running_loop()
        copies = self._programs.map("copies")
        tickets, fresh = self._programs.map("tickets").mmap(), not self._programs.adopted
        self._tickets = SharedTickets(tickets, rows, copies, fresh=fresh)
        self._topics = SharedTopics(self._programs.map("topics").mmap(), rows)
        self._places = Places(self._programs.map("rows").mmap(), self._programs.map("ports").mmap())
        self._sources = Sources(self._programs.map("sources"), self._programs.map("asked"), port)
        self.journals = KernelJournals(self._programs.map("journals"), rows, resources.where_pinned)
        self._pulse = Pulse(self._programs.map("pulse").mmap(), gone_after / 3)
        self._callbacks: list[Callable[[], None]] = []
        self._wanted = Wanted(self._tos)
        #: What plans are made of, as it was when none of them would have been another.
        self._judged_by: tuple[object, ...] = ()
        self._choices = Choices()
        #: Where events come in that no program sees; what the topics' reasons say is of these.
        self._unseen = resources.unseen(facts)
        #: Why a topic's copies, and any copies at all, could not be had where the plan had foreseen them.
        self._no_broadcast: dict[int, str] = {}
        self._no_clone = ""
        self._left_out: frozenset[tuple[str, str | None]] = frozenset()
        #: Interfaces that turned out to take no frames, until the survey knows.
        self._refused: dict[int, str] = {}
        self._resolving = Resolving(_SPACING)
        self._trouble = Remark(_log, "the fast path's routes are checked against the network again")
        self._firewall = Firewall(port)
        self._turns = Turns()
        self._reading = asyncio.Lock()
        self._follower = Follower(self._follow, self._followed)
        self._closed = False
        self._changed = Bell()
        #: Whether more than neighbours may have changed since the last look.
        self._more_changed = False
        #: Whether what has changed may not have been read yet.
        self._unread = False
        self._trigger = ChangeTrigger(
            self._on_network, feature_group, lambda *it: self._facts.holds(*it) and not self._reading.locked()
        )
        self._watcher: asyncio.Task[None] | None = None

    @property
    def inherited(self) -> bool:
        """Whether an earlier broker left something that forwards on, whoever is there."""
        return self._programs.inherited

    @property
    def former(self) -> None:
        """What was there is taken over, so nothing of it stands apart."""
        return None

    async def take_over(self) -> None:
        """Put everything in the place of what an earlier broker left; call it once, before anything else.

        Until then that goes on as if nobody had come. Interfaces that cannot be had any more are told by
        the status.
        """
        await self._in_thread(self._firewall.look)
        taken = await self._in_thread(self._resources.take_over, self._facts)
        self._adopted, self._drops = taken.adopted, taken.drops
        self._adopted_rows = taken.rows
        self._note += taken.note
        if self._drops is not None:
            self._drops.refused_anew()  # What was lost before is no news.
        self._unseen = self._resources.unseen(self._facts)
        self._follower.begin()
        self._watcher = asyncio.create_task(self._watch(), name="tempos-fastpath-watch")

    @property
    def tickets(self) -> SharedTickets:
        return self._tickets

    @property
    def limits(self) -> SharedTopics:
        return self._topics

    async def configure(self, topics: Sequence[Topic]) -> None:
        """Go by what holds of these topics whatever their routes: class, rate, burst, overflow."""
        if not self._closed:
            self._topics.configure(topics)
            self._places.configure(topics, self._rows.of)
            await self._in_thread(self.journals.configure, topics)

    async def put(self, topic: Topic) -> None:
        """The same of one topic that is new or has changed; all others as they are."""
        if not self._closed:
            self._topics.put(topic)
            self._places.put(topic, self._rows.of[topic.id])
            await self._in_thread(self.journals.put, topic)

    async def drop(self, topic: int) -> None:
        """A topic is no more; it has its row still, and no route any more."""
        if not self._closed:
            self._topics.drop(topic)
            self._places.drop(topic)
            await self._in_thread(self.journals.drop, topic)

    def select(self, strict: int, best_effort: int) -> None:
        """See :func:`~tempos_fastpath.selector.attach_selector`."""
        if self._closed:
            raise Unavailable("the fast path is closed")
        maps = {name: self._programs.map(name) for name in ("rows", "topics")}
        attach_selector(maps, strict, best_effort)

    def status(self) -> FastPathStatus:
        """The weakest mode of the interfaces that carry the program, and how each came to its own."""
        if self._closed:
            return FastPathStatus("none", "the fast path is closed")
        interfaces = interfaces_of(self._programs.attachments, self._facts, self._unseen)
        _, beyond = served_now(self._resources.entrances.listen, self._facts)
        note = f"{beyond}{self._note}{self._programs.note}"
        more = self._lacks, self._firewall.passed_by, self._unread or self._follower.is_behind
        return status_of(self._programs.attachments, interfaces, note, *more)

    def rows(self) -> Mapping[int, int]:
        """Where the topics whose routes an earlier broker left stand in the tables."""
        return self._adopted_rows

    def adopted(self) -> Mapping[int, int]:
        """Topic -> epoch of the routes that an earlier broker left and that are still in force.

        A topic leaves when :meth:`install` or :meth:`withdraw` touches it. Whoever knows nothing of a
        topic in here should withdraw it.
        """
        return MappingProxyType(self._adopted)

    async def install(self, route: Route) -> PathChoice:
        """:meth:`install_all` of one."""
        (choice,) = await self.install_all([route])
        return choice

    async def install_all(self, routes: Sequence[Route]) -> list[PathChoice]:
        """Make each, of another topic each, the kernel's route, or remove what the kernel cannot carry."""
        async with self._turns.of(route.topic.id for route in routes):
            if self._closed:
                return [PathChoice(Path.SLOW, "the fast path is closed")] * len(routes)
            there = [self._wanted.want(route) for route in routes]
            for route in routes:
                self._adopted.pop(route.topic.id, None)
                self._no_broadcast.pop(route.topic.id, None)
            planned = await self._plan(routes, there)
            facts, judged_by = self._facts, self._judges_by()
            plans = await self._put(routes, facts, planned)
            for route, plan in zip(routes, plans, strict=True):
                self._wanted.planned(route, plan)
            refusals = {plan for plan in plans if isinstance(plan, Refusal)}
            if refusals:
                refused = (route for route, plan in zip(routes, plans, strict=True) if plan in refusals)
                await asyncio.gather(*(self._take_out(route.topic.id) for route in refused))
                await self._resolve({each for refusal in refusals for each in refusal.unresolved})
            made_of = self._judges_by()
            for route, plan, before in zip(routes, plans, planned, strict=True):
                is_as_judged = isinstance(plan, Plan) and plan is before and judged_by == made_of
                if not is_as_judged and self._judge(route, self._facts) != plan:
                    # What could not be had is tried again with each look.
                    self._judged_by = ()
                    if facts is not self._facts:
                        self._changed.set()
        return [self._said(plan, made_of) for plan in plans]

    def _said(self, plan: _Judged, made_of: object) -> PathChoice:
        if isinstance(plan, Refusal):
            return PathChoice(Path.SLOW, plan.reason)
        no_copies = self._no_clone if plan.way is Way.BROADCAST else ""
        unseen = with_generic(self._unseen, self._programs.generic, no_copies) if no_copies else self._unseen
        return self._choices.of(plan, made_of, self._programs.attachments, self.status, self._facts, unseen)

    async def withdraw(self, topic: int) -> None:
        """Take the topic's route out of the kernel; its packets come up to the slow path."""
        async with self._turns.of([topic]):
            self._wanted.drop(topic)
            self._adopted.pop(topic, None)
            self._no_broadcast.pop(topic, None)
            if not self._closed:
                await self._take_out(topic)

    async def withdraw_all(self) -> None:
        """Take all routes out, for good: nothing is installed any more."""
        if self._swaps.together and not self._closed:
            await self._in_thread(self._kernel.void_wide)
        await asyncio.gather(*map(self.withdraw, self._kernel.held))

    def counters(self, topics: Iterable[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason, where not 0. 0: what had none yet; 255: what has a wide id of none.

        They go on from one broker to the next that adopts what it left. Of ``topics`` only, or of all.
        """
        return {} if self._closed else of_topics(self._programs.map, self._rows, topics, decode_counters)

    def volumes(self, topics: Iterable[int]) -> Mapping[int, Volume]:
        """Bytes of payload of these topics, where there are any; they go on as counters do."""
        return {} if self._closed else of_topics(self._programs.map, self._rows, topics, decode_volumes)

    def lost(self, topic: int, epoch: int, groups: int) -> Sequence[int]:
        """Copies for each of so many groups that the kernel did not send in this epoch; two are kept.

        Exact once no packet uses the epoch's route any more; before, copies on their way may be in it.
        """
        if self._closed:
            return [0] * groups
        return lost_of(self._programs.map("copies"), epoch_row(self._rows.of[topic], epoch), groups)

    def leave_out(self, towards: frozenset[tuple[str, str | None]]) -> None:
        """Have what is installed after this leave out members there that no frame gets to."""
        self._left_out = towards

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop when facts that a wanted route rests on changed."""
        self._callbacks.append(callback)

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Frames the kernel lost behind the redirect: by interface and errno name; empty if none are known.

        ``ENOBUFS``: the device's ring was full. Not counted where the status says so.
        """
        if self._closed or self._drops is None:
            return {}
        return self._drops.read({index: each.name for index, each in self._facts.interfaces.items()})

    def latency(self, topics: Iterable[int]) -> Mapping[int, Latency]:
        """How long the kernel took for events of these topics; also before, by brokers that measured."""
        if self._closed or not self._programs.measures:
            return {}
        return measured(self._programs.map(LATENCY), self._rows, topics)

    def measure_anew(self, topics: Iterable[int]) -> None:
        """What was measured of these topics so far is others'; none of them has a route."""
        if not self._closed and self._programs.measures:
            measure_anew(self._programs.map(LATENCY), self._rows, topics)

    @property
    def outlives(self) -> bool:
        """Whether all this is pinned, and so goes on without this process if it is to."""
        return self._programs.pinned

    async def close(self, *, keep: bool = False) -> None:
        """Detach and release everything; ``keep`` leaves what is pinned in force. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        keep = keep and self._programs.pinned
        with contextlib.ExitStack() as stack:
            stack.callback(self._ownership.close, keep=keep)
            stack.callback(self._threads.shutdown, wait=False)
            stack.callback(self._programs.close, keep=keep)
            stack.callback(self._fanouts.close)
            if self._drops is not None:
                stack.callback(self._drops.close)
            held = (self._tickets, self._topics, self._places, self.journals, self._pulse, self._trigger)
            for each in held:
                stack.callback(each.close)
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.wait([self._watcher])
            await self._follower.close()
            await self._turns.over()  # an update under way still needs the maps

    # ---- planning ---------------------------------------------------------------------------------

    async def _plan(
        self, routes: Sequence[Route], there: Sequence[frozenset[Destination] | Refusal]
    ) -> list[_Judged]:
        """The plans by the facts at hand, or by new ones if they lack a destination."""
        why = ""
        # Of thousands that lead to the same it is asked once.
        every = {id(to): to for to in there if not isinstance(to, Refusal)}.values()
        if lacking := {each for to in every for each in self._facts.lacks(to)}:
            try:
                await self._look_for(lacking)
            except Unavailable as error:
                why = one_line(error)
        at_once = [
            to if isinstance(to, Refusal) else Refusal(why) if why and self._facts.lacks(to) else None
            for to in there
        ]
        judged = self._judge_all(compress(routes, (each is None for each in at_once)), self._facts)
        return [next(judged) if each is None else each for each in at_once]

    def _judge(self, route: Route, facts: Facts) -> _Judged:
        return next(self._judge_all((route,), facts))

    def _judge_all(self, routes: Iterable[Route], facts: Facts) -> Iterator[_Judged]:
        """What is planned of each; what is the same of all of them is looked at once."""
        programs, why = self._programs, ""
        if not programs.interfaces:
            why = "no interface carries the program"
        elif found := guarded(facts.policies, programs.listen, self._port):
            why = f"what comes in for the data port: {found}"
        elif forbids := self._firewall.forbids:
            why = f"what comes in for the data port is {forbids}"
        means = Means(programs.native, programs.no_broadcast, self._no_clone, self._port)
        for route in routes:
            topic = route.topic.id
            if refused := why or self.journals.refusal(topic):
                yield Refusal(refused)
                continue
            own = "" if means.no_broadcast else self._no_broadcast.get(topic, "")
            given = replace(means, no_broadcast=own) if own else means
            yield self._planner.plan(route, facts, given, self._left_out)

    def _know(self, facts: Facts) -> bool:
        """Go by these facts from now on; whether they contradict those before."""
        before, self._facts = self._facts, facts
        if not (contradicts := facts.contradicts(before)):
            self._planner.agree(before, facts)
        return contradicts

    async def _look_for(self, wanted: set[Destination]) -> None:
        """Have the facts of these destinations, too."""
        async with self._reading:
            lacking = self._facts.lacks(wanted)
            if not lacking:
                return  # somebody asked before
            more = await self._in_thread(self._survey.extend, self._facts, lacking, self._port)
            if more is None:
                contradicted = await self._look_now()
            else:
                contradicted = self._know(more)
            if contradicted:
                # Other topics' routes rest on it, too, and of what is known by now no event is heard.
                self._on_network(True)

    async def _look_at_neighbours(self) -> None:
        """Read anew which MAC each has, if any."""
        async with self._reading:
            self._know(await self._in_thread(read_neighbours, self._facts))

    def _on_network(self, more: bool) -> None:
        self._more_changed |= more
        self._unread |= more
        self._sources.anew |= more
        self._changed.set()

    async def _look(self) -> None:
        """Read the facts anew, for every destination of a wanted route."""
        async with self._reading:
            self._more_changed = False
            await self._look_now()

    async def _look_now(self) -> bool:
        native, refused = self._programs.native, dict(self._refused)
        wanted = self._wanted.destinations()
        facts = await self._in_thread(self._survey.read, wanted, native, refused, self._port)
        for ifindex in refused:
            del self._refused[ifindex]
        return self._know(facts)

    async def _follow(self) -> bool:
        return await self._in_thread(self._follow_now, self._facts)

    def _followed(self, changed: bool) -> None:
        unseen, self._unseen = self._unseen, self._resources.unseen(self._facts)
        if changed:
            self._no_clone = ""
        if changed or self._outdated() or unseen != self._unseen:
            self._tell()

    def _follow_now(self, facts: Facts) -> bool:
        """See to interfaces that went away or came back, and to addresses; whether any did."""
        changed = self._resources.follow(facts)
        self._resources.pin_late(self._drops)
        if changed:
            self._ownership.tell(self._programs.interfaces)
            if self._drops is not None:
                self._drops.watch(self._programs.interfaces.values())
        return changed

    async def _watch(self) -> None:
        """Look again after every change and every now and then; tell the broker if a plan differs."""
        while True:
            await self._until_something()
            event = self._changed.is_set()
            if event and self._more_changed:
                await self._changed.settle(_QUIET, _MOST)
            self._changed.clear()
            try:
                if event and not (self._more_changed or self._refused or self._programs.restless):
                    await self._look_at_neighbours()
                else:
                    await self._look_at_all(first_resolve=not event)
                # Also where nothing is new: a route may have been on its way by what was known before.
                if self._outdated():
                    self._tell()
                self._trouble.gone()
            except Unavailable as error:
                self._trouble(
                    f"the fast path's routes stay as they are until the next look: {one_line(error)}"
                )
            except Exception as error:  # noqa: BLE001 - logged in full; it must not end the watch
                # Whatever it was, a fast path that stops looking would forward to nowhere.
                self._trouble(f"the fast path could not check its routes: {one_line(error)}", trace=True)
            await asyncio.sleep(_SPACING)

    async def _look_at_all(self, *, first_resolve: bool) -> None:
        if first_resolve:
            await self._resolve(self._wanted.neighbours(self._facts))
        await self._look()
        self._follower.due()
        self._unread = self._more_changed
        await self._in_thread(self._kernel.mend, self._facts.interfaces.keys())
        if self._outdated():
            self._tell()
        await self._in_thread(self._firewall.look)

    async def _until_something(self) -> None:
        """Wait for a change, for something that programs have noticed, or until it is time."""
        for _ in range(round(_REFRESH / _ALERT)):
            await self._changed.wait(until_next(_ALERT))
            if self._sources.due:
                await self._in_thread(self._sources.settle, self._programs.listen)
            if self._changed.is_set() or self._programs.restless or self._losing():
                return

    def _losing(self) -> bool:
        """Whether frames were lost since the last time because interfaces take none; keeps in mind which."""
        if self._drops is None or not self._programs.native:
            return False
        self._refused |= self._drops.refused_anew()
        return bool(self._refused)

    def _outdated(self) -> bool:
        """Whether some route would be planned otherwise now.

        Where all that plans are made of is as it was when none would be, none is looked at: they are many.
        """
        made_of = self._judges_by()
        if made_of == self._judged_by:
            return False
        plans = self._wanted.plans.values()
        judged = self._judge_all((route for route, _ in plans), self._facts)
        outdated = any(now != plan for now, (_, plan) in zip(judged, plans, strict=True))
        self._judged_by = () if outdated else made_of
        return outdated

    def _judges_by(self) -> tuple[object, ...]:
        """All that plans are made of, but for routes, and copies that could not be had."""
        carried = ((each.ifindex, each.link.mode) for each in self._programs.attachments if each.link)
        return self._facts, self._firewall.forbids, self._no_clone, self._left_out, *carried

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()

    async def _resolve(self, neighbours: Iterable[tuple[int, str]]) -> None:
        # What cannot be resolved stays refused, and the refusal's reason already says so.
        if new := self._resolving.due(neighbours, self._loop.time()):
            with contextlib.suppress(Unavailable):
                await self._in_thread(resolve_neighbours, new)

    # ---- the kernel's side ------------------------------------------------------------------------

    async def _put(self, routes: Sequence[Route], facts: Facts, plans: Sequence[_Judged]) -> list[_Judged]:
        """Swap the routes in; then no packet uses older ones. What came of each."""
        claimed = [
            each if isinstance(each, Refusal) else await self._claim(route, facts, each)
            for route, each in zip(routes, plans, strict=True)
        ]
        errors = iter(await self._swaps.put([each for each in claimed if not isinstance(each, Refusal)]))
        return [
            each if isinstance(each, Refusal)
            else each[0] if (error := next(errors)) is None
            else Refusal(f"the kernel refused the route: {one_line(error)}")
            for each in claimed
        ]  # fmt: skip

    async def _claim(self, route: Route, facts: Facts, plan: Plan) -> tuple[Plan, Claim] | Refusal:
        """What the plan takes, or another one if this one cannot be had."""
        if plan.way is Way.CLONE or (plan.way is Way.BROADCAST and self._programs.generic):
            try:
                await self._in_thread(self._programs.clone)
            except Unavailable as error:
                self._no_clone = one_line(error)
                if plan.way is Way.CLONE:
                    judged = self._judge(route, facts)
                    assert isinstance(judged, Refusal), "there is no third way"
                    return judged
        claim = self._kernel.take(plan)
        if isinstance(claim, Claim):
            return plan, claim
        if plan.way is not Way.BROADCAST:
            return Refusal(claim)
        self._no_broadcast[plan.topic] = claim
        judged = self._judge(route, facts)
        return await self._claim(route, facts, judged) if isinstance(judged, Plan) else judged

    async def _take_out(self, topic: int) -> None:
        if self._kernel.knows(topic):
            await self._in_thread(self._kernel.delete, topic)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._threads, function, *arguments)
