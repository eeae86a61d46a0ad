"""The slow path as the broker drives it: in its own process, and beside it, where asked for, in a worker's.

Both have every route, for a datagram may sit in either's socket when a reload changes the class of its topic.
A change is in force once both go by it. What both count is one account.

A worker needs a socket of its own to read, and tickets and token buckets that it can share. Where one of
these is missing there is none, the broker serves SQ before BQ by itself, and the status says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tempos import Quality, Reason, Route, Topic
from tempos._awaitables import in_time
from tempos._remarks import Remark
from tempos._rows import Rows
from tempos._slots import EPOCHS, epoch_row
from tempos.errors import one_line
from tempos_broker import scheduling
from tempos_broker.account.changes import Changes
from tempos_broker.addresses import Towards
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.journal.journals import Journals
from tempos_broker.paths import RateLimits, Tickets
from tempos_broker.scheduling import Scheduling
from tempos_broker.slowpath import SlowPathServer, SlowPathStatus
from tempos_broker.slowpath.measures import Measured, together
from tempos_broker.slowpath.returns import Returns
from tempos_broker.slowpath.shell import LOOK
from tempos_broker.tickets import CountedTickets

if TYPE_CHECKING:
    from tempos_broker.shared import Estate, Share
    from tempos_broker.worker.supervisor import Held, Supervisor

log = logging.getLogger("tempos.broker.worker")


class SlowPaths:
    """The broker's own server, and the one of a worker for the strict class if there is to be one."""

    def __init__(
        self,
        server: SlowPathServer,
        *,
        topics: Sequence[Topic],
        quality: QualityConfig,
        limits: Limits,
        tickets: Tickets,
        rates: RateLimits,
        rows: Rows,
        returns: Returns | None = None,
        changes: Changes | None = None,
        journals: Journals | None = None,
    ) -> None:
        """``tickets``, ``rates``, ``returns``: what the server draws and takes from, and opens.

        ``rows``: where topics stand in the first two. ``journals``: what the server writes.
        """
        self._server = server
        self._changes = changes
        #: Those of all topics.
        self.journals = Journals() if journals is None else journals
        self._topics = {topic.id: topic for topic in topics}
        self._quality = quality
        self._limits = limits
        self._tickets = tickets
        self._rates = rates
        self._rows = rows
        self._returns = returns
        self._routes: dict[int, Route] = {}
        self._left_out: frozenset[Towards] = frozenset()
        #: How many groups a topic has in each of the two epochs that may have tickets drawn.
        self._groups: dict[int, int] = {}
        self._cpus: Collection[int] = ()
        self._supervisor: Supervisor | None = None
        self._estate: Estate | None = None
        self._share: Share | None = None
        self._descriptors: list[int] = []
        self._unscheduled = Remark(log, "the SQ worker runs as it was asked for")
        self._estate_descriptor = -1
        # Changes take their turns: what one replaces has to be taken over before the next one replaces it.
        self._changing = asyncio.Lock()
        self._off = "not asked for in the configuration (quality.worker_sq)"

    async def open(self) -> None:
        """Have the sockets; raises :class:`tempos.Unavailable` if they cannot be had."""
        await self._server.open()

    async def start(self) -> None:
        """Begin to serve, in this process."""
        self._cpus = scheduling.cpus_of(0)
        if refused := scheduling.pin(self._quality.cpus_bq):
            log.warning("quality.cpus_bq: the broker %s", refused)
        await self._server.start()

    async def start_worker(self) -> None:
        """Start the worker, if it was asked for: it serves when this returns, or the status says why not."""
        if not self._quality.worker_sq:
            return
        self._off = self._prepare()
        if self._supervisor is not None:
            await self._supervisor.start()
        else:
            log.warning("no SQ worker: %s", self._off)

    def say(self, datagram: bytes, endpoint: tuple[str, int], via: str | None) -> int:
        """See :meth:`..slowpath.adapter.Adapter.say`."""
        return self._server.say(datagram, endpoint, via)

    def send_now(self, topic: int, payload: bytes) -> bool:
        """Have one event go on before what waits; whether it went anywhere: it is in the journal then."""
        journal = self.journals.of.get(topic)
        return journal is not None and self._server.send_now(topic, payload, journal, self._left_out)

    def is_waiting(self, topic: int) -> bool:
        """Whether something of a topic has come to a process that has not gone on."""
        book = self._estate.book if self._estate is not None else None
        return self._server.is_waiting(topic) or (
            book is not None and book.settled(topic) < book.taken(topic)
        )

    async def swap(self, *routes: Route) -> None:
        """Make each route that of its topic; once this returns nobody draws tickets of older ones.

        What such were drawn for has left by then, so that nobody gets anything once it is told that it left.
        Before the start, too. The tickets of the new epochs are the caller's to reset before.
        """
        for route in routes:
            self._server.swap(route)
            self._routes[route.topic.id] = route
            self._groups[epoch_row(route.topic.id, route.epoch)] = len(route.groups)
        if self._supervisor is not None:
            from tempos_broker.worker.protocol import Op, route_out

            for route in routes:
                await self._supervisor.tell(Op.SWAP, {"route": route_out(route)})
        await self._server.sent()

    async def leave_out(self, towards: frozenset[Towards]) -> None:
        """Send nothing to members there from now on; what they are ticketed is lost to them, and counted."""
        self._left_out = towards
        self._server.leave_out(towards)
        if self._supervisor is not None:
            from tempos_broker.worker.protocol import Op

            await self._supervisor.tell(Op.LEAVE_OUT, {"towards": [list(each) for each in towards]})

    def make_room(self, more: int, on_full: Callable[[], None]) -> None:
        """Let so many bytes more wait in the kernel than usual; ``on_full``: a channel takes no more."""
        self._server.make_room(more, on_full)

    async def change(self, drop: Collection[int] = (), put: Sequence[Topic] = ()) -> None:
        """Serve some topics no more, then others, too, or by their present options; all else is as it is.

        Routes come with :meth:`swap`. What was drawn for those that are gone has left when this returns.
        """
        if not drop and not put:
            return
        for topic in drop:
            self._topics.pop(topic, None)
            self._routes.pop(topic, None)
            for epoch in range(EPOCHS):
                self._groups.pop(epoch_row(topic, epoch), None)
        self._topics.update((each.id, each) for each in put)
        async with self._changing:
            journals = self.journals.change(drop, put)
            self._server.change(drop, put)
            if self._supervisor is not None:
                from tempos_broker.worker.protocol import Op, journals_out, topics_out

                rows = [(each.id, self._rows.of[each.id]) for each in put]
                told = {"drop": list(drop), "topics": topics_out(put), "rows": rows}
                told["journals"] = journals_out(journals)
                await self._supervisor.tell(Op.CHANGE, told, self.journals.descriptors(journals))
                # Also what a worker counted that was killed before it could hear of this.
                for topic in {*drop}.difference(each.id for each in put):
                    if self._estate is not None:
                        self._estate.measures.forget(topic)
            await self.journals.settle()
        if drop:
            await self._server.sent()

    def listen(self, topics: Sequence[Topic]) -> None:
        """Have the ports of topics that are about to be served; raises :class:`tempos.Unavailable`."""
        self._server.listen(topics)

    def let_go(self, topics: Sequence[Topic]) -> None:
        """Let go of those of topics that are not served after all."""
        self._server.let_go(topics)

    async def served(self, topic: int, patience: float) -> None:
        """Return once what has come of a topic by now has gone its way, or after so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(self._served(topic), patience)

    async def _served(self, topic: int) -> None:
        await self._server.served(topic)
        if self._estate is not None:
            book = self._estate.book
            taken = book.taken(topic)
            while book.settled(topic) < taken:
                await asyncio.sleep(LOOK)

    def counters(self, topics: Collection[int] | None = None) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason since the start, of all processes; of these topics, or of all."""
        own = self._server.counters(topics)
        if self._estate is None:
            return own
        theirs = self._estate.book.counters(topics)
        return {topic: _sum(own.get(topic, {}), theirs.get(topic, {})) for topic in {*own, *theirs}}

    def under_way(self) -> int:
        """Datagrams of the run for which the worker draws tickets now, as far as it has not counted them."""
        return 0 if self._estate is None else self._estate.unfinished()

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Copies for the group of this index in the route that could not be sent; two epochs are kept."""
        own = self._server.lost(topic, epoch, group)
        return own if self._estate is None else own + self._estate.book.lost(topic, epoch, group)

    def measured(self, topic: int) -> Measured | None:
        """What both measured of a topic; None where nothing came."""
        theirs, estate = None, self._estate
        # To look into shared memory is to have it.
        if estate is not None and estate.book.taken(topic):
            theirs = estate.measures.of(topic)
        return together((self._server.measured(topic), theirs))

    def status(self) -> SlowPathStatus:
        """Of all processes together."""
        status = self._server.status()
        if self._estate is None:
            return status
        held = self._estate.held()
        strict = sum(held.get(topic.id, 0) for topic in self._topics.values() if topic.quality is Quality.SQ)
        waiting = {Quality.SQ: strict, Quality.BQ: sum(held.values()) - strict}
        return replace(
            status,
            received=status.received + self._estate.book.received,
            queued=status.queued + sum(held.values()),
            classes={
                quality: replace(each, queued=each.queued + waiting[quality])
                for quality, each in status.classes.items()
            },
        )

    def worker(self) -> dict[str, Any]:
        """The worker as JSON values; what its process has is asked of the kernel now."""
        document: dict[str, Any] = {"state": "off", "reason": self._off, "pid": None}
        if self._supervisor is not None:
            status = self._supervisor.status
            document = {"state": status.state.value, "reason": status.reason, "pid": status.pid}
            if status.pid is not None and status.scheduling is not None:
                document |= _asked_again(status.pid, status.scheduling)
            document |= {**(status.told or {}), "started": status.started, "lost": status.lost}
            document["unsent"] = status.unsent
        return {**document, "broker_cpus": list(scheduling.cpus_of(0))}

    async def close(self) -> None:
        """Serve what has come, by both, then let go of the sockets; safe to call twice. Counts stay."""
        self._server.shut()
        if self._supervisor is not None:
            await self._supervisor.close()
            # What it has left unread is served here.
            self.take_over()
        await self._server.close()
        self.journals.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    # What the supervisor asks for.

    def set_up(self) -> Mapping[str, Any]:
        from tempos_broker.worker.protocol import SetUp

        assert self._share is not None, "prepared before it is supervised"
        return SetUp(
            adapter=self._server.status().adapter,
            sockets=tuple(self._server.descriptors()),
            estate=self._estate_descriptor,
            share=self._share,
            quality=self._quality,
            limits=self._limits,
            topics=tuple(self._topics.values()),
            rows=self._rows.given(),
            routes=tuple(self._routes.values()),
            left_out=tuple(self._left_out),
            returns=None if self._returns is None else (self._returns.key, self._returns.data_port),
            journals=self.journals.handed(),
        ).to_fields()

    def descriptors(self) -> Sequence[int]:
        return self.journals.descriptors(self.journals.handed())

    def hand_over(self) -> None:
        cpus = {*(self._quality.cpus_sq or self._cpus), *scheduling.cpus_of(0)}
        self._server.serve({Quality.BQ}, beside=len(cpus) == 1)

    def take_over(self) -> None:
        self._server.serve(tuple(Quality))

    def settle(self) -> Held:
        from tempos_broker.shared import finish_run, write_off
        from tempos_broker.worker.supervisor import Held

        assert self._estate is not None, "prepared before it is supervised"
        unsent = self._estate.unsent()
        self.journals.mend()
        tickets = self._tickets
        uncounted = tickets.uncounted if isinstance(tickets, CountedTickets) else tickets
        done = finish_run(
            self._estate,
            tickets,
            uncounted,
            lambda topic, epoch: self._groups.get(epoch_row(topic, epoch), 0),
        )
        return Held(done + write_off(self._estate), unsent)

    # The preparations.

    def _prepare(self) -> str:
        """Make ready for a worker; gives why there can be none, or nothing."""
        status = self._server.status()
        if not self._server.descriptors():
            return f"SQ and BQ share the data socket ({status.sockets_reason})"
        try:
            from tempos_broker.shared import Estate, Share, Shareable, anonymous
            from tempos_broker.worker.process import spawner
            from tempos_broker.worker.supervisor import Supervisor
        except ImportError as error:
            return f"the compiled helper cannot be loaded: {one_line(error)}"
        if status.io == "portable":
            return f"it needs recvmmsg, but the slow path is portable: {status.reason}"
        counted = self._tickets if isinstance(self._tickets, CountedTickets) else None
        tickets: object = counted.uncounted if counted else self._tickets
        counts: object = counted.counts if counted else None
        rates: object = self._rates
        if not isinstance(tickets, Shareable) or not (counts is None or isinstance(counts, Shareable)):
            return "the ticket counters are this process's own"
        if not isinstance(rates, Shareable):
            return "the token buckets are this process's own"
        timed = self._quality.latency
        memory = anonymous("tempos-worker", Estate.size(self._rows, timed=timed))
        self._estate_descriptor = self._owned(memory, copy=False)
        self._estate = Estate(self._estate_descriptor, self._rows, timed=timed)
        self._estate.begin()
        self._share = Share(
            self._owned(tickets.descriptor),
            tickets.stride,
            -1 if counts is None else self._owned(counts.descriptor),
            0 if counts is None else counts.stride,
            self._owned(rates.descriptor),
            rates.stride,
            getattr(rates, "clock_offset", 0),
        )
        self._supervisor = Supervisor(spawner(self._inherited), self, self._schedule, changes=self._changes)
        return ""

    def _owned(self, descriptor: int, *, copy: bool = True) -> int:
        """A descriptor that stays what it is for as long as a worker may be started."""
        mine = os.dup(descriptor) if copy else descriptor
        self._descriptors.append(mine)
        return mine

    def _inherited(self) -> list[int]:
        return [*self._descriptors, *(each for pair in self._server.descriptors() for each in pair)]

    def _schedule(self, pid: int, serves: bool) -> Scheduling:
        quality = self._quality
        cpus = quality.cpus_sq or self._cpus
        given = scheduling.give(pid, quality.priority_sq if serves else 0, cpus, quality.cpus_sq)
        if serves and quality.priority_sq and (given.policy, given.priority) != ("fifo", quality.priority_sq):
            self._unscheduled(f"the SQ worker: {given.reason}")
        elif serves:
            self._unscheduled.gone()
        return given


def _sum(one: Mapping[Reason, int], other: Mapping[Reason, int]) -> dict[Reason, int]:
    return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in {*one, *other}}


def _asked_again(pid: int, given: Scheduling) -> dict[str, Any]:
    try:
        now = asdict(scheduling.read(pid, given.reason))
    except ProcessLookupError:
        # It has just ended; the supervisor is about to hear of it.
        return {}
    return {key: list(value) if key == "cpus" else value for key, value in now.items() if key != "reason"}
