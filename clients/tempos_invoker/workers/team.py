"""The workers of one function in one quality class: started, watched, replaced, given what its pool decides.

Rules: a worker is in force only once it has said hello; one that ends is replaced, after a while that grows
as long as those that follow it serve nothing, but soon where it was ended at its deadline; a new version's
workers are ready before those of the old one are given nothing more. What is decided stands in
:class:`~tempos_invoker.core.pool.Pool`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from tempos import Quality, TemposError
from tempos._awaitables import in_time
from tempos._remarks import Sparingly
from tempos.errors import one_line
from tempos_invoker.core.account import Account, Balance
from tempos_invoker.core.invocation import Arrived, Invocation, Outcome, StepQueue
from tempos_invoker.core.pool import Pool
from tempos_invoker.core.step import Step
from tempos_invoker.deploy.model import Function
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import CALL, QUIET, Answer, Call
from tempos_invoker.workers.log import FunctionLog
from tempos_invoker.workers.notes import ANSWERED, BEGUN, BEGUN_NS, DONE, DONE_BEGUN_NS, DONE_NS
from tempos_invoker.workers.process import WorkerProcess
from tempos_invoker.workers.reading import Reading
from tempos_invoker.workers.spec import specification

#: Seconds that a worker has to say hello, and to end once it may.
HELLO_WITHIN, END_WITHIN = 30.0, 3.0
#: Places (topics of steps) that workers are told; events from further ones come from nowhere.
MOST_PLACES = 65_000
#: Seconds until a worker is replaced: at first, and at most, half more or less. What waits must not end for
#: want of a worker (``NO_WORKER_AFTER``) that was not even started.
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
#: Seconds between two looks at what may be noted, where something waits for it.
LOOK_EVERY = 0.01

log = logging.getLogger("tempos.invoker")

#: Numbers that no two workers of this process share.
_numbers = itertools.count(1)


class Unfit(TemposError):
    """A function cannot be had here; the text says why."""


class Team:
    """Workers of the function ``function`` for steps of a class.

    ``scheduling`` gives what a worker's number in the team asks of the kernel; ``on_outcome`` is called with
    each invocation that has ended.
    """

    def __init__(
        self,
        function: Function,
        quality: Quality,
        function_log: FunctionLog,
        on_outcome: Callable[[Outcome], None],
        *,
        scheduling: Callable[[int], Mapping[str, Any]],
        cache: str,
    ) -> None:
        self.function = function
        self.quality = quality
        self.log = function_log
        self.pool = Pool(function.name, function.timeout, random.random, time.monotonic())
        #: How often a worker was replaced, and what is wrong with the latest, "" if nothing.
        self.restarts = 0
        self.fault = ""
        self._on_outcome = on_outcome
        self._scheduling = scheduling
        self._cache = cache
        #: All whose processes have not ended; those of the version in force; those of one that may follow it.
        self._all: dict[int, WorkerProcess] = {}
        self._workers: dict[int, WorkerProcess] = {}
        self._next: dict[int, WorkerProcess] = {}
        self._next_function = function
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._retired: set[int] = set()
        self._limits: dict[int, asyncio.TimerHandle] = {}
        self._wait = FIRST_WAIT
        self._replacing: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._places: dict[tuple[str, str, str], int] = {}
        self._closed = False
        self._idle = asyncio.Event()
        self._moved = asyncio.Event()
        self._watched = 0
        #: Those of the workers that note what succeeded.
        self._noting: dict[int, WorkerProcess] = {}
        self._warn = Sparingly(log, time.monotonic)
        self._pumping = False
        #: The turns of the worker that reads by itself.
        self.reading = Reading(self)

    # --- versions ----------------------------------------------------------------------------

    async def prepare(self, function: Function) -> None:
        """Have workers of ``function`` ready, beside those in force; raises :class:`Unfit`."""
        self._next_function = function
        waiting = []
        try:
            for _ in range(function.concurrency):
                worker = self._start(function, self._next)
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting[worker.number] = future
                waiting.append(future)
            await asyncio.gather(*waiting)
        except BaseException:
            self.abandon()
            for future in waiting:
                if future.done() and not future.cancelled():
                    future.exception()
            raise

    def abandon(self) -> None:
        """What was prepared is not wanted."""
        unwanted, self._next = self._next, {}
        for worker in unwanted.values():
            self._waiting.pop(worker.number, None)
            worker.kill()
        self._next_function = self.function

    def adopt(self) -> None:
        """What was prepared is in force from now on; the others finish what they have at hand."""
        before = list(self._workers.values())
        self._workers, self._next = self._next, {}
        self.function = self._next_function
        self.pool.timeout = self.function.timeout
        self.fault = ""
        for worker in self._workers.values():
            self._up(worker)
        for worker in before:
            self._retire(worker)
        self._fill()
        self.pump()

    def begin(self, function: Function) -> None:
        """Have ``function`` in force whether or not it can be loaded: that is tried again and again."""
        before = list(self._workers.values())
        self.function = function
        self.pool.timeout = function.timeout
        self._workers = {}
        for worker in before:
            self._retire(worker)
        self._fill()

    def resize(self, function: Function) -> None:
        """The same version with another number of workers."""
        if function.concurrency != 1:
            self.reading.end()
        self.function = function
        for worker in list(self._workers.values())[function.concurrency :]:
            del self._workers[worker.number]
            self._retire(worker)
        self._fill()

    async def close(self, patience: float = 0.0) -> None:
        """Let the workers go, and wait until they have; ``patience``: before they are killed."""
        self._closed = True
        self.reading.end()
        for handle in (self._timer, self._replacing):
            if handle is not None:
                handle.cancel()
        everyone = self._everyone()
        for worker in everyone:
            worker.finish()
        if everyone and patience:
            self._idle.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._idle.wait(), patience)
        for worker in self._everyone():
            worker.kill()
        while self._everyone():
            self._idle.clear()
            await self._idle.wait()
        for handle in self._limits.values():
            handle.cancel()

    def _everyone(self) -> list[WorkerProcess]:
        return [worker for worker in self._all.values() if worker.is_running]

    @property
    def is_ready(self) -> bool:
        """Whether all workers of the version in force have said hello."""
        up = sum(bool(worker.hello and worker.hello.get("ok")) for worker in self._workers.values())
        return up >= self.function.concurrency

    def told(self) -> list[dict[str, Any]]:
        """Each worker, as the status tells it."""
        rows = []
        for worker in self._everyone():
            hello = worker.hello or {}
            state = "starting" if worker.hello is None else "serving"
            if worker.number in self._retired:
                state = "finishing"
            rows.append(
                {
                    "pid": worker.pid,
                    "state": state,
                    "version": worker.version,
                    "scheduling": hello.get("scheduling", {}),
                }
            )
        return rows

    # --- events ------------------------------------------------------------------------------

    def open(self, step: Step, account: Account) -> StepQueue:
        """A queue for a step."""
        return self.pool.open(step, account)

    def accept(self, queue: StepQueue, event: Arrived) -> Invocation:
        """An event has come; :meth:`pump` follows after the last of several."""
        return self.pool.accept(queue, event, event.received)

    def pump(self) -> None:
        """Hand out what can be, tell what has ended, and be there when the next thing is due."""
        if self._pumping:
            # What comes of an outcome may lead here again.
            return
        self._pumping = True
        try:
            now = time.monotonic()
            self._look(now)
            if self.reading.worker is not None and self.pool.has_ready:
                self.reading.end()
            for number, batch in self.pool.hand_out(now):
                worker = self._workers[number]
                worker.send(*self._records(worker, batch, now))
            for outcome in self.pool.outcomes():
                self._on_outcome(outcome)
        finally:
            self._pumping = False
        if self._watched:
            self._moved.set()
        if self._timer is None or not self.pool.is_timed(self._timer_at, now):
            self._set_timer()

    async def emptied(self, queue: StepQueue | None = None) -> None:
        """Return when nothing waits and nothing runs, of the whole pool or of one queue."""
        self._watched += 1
        try:
            while not self.pool.is_empty if queue is None else queue.waiting or queue.running:
                self._moved.clear()
                # Of what is quiet nobody is told.
                patience = LOOK_EVERY if self.pool.is_quiet else None
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_time(self._moved.wait(), patience)
                self.look()
        finally:
            self._watched -= 1

    def settle(self, invocation: Invocation, condition: str = "", reason: str = "") -> None:
        """The output is where it belongs, or why not."""
        self.pool.settle(invocation, condition, reason)
        if not self._pumping:
            self.pump()

    def stop(self, reason: str) -> None:
        """End whatever waits."""
        self.pool.stop(reason)
        self.pump()

    def stop_running(self, reason: str) -> None:
        """End what runs, too."""
        self.look()
        self.pool.stop_running(reason, time.monotonic())
        self.pump()

    def _records(self, worker: WorkerProcess, batch: list[Invocation], now: float) -> tuple[bytes, int]:
        """A message with these calls, and how many of them are answered in any case."""
        records: list[bytes] = []
        loud = 0
        deadline = int((now + self.function.timeout * len(batch)) * 1e9)
        for invocation in batch:
            event = invocation.event
            place = self.place(worker, event.topic, invocation.queue)
            quiet = QUIET if invocation.quiet else 0
            loud += not quiet
            records.append(
                CALL.pack(
                    len(event.body),
                    quiet,
                    invocation.ticket,
                    event.publisher,
                    event.sequence,
                    event.sent_ns,
                    deadline,
                    invocation.tries + 1,
                    place,
                )
            )
            records.append(event.body)
        return b"".join(records), loud

    def place(self, worker: WorkerProcess, topic: str, queue: StepQueue) -> int:
        """The number of where an event belongs; told to the worker before the first one from there."""
        step = queue.step
        key = (topic, step.workflow, step.name)
        number = self._places.get(key)
        if number is None:
            if len(self._places) >= MOST_PLACES:
                return 0
            number = self._places[key] = len(self._places) + 1
        if number not in worker.places:
            worker.places.add(number)
            body = json.dumps(dict(zip(("topic", "workflow", "step"), key, strict=True))).encode()
            worker.send(Call(0, body, place=number, flags=frames.PLACE).encode(), 0)
        return number

    # --- what is only noted ------------------------------------------------------------------

    def _up(self, worker: WorkerProcess) -> None:
        """A worker serves from now on."""
        noting = bool(worker.hello and worker.hello.get("notes"))
        if noting:
            self._noting[worker.number] = worker
        self.pool.worker_up(worker.number, notes=noting)

    def balance(self) -> Balance:
        """The account as of now."""
        self.look()
        return self.pool.balance()

    def look(self) -> None:
        """See what has ended of which nobody is told, such as before the account is told."""
        self._look(time.monotonic())

    def reader(self) -> WorkerProcess | None:
        """The worker that can read a socket itself, if the pool is its own."""
        if len(self._workers) != 1 or self._next or self._closed or self.function.user:
            return None
        (worker,) = self._workers.values()
        able = bool(worker.hello and worker.hello.get("reads")) and worker.number in self._noting
        return worker if able and worker.number not in self._retired else None

    def _look(self, now: float) -> None:
        for worker in self._noting.values():
            notes = worker.notes
            assert notes is not None, "it has been started"
            if notes[DONE] != worker.seen:
                self._look_at(worker, now)
        self.reading.look(now)

    def _look_at(self, worker: WorkerProcess, now: float) -> None:
        if worker.number not in self._noting or (notes := worker.notes) is None:
            return
        begun, begun_ns = notes[BEGUN], notes[BEGUN_NS]
        done = notes[DONE]
        while notes[ANSWERED] > (read := worker.answered):
            # It comes first: a failure before what is done is not to be taken for a success.
            worker.read_now()
            if worker.answered == read:
                if worker.is_running:
                    return
                break
        if done != worker.seen:
            worker.seen = done
            self._wait = FIRST_WAIT
        took_ns = notes[DONE_NS] - notes[DONE_BEGUN_NS]
        # What is done has come before.
        self.reading.look(now)
        self.pool.noted(worker.number, done, took_ns, begun, begun_ns / 1e9, now)

    # --- time --------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self.pool.next_timer()
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                # It finds that it is not time yet, and is set again: cheaper than a timer for each event.
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_at = due
        self._timer = loop.call_later(max(0.0, due - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due = self.pool.next_timer()
        if due is not None and due <= time.monotonic():
            # If it was we who were late, the answers are there.
            for worker in list(self._all.values()):
                worker.read_now()
            self.look()
            for number in self.pool.late(time.monotonic()):
                self._all[number].kill()
        self.pump()

    # --- workers -----------------------------------------------------------------------------

    def on_hello(self, worker: WorkerProcess, hello: Mapping[str, Any]) -> None:
        self._limit(worker, None)
        text = one_line(str(hello.get("text") or "it did not say why"))
        future = self._waiting.pop(worker.number, None)
        if future is not None:
            if not future.done():
                if hello.get("ok"):
                    future.set_result(None)
                else:
                    future.set_exception(Unfit(text))
        elif hello.get("ok"):
            if worker.number in self._workers:
                self.fault = ""
                self._up(worker)
                self.pump()
        elif worker.number in self._workers:
            self._is_unfit(text)

    def on_answers(self, worker: WorkerProcess, answers: list[Answer]) -> None:
        now = time.monotonic()
        self.reading.look(now)
        for answer in answers:
            if not self.pool.answer(worker.number, answer, now):
                self._warn.warn("answer", "%s: an answer that nobody waits for", self.function.name)
            worker.answered = max(worker.answered, answer.ticket)
        self._wait = FIRST_WAIT
        if worker.number in self._retired and self.pool.is_done(worker.number):
            self._let_go(worker)
        self.pump()

    def on_over(self, worker: WorkerProcess, turn: int) -> None:
        self.reading.on_over(worker, turn)

    def on_gone(self, worker: WorkerProcess, why: str) -> None:
        self._limit(worker, None)
        self._all.pop(worker.number, None)
        self._next.pop(worker.number, None)
        self._retired.discard(worker.number)
        self.reading.on_gone(worker)
        self._look_at(worker, time.monotonic())
        self._noting.pop(worker.number, None)
        future = self._waiting.pop(worker.number, None)
        if future is not None and not future.done():
            future.set_exception(Unfit(f"its worker {why} before it could serve{self._last_words(worker)}"))
        if self.pool.worker_gone(worker.number, why, time.monotonic()):
            # It could serve, and had its whole time: those that follow it are not the worse for that.
            self._wait = FIRST_WAIT
        if self._workers.pop(worker.number, None) is not None and not self._closed:
            if worker.hello is None:
                self._is_unfit(f"its worker {why} before it could serve{self._last_words(worker)}")
            elif worker.hello.get("ok"):
                self._warn.warn(
                    "gone", "%s: worker %d %s; it is replaced", self.function.name, worker.pid, why
                )
            self._replace_later()
        if not self._everyone():
            self._idle.set()
        self.pump()

    def _last_words(self, worker: WorkerProcess) -> str:
        lines = [str(line["text"]) for line in self.log.lines() if line["pid"] == worker.pid]
        return f": {one_line(lines[-1])}" if lines else ""

    def _is_unfit(self, text: str) -> None:
        self.fault = text
        self._warn.warn("unfit", "%s: no worker can serve: %s", self.function.name, text)

    def _start(self, function: Function, among: dict[int, WorkerProcess]) -> WorkerProcess:
        """Start another worker; raises :class:`Unfit`."""
        taken = {worker.index for worker in among.values()}
        index = next(each for each in itertools.count() if each not in taken)
        spec = specification(function, self.quality, index, self._scheduling(index), self._cache)
        worker = WorkerProcess(next(_numbers), spec, self, self.log)
        try:
            worker.start()
        except (OSError, TemposError) as error:
            raise Unfit(f"its worker cannot be started: {one_line(error)}") from error
        self._all[worker.number] = among[worker.number] = worker
        self._limit(worker, HELLO_WITHIN)
        return worker

    def _limit(self, worker: WorkerProcess, seconds: float | None) -> None:
        """Kill it if it is not further within ``seconds``; None: it is."""
        if (handle := self._limits.pop(worker.number, None)) is not None:
            handle.cancel()
        if seconds is not None:
            self._limits[worker.number] = asyncio.get_running_loop().call_later(
                seconds, self._too_slow, worker, seconds
            )

    def _too_slow(self, worker: WorkerProcess, seconds: float) -> None:
        self._limits.pop(worker.number, None)
        if worker.hello is None:
            future = self._waiting.pop(worker.number, None)
            text = f"its worker was not ready within {seconds:g} s{self._last_words(worker)}"
            if future is not None and not future.done():
                future.set_exception(Unfit(text))
            elif worker.number in self._workers:
                self._is_unfit(text)
        worker.kill()

    def _retire(self, worker: WorkerProcess) -> None:
        self._retired.add(worker.number)
        if worker is self.reading.worker:
            self.reading.end()
        if worker.hello is None:
            worker.kill()
        elif self.pool.retire(worker.number):
            self._let_go(worker)
        elif worker.number in self._noting:
            self._look_on(worker)

    def _look_on(self, worker: WorkerProcess) -> None:
        """Let a worker that retires go as soon as it is done, of which it may not tell."""
        self._look_at(worker, time.monotonic())
        if worker.is_running and self.pool.is_done(worker.number):
            self._let_go(worker)
            self.pump()
        elif worker.is_running:
            asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_on, worker)

    def _let_go(self, worker: WorkerProcess) -> None:
        worker.finish()
        self._limit(worker, END_WITHIN)

    def _replace_later(self) -> None:
        if self._replacing is None:
            wait = self._wait * random.uniform(0.5, 1.5)
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._replacing = asyncio.get_running_loop().call_later(wait, self._replace)

    def _replace(self) -> None:
        self._replacing = None
        before = len(self._workers)
        self._fill()
        self.restarts += len(self._workers) - before

    def _fill(self) -> None:
        """Start what is missing of the version in force."""
        while len(self._workers) < self.function.concurrency:
            try:
                self._start(self.function, self._workers)
            except Unfit as error:
                self._is_unfit(str(error))
                self._replace_later()
                return
