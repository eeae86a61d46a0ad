"""The invocations of one function in one quality class: who waits, which worker has what, how it ends.

Sans-IO; ``now`` is seconds of one clock that never steps. Rules:

* Each step has a bounded queue; the steps of a pool take turns. Events of a step are begun in their order,
  but for those that are tried again.
* A worker runs one at a time and in order: the first one at its hand is the one that runs. More are
  handed out ahead only as far as they take no longer together than :data:`AHEAD` seconds, by what invocations
  took lately.
* Where nobody wants the output a success is only noted in memory, which costs no wake-up, and seen when one
  looks: before more is handed out, told, or judged late. A worker that cannot get more before it is heard of
  is given no such call last.
* A worker that is late is killed. The one that ran ends as ``timeout`` or ``crash``; what it had not
  begun goes back to the head of its queue and costs no attempt.
* Every invocation that was accepted ends exactly once, as one :class:`Outcome`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tempos_invoker.core.account import RETRIED, Account, Balance
from tempos_invoker.core.invocation import Arrived, Invocation, Outcome, StepQueue
from tempos_invoker.core.step import Step
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Condition

#: Seconds that what a worker has at hand may take together, and the most invocations that it has.
AHEAD, MOST_AHEAD = 0.001, 16
#: Seconds that a worker has beyond the deadline to tell so itself.
GRACE = 0.1
#: Seconds without any worker after which nobody waits for one any more.
NO_WORKER_AFTER = 10.0
#: The longest wait before another attempt, seconds.
LONGEST_BACKOFF = 60.0
#: Seconds between two looks at what has become too old while it waits.
SWEEP = 0.5
#: How much the latest invocation counts in what one takes.
_WEIGHT = 0.2
#: As a rule an invocation takes no longer than so many times what others took, and so many seconds.
_MANY_TIMES, _SHORT = 4, 50e-6
_LARGEST = frames.LARGEST_BODY

_WORDS = {
    Condition.ERROR: "error",
    Condition.REFUSED: "refused",
    Condition.TOO_LARGE: "too_large",
    Condition.TIMEOUT: "timeout",
    Condition.CRASH: "crash",
}


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker that has said hello. ``since``: from when the first one at its hand has run.

    ``timeout``: seconds for one, which a later version may have otherwise; ``notes``: whether it can note
    what succeeded; ``reads``: whether it receives events itself.
    """

    timeout: float
    notes: bool = False
    at_hand: deque[Invocation] = field(default_factory=deque)
    since: float = 0.0
    killed: bool = False
    retiring: bool = False
    reads: bool = False

    def due(self) -> float:
        """When the first one at its hand must be over."""
        return self.since + self.timeout + GRACE


class Pool:
    """Invocations of the function ``name``.

    ``timeout``: seconds for one, at workers that come up from now on; ``random`` gives numbers from 0 to 1.
    Of workers it knows numbers; what they are is the shell's.
    """

    def __init__(self, name: str, timeout: float, random: Callable[[], float], now: float) -> None:
        self.name = name
        self.timeout = timeout
        self.account = Account()
        self.queues: list[StepQueue] = []
        self._random = random
        self._workers: dict[int, _Worker] = {}
        self._turns: deque[StepQueue] = deque()
        self._delayed: list[tuple[float, int, Invocation]] = []
        self._settling: dict[int, Invocation] = {}
        self._outcomes: deque[Outcome] = deque()
        self._tickets = 0
        # Until one has been seen: as long as a worker may have at hand altogether.
        self._takes = self._usually = AHEAD
        self._alone_since: float | None = now
        self._sweep = now

    # --- steps -------------------------------------------------------------------------------

    def open(self, step: Step, account: Account) -> StepQueue:
        """A queue for a step of this function."""
        queue = StepQueue(step, account)
        self.queues.append(queue)
        self._turns.append(queue)
        return queue

    def close(self, queue: StepQueue) -> None:
        """Nothing more comes for this queue; it is forgotten once it is empty."""
        queue.closed = True
        self._forget(queue)

    def _forget(self, queue: StepQueue) -> None:
        if queue.closed and not queue.waiting and not queue.running and queue in self._turns:
            self.queues.remove(queue)
            self._turns.remove(queue)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not any(queue.waiting or queue.running for queue in self.queues)

    def balance(self) -> Balance:
        """The account of the pool, measured in the places where invocations can be."""
        waiting = sum(len(queue.ready) for queue in self.queues) + len(self._delayed)
        running = sum(len(worker.at_hand) for worker in self._workers.values()) + len(self._settling)
        return Balance(self.account, waiting, running)

    # --- events ------------------------------------------------------------------------------

    def accept(self, queue: StepQueue, event: Arrived, now: float) -> Invocation:
        """An event has come for a step; it may end at once."""
        self._tickets += 1
        invocation = Invocation(self._tickets, queue, event)
        self.account.accepted += 1
        queue.account.accepted += 1
        step = queue.step
        if len(event.body) > _LARGEST:
            self._end(
                invocation,
                "too_large",
                f"the event has {len(event.body)} bytes, a worker takes {frames.LARGEST_BODY}",
            )
        elif step.max_age and self._is_too_old(invocation, now):
            self._end_too_old(invocation, now)
        elif len(queue.ready) + queue.delayed >= step.queue:
            self._end(invocation, "queue_full", f"{queue.waiting} events wait, {step.queue} may")
        else:
            queue.ready.append(invocation)
        return invocation

    def outcomes(self) -> Iterator[Outcome]:
        """What has ended since the last time; each is given once."""
        while self._outcomes:
            yield self._outcomes.popleft()

    def settle(self, invocation: Invocation, condition: str = "", reason: str = "") -> None:
        """The output of one that succeeded is where it belongs, or why it cannot be there."""
        if self._settling.pop(invocation.ticket, None) is None:
            return
        queue = invocation.queue
        queue.settling -= 1
        if condition:
            self._end(invocation, condition, reason)
            return
        self.account.succeeded += 1
        queue.account.succeeded += 1
        if queue.closed:
            self._forget(queue)

    # --- workers -----------------------------------------------------------------------------

    def worker_up(self, worker: int, *, notes: bool = False) -> None:
        """A worker has said hello; ``notes``: it notes what succeeded, where nobody wants the output."""
        self._workers[worker] = _Worker(self.timeout, notes)
        self._alone_since = None

    def worker_gone(self, worker: int, why: str, now: float) -> bool:
        """A worker's process has ended; ``why`` in words. Gives whether it had to be ended as late."""
        gone = self._workers.pop(worker, None)
        if gone is None:
            return False
        if not self._workers:
            self._alone_since = now
        for invocation in reversed(list(gone.at_hand)[1:]):
            invocation.queue.at_hand -= 1
            invocation.queue.ready.appendleft(invocation)
        if gone.at_hand:
            ran = gone.at_hand[0]
            ran.queue.at_hand -= 1
            ran.started_ns, ran.ended_ns = int(gone.since * 1e9), int(now * 1e9)
            if gone.killed:
                self._tried(ran, "timeout", f"not done within {gone.timeout:g} s: its worker was killed", now)
            else:
                self._tried(ran, "crash", f"its worker {why}", now)
        return gone.killed

    def retire(self, worker: int) -> bool:
        """Give a worker nothing more; whether it has nothing at hand, so that it can be let go now."""
        known = self._workers.get(worker)
        if known is None:
            return True
        known.retiring = True
        return not known.at_hand and not known.reads

    def is_done(self, worker: int) -> bool:
        """Whether a worker that retires has come to its end."""
        known = self._workers.get(worker)
        return known is None or (known.retiring and not known.at_hand and not known.reads)

    def answer(self, worker: int, answer: Answer, now: float) -> bool:
        """A worker has told how an invocation ended; False for one that it was not running."""
        known = self._workers.get(worker)
        if known is None:
            return False
        if known.notes:
            # It answers in order: what it was to note before this is done.
            self._succeed_quiet(known, answer.ticket - 1, now)
        if not known.at_hand or known.at_hand[0].ticket != answer.ticket:
            return False
        invocation = known.at_hand.popleft()
        known.since = now
        queue = invocation.queue
        queue.at_hand -= 1
        invocation.started_ns, invocation.ended_ns = answer.started_ns, answer.ended_ns
        self._took(answer.ended_ns - answer.started_ns)
        if not answer.condition:
            invocation.tries += 1
            queue.settling += 1
            self._settling[invocation.ticket] = invocation
            nothing = bool(answer.flags & frames.NOTHING)
            self._outcomes.append(Outcome(invocation, "", answer.output, "", nothing))
        else:
            try:
                condition = _WORDS[Condition(answer.condition)]
            except (ValueError, KeyError):
                condition = "error"
            self._tried(invocation, condition, answer.output.decode(errors="replace"), now)
        return True

    def noted(self, worker: int, done: int, took_ns: int, begun: int, begun_at: float, now: float) -> None:
        """A worker has noted the ticket of the last that succeeded, of the one that it began, and when."""
        known = self._workers.get(worker)
        if known is None:
            return
        if self._succeed_quiet(known, done, now):
            self._took(took_ns)
        if known.at_hand and known.at_hand[0].ticket == begun:
            known.since = begun_at

    def _succeed_quiet(self, worker: _Worker, last: int, now: float) -> bool:
        """What it was to note up to ``last`` is done; whether there was any."""
        at_hand = worker.at_hand
        before = len(at_hand)
        while at_hand and at_hand[0].ticket <= last and at_hand[0].quiet:
            invocation = at_hand.popleft()
            invocation.tries += 1
            queue = invocation.queue
            queue.at_hand -= 1
            self.account.succeeded += 1
            queue.account.succeeded += 1
            if queue.closed:
                self._forget(queue)
        if len(at_hand) == before:
            return False
        worker.since = now
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether something at a worker's hand may end without anybody being told."""
        return any(worker.at_hand and worker.at_hand[-1].quiet for worker in self._workers.values())

    def hand_out(self, now: float) -> list[tuple[int, list[Invocation]]]:
        """What to send to which workers now."""
        if self._delayed:
            self._wake(now)
        ready = 0
        for queue in self._turns:
            ready += len(queue.ready)
        given: list[tuple[int, list[Invocation]]] = []
        if not ready:
            return given
        most = MOST_AHEAD if self._takes * MOST_AHEAD <= AHEAD else max(1, int(AHEAD / self._takes))
        few = most // 2
        free = [
            (len(worker.at_hand), number, worker)
            for number, worker in self._workers.items()
            if not (worker.retiring or worker.killed or worker.reads) and len(worker.at_hand) <= few
        ]
        left = len(free)
        if left > 1:
            free.sort()
        for at_hand, number, worker in free:
            share = min(most - at_hand, -(-ready // left))
            left -= 1
            batch = self._take(share, now)
            if not batch:
                break
            ready -= len(batch)
            if not worker.at_hand:
                worker.since = now
            worker.at_hand.extend(batch)
            if worker.notes:
                for invocation in batch:
                    invocation.quiet = not invocation.queue.step.result and invocation.event.origin is None
                if ready or len(worker.at_hand) > few:
                    batch[-1].quiet = False
            given.append((number, batch))
        return given

    def _take(self, count: int, now: float) -> list[Invocation]:
        """The next invocations, at most ``count`` and no more than a message holds."""
        batch: list[Invocation] = []
        room = frames.MESSAGE
        idle = 0
        turns = self._turns
        while len(batch) < count and idle < len(turns):
            queue = turns[0]
            if not queue.ready:
                turns.rotate(-1)
                idle += 1
                continue
            invocation = queue.ready[0]
            if queue.step.max_age and self._is_too_old(invocation, now):
                queue.ready.popleft()
                self._end_too_old(invocation, now)
                continue
            room -= frames.CALL.size + len(invocation.event.body)
            if room < 0:
                break
            queue.ready.popleft()
            queue.at_hand += 1
            self._tickets += 1
            invocation.ticket = self._tickets
            batch.append(invocation)
            turns.rotate(-1)
            idle = 0
        return batch

    def _took(self, ns: int) -> None:
        """An invocation took so long."""
        took = max(0, ns) / 1e9
        self._takes += _WEIGHT * (took - self._takes)
        self._usually += _WEIGHT * (min(took, _MANY_TIMES * self._usually + _SHORT) - self._usually)

    # --- a worker that receives events itself -----------------------------------------------------

    def may_be_read(self, queue: StepQueue) -> bool:
        """Whether a worker may receive the events of a queue itself, by what waits and what one takes."""
        others = any(each is not queue and each.step.topic for each in self.queues)
        return not (others or self.has_ready or queue.closed or queue.step.max_age) and self._takes <= AHEAD

    @property
    def has_ready(self) -> bool:
        """Whether anything waits for a worker."""
        return bool(self._delayed) or any(queue.ready for queue in self.queues)

    def begin_reading(self, worker: int, most: int) -> int:
        """A worker receives at most so many events itself, and nothing else; gives the first one's ticket."""
        self._workers[worker].reads = True
        first = self._tickets + 1
        self._tickets += most
        return first

    def read(
        self, worker: int, queue: StepQueue, event: Arrived, ticket: int, *, quiet: bool, now: float
    ) -> None:
        """A worker has received an event, and carries it out in its turn; see :meth:`Invocation`."""
        known = self._workers[worker]
        self.account.accepted += 1
        queue.account.accepted += 1
        queue.at_hand += 1
        if not known.at_hand:
            known.since = now
        known.at_hand.append(Invocation(ticket, queue, event, quiet=quiet))

    def read_done(self, queue: StepQueue, count: int, took_ns: int) -> None:
        """A worker has received so many events, and noted that they succeeded; what the last of them took."""
        for account in (self.account, queue.account):
            account.accepted += count
            account.succeeded += count
        self._took(took_ns)

    @property
    def takes(self) -> float:
        """Seconds that an invocation takes as a rule; one that was kept from its core says little."""
        return self._usually

    def end_reading(self, worker: int) -> None:
        """It receives no more."""
        if (known := self._workers.get(worker)) is not None:
            known.reads = False

    def has_at_hand(self, worker: int) -> bool:
        """Whether a worker has not done all that it was given, as far as is known."""
        known = self._workers.get(worker)
        return known is not None and bool(known.at_hand)

    # --- time --------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When :meth:`late` has something to do, at the earliest."""
        due = [worker.due() for worker in self._workers.values() if worker.at_hand and not worker.killed]
        if self._delayed:
            due.append(self._delayed[0][0])
        if any(queue.waiting for queue in self.queues):
            if self._alone_since is not None:
                due.append(self._alone_since + NO_WORKER_AFTER)
            if any(queue.step.max_age and queue.waiting for queue in self.queues):
                due.append(self._sweep + SWEEP)
        return min(due, default=None)

    def is_timed(self, at: float, now: float) -> bool:
        """Whether a timer at ``at``, right for what was due before, is so for all that is due now.

        What is not decided at once is a No, and :meth:`next_timer` is to say.
        """
        if self._delayed or self._alone_since is not None:
            return False
        for queue in self.queues:
            if queue.step.max_age and queue.ready:
                return False
        return at <= now + self.timeout + GRACE

    def late(self, now: float) -> list[int]:
        """End what has waited too long; gives the workers that are to be killed, each once."""
        self._wake(now)
        if now >= self._sweep + SWEEP:
            self._sweep = now
            for queue in list(self.queues):
                while queue.ready and self._is_too_old(queue.ready[0], now):
                    self._end_too_old(queue.ready.popleft(), now)
        if self._alone_since is not None and now >= self._alone_since + NO_WORKER_AFTER:
            self._end_all_waiting("no_worker", f"none could be started for {NO_WORKER_AFTER:g} s")
        late = []
        for number, worker in self._workers.items():
            if worker.at_hand and not worker.killed and now >= worker.due():
                worker.killed = True
                late.append(number)
        return late

    def stop(self, reason: str) -> None:
        """End whatever waits; what runs may still come to its end."""
        self._end_all_waiting("stopped", reason)

    def stop_running(self, reason: str, now: float) -> None:
        """End what runs, too: its workers are about to be killed."""
        for worker in list(self._workers.values()):
            while worker.at_hand:
                invocation = worker.at_hand.popleft()
                invocation.queue.at_hand -= 1
                self._end(invocation, "stopped", reason)
        for invocation in list(self._settling.values()):
            self.settle(invocation, "stopped", reason)

    # --- ends --------------------------------------------------------------------------------

    def _tried(self, invocation: Invocation, condition: str, reason: str, now: float) -> None:
        """An attempt has failed: another one, or the end."""
        invocation.tries += 1
        step = invocation.queue.step
        if condition not in RETRIED or invocation.tries > step.retries:
            self._end(invocation, condition, reason)
            return
        wait = min(step.backoff * 2 ** (invocation.tries - 1), LONGEST_BACKOFF)
        self.account.retries += 1
        invocation.queue.account.retries += 1
        invocation.queue.delayed += 1
        heapq.heappush(self._delayed, (now + wait * (0.5 + self._random()), invocation.ticket, invocation))

    def _wake(self, now: float) -> None:
        """Those whose time has come wait like any other."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, invocation = heapq.heappop(self._delayed)
            invocation.queue.delayed -= 1
            invocation.queue.ready.append(invocation)

    def _end_all_waiting(self, condition: str, reason: str) -> None:
        while self._delayed:
            _, _, invocation = heapq.heappop(self._delayed)
            invocation.queue.delayed -= 1
            self._end(invocation, condition, reason)
        for queue in list(self.queues):
            while queue.ready:
                self._end(queue.ready.popleft(), condition, reason)

    def _is_too_old(self, invocation: Invocation, now: float) -> bool:
        limit = invocation.queue.step.max_age
        return bool(limit) and invocation.event.age(now) > limit

    def _end_too_old(self, invocation: Invocation, now: float) -> None:
        age, limit = invocation.event.age(now), invocation.queue.step.max_age
        self._end(invocation, "too_old", f"{age:.3f} s old, {limit:g} s are allowed")

    def _end(self, invocation: Invocation, condition: str, reason: str = "") -> None:
        queue = invocation.queue
        self.account.end(condition)
        queue.account.end(condition)
        if condition:
            self._outcomes.append(Outcome(invocation, condition, reason=reason))
        self._forget(queue)
