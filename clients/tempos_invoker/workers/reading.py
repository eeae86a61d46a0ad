"""A worker that reads a step's data socket itself, in turns: one hop and two wake-ups less for an event.

    invoker   lends the socket and reads nothing there; takes what came into its account when it looks, a
              twenty-fifth of a second later at the latest
    worker    receives into memory that both have (:mod:`.direct`); carries out, notes and answers as ever

Rules: a datagram that is not simply one event of the step's topic is the invoker's. A turn is for a worker
that has its pool to itself, and it ends as soon as anything else is to be done: another step's event, a
request, a retry, a call that takes long, more in the socket than can be done with soon, a change of the
deployment. Until the worker surely receives no more nobody else reads, so events keep their order. What it is
noted to have done by then is accounted by runs, not event by event.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from tempos import Event
from tempos._awaitables import in_time
from tempos._remarks import Sparingly
from tempos.receiving.loan import Borrower, Loan
from tempos_invoker.core.invocation import Arrived, StepQueue, new_arrived
from tempos_invoker.core.pool import Pool
from tempos_invoker.workers import frames
from tempos_invoker.workers.direct import MOST, Broken
from tempos_invoker.workers.frames import Call
from tempos_invoker.workers.notes import ANSWERED, BEGUN, BEGUN_NS, DONE, DONE_BEGUN_NS, DONE_NS
from tempos_invoker.workers.process import WorkerProcess

#: Seconds between two looks while a call runs; those after which it takes long; that a worker has to end its
#: turn.
LOOK_EVERY, LONG_CALL, END_WITHIN = 0.01, 0.05, 1.0
#: More than the step's queue may hold wait in the socket, where they are done with in so many seconds: what
#: their calls take, and what it takes to read one.
SOON, READING = 1.0, 10e-6
#: Seconds until it is tried again where it could not be.
AGAIN = 1.0
#: Seconds between two turns, at first and at most, and those after which a turn was a long one.
FIRST_REST, LONGEST_REST, LONG_TURN = 0.05, 1.0, 0.5

log = logging.getLogger("tempos.invoker")

#: Numbers that no two turns of this process share.
_turns = itertools.count(1)


class Lender(Protocol):
    """Whose socket it is."""

    def lend(self, to: Borrower) -> Loan | None:
        """Lend it, if that can be."""
        ...

    def accept(self, events: Sequence[Event]) -> object:
        """Events that are not the worker's."""
        ...


class Owner(Protocol):
    """The team."""

    pool: Pool

    def reader(self) -> WorkerProcess | None:
        """The worker that can read itself, if the pool is its own."""
        ...

    def place(self, worker: WorkerProcess, topic: str, queue: StepQueue) -> int:
        """The number of a place, which the worker is told."""
        ...

    def pump(self) -> None:
        """Go on: something has changed."""
        ...

    def look(self) -> None:
        """See what has ended."""
        ...


class Reading:
    """The turns of a team's worker."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        #: Who has a turn, or may be receiving still.
        self.worker: WorkerProcess | None = None
        self._turn = 0
        self._began = self._not_before = 0.0
        self._rest = FIRST_REST
        self._is_ending = self._is_looking = False
        self._over = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._warn = Sparingly(log, time.monotonic)

    def offer(self, lender: Lender, queue: StepQueue, now: float) -> None:
        """Nothing waits here: give the worker a turn, if that is worth it."""
        if now < self._not_before or self.worker is not None:
            return
        worker = self._owner.reader()
        if worker is None or not self._owner.pool.may_be_read(queue):
            return
        shared = worker.share()
        loan = None if shared is None else lender.lend(Borrower(self._owner.look, self.end))
        if shared is None or loan is None:
            self._not_before = now + AGAIN
            return
        self._turn = next(_turns)
        first = self._owner.pool.begin_reading(worker.number, MOST)
        self._step = queue.step
        self._quiet = not queue.step.result
        told = {
            "topic": loan.topic,
            "first": first,
            "place": self._owner.place(worker, loan.name, queue),
            "quiet": self._quiet,
        }
        self.worker, self._shared, self._loan = worker, shared, loan
        self._lender, self._queue, self._first = lender, queue, first
        self._began, self._is_ending = now, False
        self._over.clear()
        shared.give(self._turn)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(shared.alarm, self._on_alarm)
        record = Call(self._turn, json.dumps(told).encode(), flags=frames.TURN).encode()
        if not worker.lend(record, [loan.fileno(), shared.memory, shared.alarm]):
            shared.end()
            self._finish()

    def look(self, now: float) -> None:
        """Take in what has come by now."""
        if self.worker is None or not self._shared.news or self._is_looking:
            return
        self._take(now, gone=False)

    def end(self) -> None:
        """Ask the socket back: it is read here again as soon as the worker surely receives no more."""
        if self.worker is None or self._is_ending:
            return
        self._is_ending = True
        self._shared.end()
        self.worker.send(Call(self._turn, b"", flags=frames.TURN).encode(), 0)
        if not self._shared.receives:
            self._finish()
        else:
            if self._again is not None:
                self._again.cancel()
            self._again = self._loop.call_later(END_WITHIN, self._is_stuck, self.worker)

    def go_on(self, queue: StepQueue) -> None:
        """That source feeds this queue from now on: end a turn that is for another step."""
        if self.worker is not None and (queue is not self._queue or queue.step != self._step):
            self.end()

    def reads(self, queue: StepQueue) -> bool:
        """Whether a worker reads what is for this queue."""
        return self.worker is not None and queue is self._queue

    async def ended(self, patience: float) -> None:
        """Ask the socket back, and return when it is."""
        self.end()
        if self.worker is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._over.wait(), patience)

    def on_over(self, worker: WorkerProcess, turn: int) -> None:
        """The worker says that it receives no more in this turn, and has done what it received."""
        if self.worker is worker and turn == self._turn:
            self._finish()
        else:
            # If it has only noted that, others may wait for it.
            self._owner.pump()

    def on_gone(self, worker: WorkerProcess) -> None:
        """Its process has ended."""
        if self.worker is worker:
            self._shared.end()
            self._finish(gone=True)

    def _take(self, now: float, *, gone: bool) -> None:
        worker, loan, others = self.worker, self._loan, []
        assert worker is not None, "it has a turn"
        try:
            if self._quiet:
                self._take_done(worker)
            datagrams = self._shared.take(gone=gone)
        except Broken:
            self._warn.warn("broken", "worker %d wrote where it must not: it is killed", worker.pid)
            worker.kill()
            return
        self._is_looking = True
        pool, queue, first = self._owner.pool, self._queue, self._first
        for datagram in datagrams:
            events = loan.hand_in(datagram.content, datagram.received_ns)
            if not datagram.called:
                others += events
                continue
            arrived = _arrived(events[0] if events else datagram.event(loan.topic, loan.name), now)
            pool.read(worker.number, queue, arrived, first + datagram.number, quiet=self._quiet, now=now)
        self._is_looking = False
        if others:
            self._lender.accept(others)

    def _take_done(self, worker: WorkerProcess) -> None:
        """Take in at once what came and is noted as done: of such events nobody asks which they were."""
        notes, shared, loan = worker.notes, self._shared, self._loan
        assert notes is not None, "it has been started"
        done = notes[DONE]
        took_ns = notes[DONE_NS] - notes[DONE_BEGUN_NS]
        # Behind an answer that was not read yet it may have failed.
        if done < self._first or notes[ANSWERED] > worker.answered:
            return
        while (run := shared.run(loan.topic, done - self._first)) is not None:
            if not loan.account(run.count, run.size, run.epoch, run.delivery, run.publisher, run.sequence):
                return
            shared.skip(run.count)
            self._owner.pool.read_done(self._queue, run.count, took_ns)

    def _finish(self, *, gone: bool = False) -> None:
        """The socket is read here again."""
        worker, now = self.worker, time.monotonic()
        assert worker is not None, "it had a turn"
        self._is_ending = True
        self._take(now, gone=gone)
        self._loop.remove_reader(self._shared.alarm)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._owner.pool.end_reading(worker.number)
        self.worker = None
        self._rest = FIRST_REST if now - self._began >= LONG_TURN else min(2 * self._rest, LONGEST_REST)
        self._not_before = now + self._rest
        self._loan.end()
        self._over.set()
        if not gone:
            self._owner.pump()

    def _is_stuck(self, worker: WorkerProcess) -> None:
        self._again = None
        if self.worker is worker:
            worker.kill()

    def _on_alarm(self) -> None:
        self._shared.silence()
        self._on_time()

    def _on_time(self) -> None:
        if self.worker is None or self._is_ending:
            return
        self._again = None
        self._owner.look()
        self._owner.pump()
        self._end_or_look_on()

    def _end_or_look_on(self) -> None:
        if self.worker is None or self._is_ending:
            return
        notes = self.worker.notes
        assert notes is not None, "it has been started"
        runs = notes[BEGUN] != notes[DONE] and self._owner.pool.has_at_hand(self.worker.number)
        late = runs and time.monotonic() - notes[BEGUN_NS] / 1e9 > LONG_CALL
        # What is done with soon had better not be refused.
        most = max(self._step.queue, int(SOON / (self._owner.pool.takes + READING)))
        if late or self._loan.is_wanted(most) or self._shared.count >= MOST // 2:
            self.end()
        elif runs and self._again is None:
            self._again = self._loop.call_later(LOOK_EVERY, self._on_time)


def _arrived(event: Event, now: float) -> Arrived:
    topic, _, body, publisher, sequence, _, _, sent_ns, received_ns, _ = event
    return new_arrived(Arrived, (topic, body, publisher, sequence, sent_ns or 0, received_ns, now, None))
