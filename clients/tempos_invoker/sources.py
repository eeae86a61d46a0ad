"""Where events come from: a subscriber for each step, a member of one group.

Rules: a source is opened again and again until it is; whatever comes is accepted by the step that it feeds
just then; when it is closed, what was on its way is accepted, too. One that was killed comes back as the
member that it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempos import Event, LocalError, Subscriber, TemposError
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos.receiving.loan import Borrower, Loan, reads_single, redelivers
from tempos_invoker.core.invocation import Arrived, StepQueue, new_arrived
from tempos_invoker.deploy.model import BrokerAt
from tempos_invoker.deploy.ports import Ports
from tempos_invoker.turns import CHUNK, Turns
from tempos_invoker.workers.team import Team

#: Seconds between two tries to open, at first and at most; and for what is on its way when it is closed.
FIRST_WAIT, LONGEST_WAIT, PATIENCE = 0.2, 10.0, 5.0
#: Seconds that a port which this had before may be taken, before another one will do.
FREED_WITHIN = 1.0
#: Seconds between two looks whether a function was given all that was taken.
GIVEN_EVERY = 0.002

log = logging.getLogger("tempos.invoker")


@dataclass(slots=True)
class Target:
    """What a source feeds: a step's queue, and the team that serves it."""

    team: Team
    queue: StepQueue


@dataclass(frozen=True, slots=True)
class Place:
    """What makes a source another one. ``member`` counts those of this group that are here."""

    broker: BrokerAt
    topic: str
    group: str
    member: int = 0


class Source:
    """A member of ``place.group`` for ``place.topic``, a name or a filter."""

    def __init__(self, place: Place, ports: Ports, turns: Turns) -> None:
        self.place = place
        self._ports = ports
        self._turns = turns
        self.target: Target | None = None
        self.subscriber: Subscriber | None = None
        #: Why it is not open, "" if it is.
        self.fault = "not opened yet"
        self._task: asyncio.Task[None] | None = None
        self._remark = Remark(log, f"{place.topic}: joined")
        self._untold = 0
        # Whether it is to take more events in soon, and how many turns it has left to others since.
        self._goes_on = False
        self._turns_left = 0

    async def open(self) -> None:
        """Join; raises :class:`TemposError`. Nothing is taken before :meth:`feed`."""
        place = self.place
        known = self._ports.of(place.broker, place.topic, place.group, place.member)
        end = time.monotonic() + FREED_WITHIN
        while True:
            try:
                subscriber = await self._joined(known)
                break
            except LocalError:
                if not known:
                    raise
                # A worker of our former self that is about to end, or somebody else has that port by now.
                if time.monotonic() >= end:
                    known = 0
                await asyncio.sleep(FIRST_WAIT)
        port = subscriber.member.port
        self._ports.keep(place.broker, place.topic, place.group, place.member, port)
        self.subscriber = subscriber
        self.fault = ""

    async def _joined(self, port: int) -> Subscriber:
        at = self.place.broker
        subscriber = Subscriber(
            at.address,
            self.place.topic,
            group=self.place.group,
            control_port=at.control_port,
            port=port,
            auth=at.auth,
            keys=at.keys,
            # What was called for before this was a member is not called for again.
            start="live",
        )
        reads_single(subscriber)
        return await subscriber.__aenter__()

    def feed(self, target: Target) -> None:
        """Give what comes to ``target`` from now on; joins first, however long that takes."""
        before, self.target = self.target, target
        if before is not None:
            before.team.reading.go_on(target.queue)
            return
        if self.subscriber is not None:
            self.subscriber.on_events(self._on_events)
        else:
            name = f"joining {self.place.topic}"
            self._task = asyncio.get_running_loop().create_task(self._join(), name=name)
            self._task.add_done_callback(self._ended)

    @property
    def is_open(self) -> bool:
        """Whether it is a member of all it asked for, as far as a broker that answers tells."""
        return self.subscriber is not None and not self.subscriber.away and not self.silence

    @property
    def silence(self) -> str:
        """For how long the broker has not answered, in words, if that is longer than a lease."""
        seconds = 0.0 if self.subscriber is None else self.subscriber.silence
        return f"the broker has not answered for {seconds:.0f} s, longer than a lease" if seconds else ""

    def told(self) -> dict[str, Any]:
        """As the status tells it."""
        if self.subscriber is None:
            return {"joined": False, "reason": self.fault}
        stats, away, silence = self.subscriber.stats, self.subscriber.away, self.silence
        return {
            "joined": not away and not silence,
            "reason": "; ".join(
                [*([silence] if silence else []), *(f"{topic}: {why}" for topic, why in away.items())]
            ),
            "topics": len(self.subscriber.topics),
            "lent": self.target is not None and self.target.team.reading.reads(self.target.queue),
            "events": stats.events,
            "missed": stats.missed,
            "queue_full": stats.queue_full,
            "overruns": stats.overruns,
        }

    async def close(self, patience: float = PATIENCE, *, hurry: bool = False) -> None:
        """Leave the group; returns when all that came has been accepted, or is told as thrown away.

        ``hurry``: nobody else needs a turn any more.
        """
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.subscriber is None:
            return
        if self.target is not None:
            await self.target.team.reading.ended(patience)
        await self.subscriber.drain(patience)
        if self.target is None:
            return
        end = time.monotonic() + patience
        while self._take():
            if time.monotonic() >= end:
                self.subscriber.discard()
                left = self.subscriber.stats.discarded_events
                log.warning("%s: no time for %d events that had come: thrown away", self.place.topic, left)
                return
            await asyncio.sleep(0)
            while not hurry and self._gives_way():
                await asyncio.sleep(0)

    async def _join(self) -> None:
        wait = FIRST_WAIT
        while self.subscriber is None:
            try:
                await self.open()
            except TemposError as error:
                self.fault = one_line(error)
                self._remark(f"{self.place.topic}: cannot join: {self.fault}")
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        self._remark.gone()
        self.subscriber.on_events(self._on_events)

    def _on_events(self) -> None:
        if not self._goes_on and (self._is_behind or self._take() or self._is_behind):
            self._go_on()

    def _go_on(self) -> None:
        self._goes_on = True
        loop = asyncio.get_running_loop()
        if self._is_behind:
            loop.call_later(GIVEN_EVERY, self._again)
        else:
            loop.call_soon(self._again)

    def _again(self) -> None:
        self._goes_on = False
        if self._is_behind or self._gives_way() or self._take() or self._is_behind:
            self._go_on()

    @property
    def _is_behind(self) -> bool:
        """Whether events wait for a function that others would get if this ended: no more are taken then.

        For who takes more has processed what it took.
        """
        assert self.target is not None, "fed before"
        assert self.subscriber is not None, "opened before"
        return bool(self.target.queue.ready) and redelivers(self.subscriber)

    def _gives_way(self) -> bool:
        assert self.target is not None, "fed before"
        gives = self._turns.gives_way(self.target.queue.step.quality, self._turns_left)
        self._turns_left = self._turns_left + 1 if gives else 0
        return gives

    def _take(self) -> int:
        """Accept a few of the events that are there; gives how many are left."""
        assert self.target is not None, "fed before"
        assert self.subscriber is not None, "opened before"
        events = self.subscriber.take(CHUNK)
        now = self.accept(events)
        left = self.subscriber.waiting
        if not left:
            self.target.team.reading.offer(self, self.target.queue, now)
            if not self._is_behind:
                self.subscriber.finished()
        return left

    def lend(self, to: Borrower) -> Loan | None:
        """Have a worker read what comes."""
        return None if self.subscriber is None else self.subscriber.lend(to)

    def accept(self, events: Sequence[Event]) -> float:
        """Take these events in; gives the time."""
        assert self.target is not None, "fed before"
        team, queue = self.target.team, self.target.queue
        accept, now = team.accept, time.monotonic()
        for event in events:
            if type(event) is Event and event.publisher is not None:
                topic, _, body, publisher, sequence, _, _, sent_ns, received_ns, _ = event
                accept(queue, new_arrived(Arrived, (
                    topic, body, publisher, sequence, sent_ns or 0, received_ns, now, None,
                )))  # fmt: skip
            else:
                accept(queue, self._arrived(event, now))
        if events:
            team.pump()
        return now

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault = one_line(error)
            log.error("%s: nothing is taken any more", self.place.topic, exc_info=error)

    def _arrived(self, event: Event, now: float) -> Arrived:
        publisher, sequence = event.publisher, event.sequence
        if publisher is None or sequence is None:
            # A raw topic tells neither: at least no two events look the same.
            self._untold += 1
            publisher, sequence = 0, self._untold & 0xFFFFFFFF
        return Arrived(
            event.topic,
            event.body,
            publisher,
            sequence,
            event.sent_ns or 0,
            event.received_ns,
            now,
            event if event.is_request else None,
        )
