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
import errno
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar
from weakref import WeakValueDictionary

from tempos import FastPathStatus, Path, PathChoice, Quality, Reason, Route, Topic, Unavailable
from tempos._abi import Way
from tempos._awaitables import Bell, until_next
from tempos._remarks import Remark
from tempos._rows import Rows
from tempos._slots import epoch_row
from tempos.errors import one_line
from tempos.histogram import Latency
from tempos.model import Volume
from tempos_bpf.errors import BpfError
from tempos_fastpath.drops import Drops
from tempos_fastpath.journals import KernelJournals
from tempos_fastpath.layout import decode_counters, decode_volumes, lost_copies
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
from tempos_fastpath.rows import measure_anew, measured, of_topics
from tempos_fastpath.selector import attach_selector
from tempos_fastpath.sources import Sources
from tempos_fastpath.survival.pins import LATENCY
from tempos_fastpath.swaps import Swaps, waits_once
from tempos_fastpath.tickets import SharedTickets
from tempos_fastpath.topics import SharedTopics
from tempos_fastpath.words import Choices, interfaces_of, why_none, with_generic

#: Seconds between two looks at the network without an event, each of which also has the kernel confirm
#: the neighbours in use: redirected frames do not pass its own stack, so nothing else keeps them fresh.
_REFRESH = 5.0
#: Seconds between two looks at what the kernel's programs have noticed.
_ALERT = 0.25
#: Whoever sets up an interface takes several steps: seconds without one that are waited for, and at most.
_QUIET, _MOST = 0.05, 0.25
#: Seconds from one look to the next, however busy the neighbour table is.
_SPACING = 0.2
#: How often an account is read that seems to miss copies: those on their way are there a moment later.
_LOOKS = 3

T = TypeVar("T")
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
        #: Whether what is known of sources may be outdated; so is what an earlier broker knew.
        self._ask_anew = True
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
        #: Frames lost because interfaces take none, and those interfaces, until the survey knows.
        self._lost: Mapping[tuple[int, int], int] = {}
        self._left_out: frozenset[tuple[str, str | None]] = frozenset()
        self._refused: dict[int, str] = {}
        self._resolving = Resolving(_SPACING)
        self._trouble = Remark(_log, "the fast path's routes are checked against the network again")
        self._firewall = Firewall(port)
        self._no_answer = Remark(_log, "the kernel is asked of new sources again")
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
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
        self._lost = self._drops.refusals() if self._drops is not None else {}
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
        modes = [each.mode for each in interfaces if each.mode != "none"]
        if not modes:
            return FastPathStatus("none", why_none(self._programs.attachments), interfaces)
        reason = ", ".join(f"{each.name}: {each.mode} ({each.reason})" for each in interfaces)
        mode = "generic" if "generic" in modes else "native"
        _, beyond = served_now(self._resources.entrances.listen, self._facts)
        note = f"{beyond}{self._note}{self._programs.note}"
        following = self._unread or self._follower.is_behind
        more = self._lacks, self._firewall.passed_by, following
        return FastPathStatus(mode, f"{reason}{note}", interfaces, *more)

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
        """Make ``route`` the kernel's route of its topic, or remove it where the kernel cannot carry it."""
        topic = route.topic.id
        async with self._locks.get(topic) or self._locks.setdefault(topic, asyncio.Lock()):
            if self._closed:
                return PathChoice(Path.SLOW, "the fast path is closed")
            there = self._wanted.want(route)
            self._adopted.pop(topic, None)
            self._no_broadcast.pop(topic, None)
            facts, plan = await self._plan(route, there)
            planned, judged_by = plan, self._judges_by()
            if isinstance(plan, Plan):
                plan = await self._put(route, facts, plan)
            self._wanted.planned(route, plan)
            if isinstance(plan, Refusal):
                await self._take_out(topic)
                await self._resolve(plan.unresolved)
            made_of = self._judges_by()
            is_as_judged = isinstance(plan, Plan) and plan is planned and judged_by == made_of
            if not is_as_judged and self._judge(route, self._facts) != plan:
                # What could not be had is tried again with each look.
                self._judged_by = ()
                if facts is not self._facts:
                    self._changed.set()
        if isinstance(plan, Refusal):
            return PathChoice(Path.SLOW, plan.reason)
        carried = self._programs.attachments
        no_copies = self._no_clone if plan.way is Way.BROADCAST else ""
        unseen = with_generic(self._unseen, self._programs.generic, no_copies)
        return self._choices.of(plan, made_of, carried, self.status, self._facts, unseen)

    async def withdraw(self, topic: int) -> None:
        """Take the topic's route out of the kernel; its packets come up to the slow path."""
        async with self._locks.setdefault(topic, asyncio.Lock()):
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
        copies, row = self._programs.map("copies"), epoch_row(self._rows.of[topic], epoch)
        lost = [0] * groups
        for look in range(_LOOKS):
            now = lost_copies(copies.lookup_per_cpu(row) or (), groups)
            lost = [min(pair) for pair in zip(lost, now, strict=True)] if look else now
            if not any(lost):
                break
        return lost

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
            for lock in list(self._locks.values()):
                async with lock:  # an update under way still needs the maps
                    pass

    # ---- planning ---------------------------------------------------------------------------------

    async def _plan(
        self, route: Route, there: frozenset[Destination] | Refusal
    ) -> tuple[Facts, Plan | Refusal]:
        """The plan by the facts at hand, or by new ones if they lack a destination."""
        if self._planner.knows(route, self._facts):
            return self._facts, self._judge(route, self._facts)
        if isinstance(there, Refusal):
            return self._facts, there
        if lacking := self._facts.lacks(there):
            try:
                await self._look_for(lacking)
            except Unavailable as error:
                return self._facts, Refusal(one_line(error))
        facts = self._facts
        return facts, self._judge(route, facts)

    def _judge(self, route: Route, facts: Facts) -> Plan | Refusal:
        if not self._programs.interfaces:
            return Refusal("no interface carries the program")
        no_broadcast = self._programs.no_broadcast or self._no_broadcast.get(route.topic.id, "")
        if why := guarded(facts.policies, self._programs.listen, self._port):
            return Refusal(f"what comes in for the data port: {why}")
        if why := self._firewall.forbids:
            return Refusal(f"what comes in for the data port is {why}")
        if why := self.journals.refusal(route.topic.id):
            return Refusal(why)
        means = Means(self._programs.native, no_broadcast, self._no_clone, self._port)
        return self._planner.plan(route, facts, means, self._left_out)

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
        self._ask_anew |= more
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
            await self._judge_sources()
            if self._changed.is_set() or self._programs.restless or self._losing():
                return

    async def _judge_sources(self) -> None:
        """Have the kernel say of the sources that programs ask about whether it takes them."""
        anew, self._ask_anew = self._ask_anew, False
        if not anew and not self._sources.news:
            return
        listen = self._programs.listen
        try:
            await self._in_thread(functools.partial(self._sources.answer, listen, anew=anew))
            self._no_answer.gone()
        except (OSError, BpfError) as error:
            self._ask_anew = True
            self._no_answer(f"new sources take the slow path: the kernel cannot be asked: {one_line(error)}")

    def _losing(self) -> bool:
        """Whether frames were lost since the last time because interfaces take none; keeps in mind which."""
        if self._drops is None or not self._programs.native:
            return False
        before, self._lost = self._lost, self._drops.refusals()
        for (ifindex, code), frames in self._lost.items():
            if frames > before.get((ifindex, code), 0):
                self._refused[ifindex] = errno.errorcode.get(code, str(code))
        return bool(self._refused)

    def _outdated(self) -> bool:
        """Whether some route would be planned otherwise now.

        Where all that plans are made of is as it was when none would be, none is looked at: they are many.
        """
        made_of = self._judges_by()
        if made_of == self._judged_by:
            return False
        plans = self._wanted.plans.values()
        outdated = any(self._judge(route, self._facts) != plan for route, plan in plans)
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

    async def _put(self, route: Route, facts: Facts, plan: Plan) -> Plan | Refusal:
        """Swap the route in, by another way if this one cannot be had; then no packet uses an older one."""
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
        if isinstance(claim, str):
            if plan.way is not Way.BROADCAST:
                return Refusal(claim)
            self._no_broadcast[plan.topic] = claim
            judged = self._judge(route, facts)
            return await self._put(route, facts, judged) if isinstance(judged, Plan) else judged
        try:
            await self._swaps.put(plan, claim)
        except BpfError as error:
            return Refusal(f"the kernel refused the route: {one_line(error)}")
        return plan

    async def _take_out(self, topic: int) -> None:
        if self._kernel.knows(topic):
            await self._in_thread(self._kernel.delete, topic)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._threads, function, *arguments)
