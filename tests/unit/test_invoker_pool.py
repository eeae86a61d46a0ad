"""The invocations of a function: their account in any order, turns, retries, ages, deadlines."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tempos import Quality
from tempos_invoker.core.account import CONDITIONS, Account
from tempos_invoker.core.invocation import Arrived, Invocation, Outcome, StepQueue
from tempos_invoker.core.pool import AHEAD, GRACE, MOST_AHEAD, NO_WORKER_AFTER, Pool
from tempos_invoker.core.step import Step
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Condition

TIMEOUT = 1.0


def a_step(name: str = "s", **more: Any) -> Step:
    return Step("w", name, "f", Quality.BQ, "t", f"w/{name}", **more)


def an_event(
    number: int, now: float = 0.0, body: bytes = b"x", sent_ns: int = 0, late_ns: int = 0
) -> Arrived:
    return Arrived("t", body, 1, number, sent_ns, sent_ns + late_ns, now)


def a_pool(*workers: int, **step: Any) -> tuple[Pool, StepQueue]:
    pool = Pool("f", TIMEOUT, lambda: 0.5, 0.0)
    queue = pool.open(a_step(**step), Account())
    for worker in workers:
        pool.worker_up(worker)
    return pool, queue


def done(ticket: int, output: bytes = b"", condition: int = 0, took: float = 0.0, flags: int = 0) -> Answer:
    return Answer(ticket, condition, output, 0, int(took * 1e9), flags)


def ends(pool: Pool) -> list[tuple[int, str]]:
    """Sequence and condition of what has ended; what succeeded is settled."""
    told = []
    for outcome in pool.outcomes():
        if not outcome.condition:
            pool.settle(outcome.invocation)
        told.append((outcome.invocation.event.sequence, outcome.condition))
    return told


def given(pool: Pool, now: float) -> dict[int, list[int]]:
    return {worker: [each.event.sequence for each in batch] for worker, batch in pool.hand_out(now)}


def quick(pool: Pool, queue: StepQueue, worker: int) -> None:
    """Let the pool learn that invocations take next to nothing."""
    for number in range(40):
        invocation = pool.accept(queue, an_event(1000 + number), 0.0)
        assert pool.hand_out(0.0)
        assert pool.answer(worker, done(invocation.ticket), 0.0)
    ends(pool)


# What happens in any order


class AnyOrder(RuleBasedStateMachine):
    """Events, workers, answers, kills, time and changes of steps, as they come."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.now = 100.0
        self.random = random.Random(seed)
        self.pool = Pool("f", TIMEOUT, self.random.random, self.now)
        if seed % 2:
            # As if all had been quick so far: several at a hand.
            self.pool._takes = 0.0
        self.queues = [
            self.pool.open(a_step("a", queue=4, retries=2, backoff=0.2, result="r"), Account()),
            self.pool.open(a_step("b", queue=3, max_age=1.5), Account()),
        ]
        self.everything = list(self.queues)
        # By id, for tickets change.
        self.accepted: dict[int, Invocation] = {}
        self.ended: dict[int, str] = {}
        self.hands: dict[int, list[Invocation]] = {}
        self.publishing: list[Outcome] = []
        self.workers = 0

    def collect(self) -> None:
        for outcome in self.pool.outcomes():
            which = id(outcome.invocation)
            if outcome.condition:
                assert which not in self.ended
                assert outcome.condition in CONDITIONS
                self.ended[which] = outcome.condition
            else:
                self.publishing.append(outcome)

    @rule(which=st.integers(0, 5), large=st.booleans())
    def event(self, which: int, large: bool) -> None:
        if not self.queues:
            return
        body = bytes(frames.LARGEST_BODY + 1) if large and which == 0 else b"x"
        queue = self.queues[which % len(self.queues)]
        invocation = self.pool.accept(queue, an_event(which, self.now, body), self.now)
        self.accepted[id(invocation)] = invocation
        self.collect()

    @rule(notes=st.booleans())
    def worker_comes(self, notes: bool) -> None:
        self.workers += 1
        self.pool.worker_up(self.workers, notes=notes)
        self.hands[self.workers] = []

    @rule()
    def hand_out(self) -> None:
        for worker, batch in self.pool.hand_out(self.now):
            assert batch
            self.hands[worker] += batch
        self.collect()

    @rule(
        which=st.integers(0, 9), condition=st.sampled_from([*Condition, 77]), took=st.sampled_from([0, 0.3])
    )
    def answer(self, which: int, condition: int, took: float) -> None:
        busy = [worker for worker, hand in self.hands.items() if hand]
        if busy:
            worker = busy[which % len(busy)]
            # What it was only to note before, it has done by then.
            hand = self.hands[worker]
            quiet = [*(each.quiet for each in hand[:-1]), False].index(False) if which % 2 else 0
            self.noted(worker, quiet)
            invocation = self.hands[worker].pop(0)
            if invocation.quiet:
                condition = condition or Condition.ERROR
            assert self.pool.answer(worker, done(invocation.ticket, b"o", condition, took), self.now)
            assert not self.pool.answer(worker, done(invocation.ticket), self.now)
            self.collect()

    def noted(self, worker: int, count: int) -> int:
        """So many of its calls have succeeded, which it only notes; gives the ticket of the last."""
        ticket = 0
        for _ in range(count):
            invocation = self.hands[worker].pop(0)
            assert invocation.quiet
            assert id(invocation) not in self.ended
            self.ended[id(invocation)] = ""
            ticket = invocation.ticket
        return ticket

    @rule(which=st.integers(0, 9))
    def note(self, which: int) -> None:
        quiet = [worker for worker, hand in self.hands.items() if hand and hand[0].quiet]
        if quiet:
            worker = quiet[which % len(quiet)]
            hand = self.hands[worker]
            most = [*(each.quiet for each in hand), False].index(False)
            done = self.noted(worker, 1 + which % most)
            self.pool.noted(worker, done, 0, hand[0].ticket if hand else 0, self.now, self.now)

    @rule(which=st.integers(0, 9))
    def publish(self, which: int) -> None:
        if self.publishing:
            outcome = self.publishing.pop(which % len(self.publishing))
            condition = "unpublished" if which == 0 else ""
            self.pool.settle(outcome.invocation, condition, "no way")
            self.pool.settle(outcome.invocation)
            if not condition:
                self.ended[id(outcome.invocation)] = ""
            self.collect()

    @rule(which=st.integers(0, 9))
    def worker_dies(self, which: int) -> None:
        if self.hands:
            worker = sorted(self.hands)[which % len(self.hands)]
            del self.hands[worker]
            self.pool.worker_gone(worker, "was killed", self.now)
            self.collect()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.2, 11.0]))
    def time_goes(self, seconds: float) -> None:
        self.now += seconds
        for worker in self.pool.late(self.now):
            assert self.hands.pop(worker)
            self.pool.worker_gone(worker, "was killed", self.now)
        self.collect()

    @rule(which=st.integers(0, 9))
    def retire(self, which: int) -> None:
        if self.hands:
            self.pool.retire(sorted(self.hands)[which % len(self.hands)])

    @rule()
    def step_goes(self) -> None:
        if len(self.queues) > 1:
            self.pool.close(self.queues.pop())

    @rule()
    def step_comes(self) -> None:
        if len(self.everything) < 5:
            self.queues.append(self.pool.open(a_step("c", queue=2, retries=1), Account()))
            self.everything.append(self.queues[-1])

    @rule()
    def stop(self) -> None:
        self.pool.stop("told to")
        self.collect()

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        balance = self.pool.balance()
        assert balance.document()["drift"] == 0
        assert balance.running == sum(map(len, self.hands.values())) + len(self.publishing)
        assert balance.waiting == len(self.accepted) - len(self.ended) - balance.running
        assert self.pool.account.accepted == len(self.accepted)
        for queue in self.everything:
            assert queue.account.drift(queue.waiting, queue.running) == 0
            assert len(queue.ready) <= queue.step.queue + 4 * MOST_AHEAD
        # A closed queue that has nothing left is forgotten, no other is.
        assert set(self.pool.queues) >= set(self.queues)
        assert all(queue.waiting or queue.running for queue in set(self.pool.queues) - set(self.queues))

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.stop("the end")
        self.pool.stop_running("the end", self.now)
        self.publishing.clear()
        self.collect()
        assert self.pool.is_empty
        assert self.ended.keys() == self.accepted.keys()


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# One thing at a time


def test_what_a_dead_worker_had_not_begun_is_next_and_costs_no_attempt() -> None:
    pool, queue = a_pool(1)
    quick(pool, queue, 1)
    for number in range(5):
        pool.accept(queue, an_event(number), 0.0)
    assert given(pool, 0.0) == {1: [0, 1, 2, 3, 4]}
    pool.accept(queue, an_event(5), 0.0)
    pool.worker_gone(1, "was killed by SIGKILL", 0.1)
    assert ends(pool) == [(0, "crash")]
    pool.worker_up(2)
    assert given(pool, 0.2) == {2: [1, 2, 3, 4, 5]}
    assert not any(each.tries for each in pool._workers[2].at_hand)


def test_ahead_only_while_it_is_quick_and_shared_among_workers() -> None:
    pool, queue = a_pool(1)
    for number in range(3):
        pool.accept(queue, an_event(number), 0.0)
    # Nobody knows yet how long one takes.
    assert given(pool, 0.0) == {1: [0]}
    pool.stop("")
    pool.stop_running("", 0.0)
    ends(pool)
    quick(pool, queue, 1)
    pool.worker_up(2)
    for number in range(8):
        pool.accept(queue, an_event(number), 0.0)
    assert given(pool, 0.0) == {1: [0, 1, 2, 3], 2: [4, 5, 6, 7]}
    first = pool._workers[1].at_hand[0]
    pool.answer(1, done(first.ticket, took=20 * AHEAD), 0.0)
    for number in range(40):
        pool.accept(queue, an_event(100 + number), 0.0)
    assert given(pool, 0.0) == {}


def test_steps_take_turns() -> None:
    pool, first = a_pool(1)
    quick(pool, first, 1)
    second = pool.open(a_step("other"), Account())
    for number in range(4):
        pool.accept(first, an_event(number), 0.0)
    for number in range(10, 12):
        pool.accept(second, an_event(number), 0.0)
    assert sorted(given(pool, 0.0)[1][:4]) == [0, 1, 10, 11]


def test_an_attempt_that_failed_is_made_again_after_a_while_that_grows() -> None:
    pool, queue = a_pool(1, retries=2, backoff=1.0)
    invocation = pool.accept(queue, an_event(7), 0.0)
    now, waits = 0.0, []
    for _ in range(2):
        assert given(pool, now) == {1: [7]}
        pool.answer(1, done(invocation.ticket, b"no luck", Condition.ERROR), now)
        due = pool.next_timer()
        assert due is not None
        waits.append(due - now)
        assert given(pool, due - 0.001) == {}
        now = due
    assert waits == [1.0, 2.0]
    assert given(pool, now) == {1: [7]}
    pool.answer(1, done(invocation.ticket, b"no luck", Condition.ERROR), now)
    (outcome,) = pool.outcomes()
    assert (outcome.condition, outcome.reason, outcome.invocation.tries) == ("error", "no luck", 3)
    assert queue.account.retries == 2
    assert queue.account.failed == {"error": 1}


@pytest.mark.parametrize("condition", [Condition.REFUSED, Condition.TOO_LARGE])
def test_what_would_not_go_better_is_not_tried_again(condition: Condition) -> None:
    pool, queue = a_pool(1, retries=5)
    invocation = pool.accept(queue, an_event(7), 0.0)
    pool.hand_out(0.0)
    pool.answer(1, done(invocation.ticket, b"", condition), 0.0)
    assert ends(pool) == [(7, condition.name.lower())]


def test_a_full_queue_counts_those_that_wait_for_another_attempt() -> None:
    pool, queue = a_pool(1, queue=2, retries=1, backoff=5.0)
    first = pool.accept(queue, an_event(1), 0.0)
    pool.hand_out(0.0)
    pool.answer(1, done(first.ticket, b"", Condition.ERROR), 0.0)
    pool.accept(queue, an_event(2), 0.0)
    pool.accept(queue, an_event(3), 0.0)
    assert ends(pool) == [(3, "queue_full")]


def test_old_events_are_not_begun() -> None:
    second = 1_000_000_000
    pool, queue = a_pool(max_age=2.0)
    pool.accept(queue, an_event(1, 0.0, sent_ns=5 * second, late_ns=3 * second), 0.0)
    assert ends(pool) == [(1, "too_old")]
    pool.accept(queue, an_event(2, 0.0, sent_ns=5 * second, late_ns=1 * second), 0.0)
    # A publisher whose clock is ahead sends nothing that is younger than new.
    pool.accept(queue, an_event(3, 0.5, sent_ns=9 * second, late_ns=-4 * second), 0.5)
    timer = pool.next_timer()
    assert timer is not None
    assert timer <= 1.0
    pool.late(1.2)
    assert ends(pool) == [(2, "too_old")]
    pool.worker_up(1)
    assert given(pool, 2.6) == {}
    assert ends(pool) == [(3, "too_old")]


def test_a_late_worker_is_killed_once_and_its_turn_counts_from_when_it_came() -> None:
    pool, queue = a_pool(1)
    quick(pool, queue, 1)
    first = pool.accept(queue, an_event(1), 0.0)
    pool.accept(queue, an_event(2), 0.0)
    pool.hand_out(0.0)
    pool.answer(1, done(first.ticket), 0.9)
    assert pool.late(TIMEOUT + GRACE + 0.1) == []
    due = pool.next_timer()
    assert due == 0.9 + TIMEOUT + GRACE
    assert pool.late(due) == [1]
    assert pool.late(due + 1) == []
    pool.worker_gone(1, "was killed", due)
    assert ends(pool) == [(1, ""), (2, "timeout")]


def test_a_call_keeps_the_deadline_that_it_was_begun_with() -> None:
    for before, after in ((TIMEOUT, 9 * TIMEOUT), (TIMEOUT, TIMEOUT / 9)):
        pool, queue = a_pool(1)
        pool.accept(queue, an_event(1), 0.0)
        pool.hand_out(0.0)
        pool.retire(1)
        pool.timeout = after
        pool.worker_up(2)
        due = before + GRACE
        assert pool.next_timer() == due
        assert pool.late(due - 0.001) == []
        assert pool.late(due) == [1]
        assert pool.worker_gone(1, "was killed", due), "it was late"
        (outcome,) = pool.outcomes()
        assert outcome.reason == f"not done within {before:g} s: its worker was killed"
        pool.accept(queue, an_event(2), due)
        pool.hand_out(due)
        assert pool.next_timer() == due + after + GRACE


def test_what_was_only_noted_is_known_by_the_next_answer_and_by_the_notes() -> None:
    pool, queue = a_pool()
    pool.worker_up(1, notes=True)
    quick(pool, queue, 1)
    calls = [pool.accept(queue, an_event(number), 0.0) for number in range(4)]
    assert given(pool, 0.0) == {1: [0, 1, 2, 3]}
    assert [each.quiet for each in calls] == [True] * 4
    # The third was refused, which is told: the two before are done.
    assert pool.answer(1, done(calls[2].ticket, b"", Condition.REFUSED), 0.5)
    assert queue.account.succeeded == pool.account.succeeded == 42
    assert ends(pool) == [(2, "refused")]
    # It has begun the fourth later than it was heard of.
    pool.noted(1, 0, 0, calls[3].ticket, 0.9, 1.0)
    assert pool.late(0.8 + TIMEOUT + GRACE) == []
    assert pool.late(0.9 + TIMEOUT + GRACE) == [1]


def test_who_gets_no_more_before_it_is_heard_of_is_heard_of() -> None:
    pool, queue = a_pool()
    pool.worker_up(1, notes=True)
    # Nobody knows yet how long one takes: it has one at a time.
    first = pool.accept(queue, an_event(1), 0.0)
    assert given(pool, 0.0) == {1: [1]}
    assert not first.quiet
    pool.answer(1, done(first.ticket), 0.0)
    quick(pool, queue, 1)
    calls = [pool.accept(queue, an_event(number), 0.0) for number in range(MOST_AHEAD)]
    pool.hand_out(0.0)
    assert [each.quiet for each in calls] == [True] * (MOST_AHEAD - 1) + [False]


def test_without_any_worker_nobody_waits_for_ever() -> None:
    pool, queue = a_pool()
    pool.accept(queue, an_event(1, 3.0), 3.0)
    assert pool.next_timer() == NO_WORKER_AFTER
    pool.late(NO_WORKER_AFTER)
    assert ends(pool) == [(1, "no_worker")]


def test_a_worker_that_retires_finishes_what_it_has() -> None:
    pool, queue = a_pool(1)
    invocation = pool.accept(queue, an_event(1), 0.0)
    pool.hand_out(0.0)
    assert not pool.retire(1)
    pool.worker_up(2)
    pool.accept(queue, an_event(2), 0.0)
    assert given(pool, 0.0) == {2: [2]}
    assert not pool.is_done(1)
    pool.answer(1, done(invocation.ticket), 0.0)
    assert pool.is_done(1)
    assert pool.retire(2) is False
