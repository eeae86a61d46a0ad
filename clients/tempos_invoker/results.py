"""Where the outputs of functions go, and who is told of failures.

    it succeeded   its output is published on the step's result topic, unchanged. Who waits for an answer gets
                   it from the last step; a step in the middle asks the next one by its result topic and
                   passes on what comes back
    it failed      the failure is kept, published on the step's error topic, and told to who waits

Rules: an invocation has succeeded only once its output is where it belongs; what waits for a full socket or
for an answer is bounded; nothing that goes wrong here is silent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tempos import Event, EventTooBig, NoReply, ReplyError, TemposError, wire
from tempos._awaitables import DONE, TURN
from tempos._remarks import Sparingly
from tempos.errors import one_line
from tempos_invoker.core.invocation import Arrived, Outcome
from tempos_invoker.failures import Failure, Failures
from tempos_invoker.way import Way
from tempos_invoker.workers.team import Team

#: Outputs and answers that may be on their way.
MOST_UNDERWAY = 10_000
#: Seconds that a step in the middle waits for the answer of those behind it.
CHAIN_WITHIN = 30.0

log = logging.getLogger("tempos.invoker")


class Results:
    """Settles outcomes by the way to the broker that ``way`` gives."""

    def __init__(self, way: Callable[[], Way], failures: Failures) -> None:
        self.failures = failures
        #: What became of error events and answers, by what it was.
        self.counts: Counter[str] = Counter()
        self._way = way
        #: What is on its way, with the topic that it is for; "": that of no step.
        self._underway: dict[asyncio.Task[None], str] = {}
        self._warn = Sparingly(log, time.monotonic)

    async def settled(self) -> None:
        """Wait for what is on its way now."""
        if self._underway:
            await asyncio.wait(set(self._underway))

    async def arrived(self, topics: Callable[[str], bool], patience: float) -> None:
        """Wait, at most so long, for what is on its way to these topics now, and for its answers."""
        if those := {task for task, topic in self._underway.items() if topic and topics(topic)}:
            await asyncio.wait(those, timeout=patience)

    async def finish(self, patience: float) -> None:
        """Wait for what is on its way, at most so long; then it is given up."""
        if self._underway:
            await asyncio.wait(set(self._underway), timeout=patience)
        for task in set(self._underway):
            task.cancel()
        await asyncio.gather(*self._underway, return_exceptions=True)

    def on_outcome(self, team: Team, outcome: Outcome) -> None:
        """An invocation has ended; never raises."""
        try:
            if outcome.condition:
                self._failed(team, outcome)
            else:
                self._succeeded(team, outcome)
        except Exception as error:
            # Whatever it is, the others' events are not to suffer from it.
            log.exception("%s: what came of an event cannot be told", team.function.name)
            team.settle(outcome.invocation, "unpublished", one_line(error))

    # --- it succeeded ------------------------------------------------------------------------

    def _succeeded(self, team: Team, outcome: Outcome) -> None:
        invocation, origin = outcome.invocation, outcome.invocation.event.origin
        step = invocation.queue.step
        if origin is None and (outcome.nothing or not step.result):
            team.settle(invocation)
            return
        if isinstance(origin, asyncio.Future):
            if not origin.done():
                origin.set_result(outcome)
            team.settle(invocation)
            return
        waits = isinstance(origin, Event) and origin.is_request
        goes_on = bool(step.result) and not outcome.nothing
        if len(self._underway) >= MOST_UNDERWAY:
            team.settle(invocation, "unpublished", f"{MOST_UNDERWAY} outputs wait to be sent")
        elif waits and goes_on and not step.reply:
            # The step may be another one before this begins.
            self._later(self._chain(team, outcome, origin, step.result), step.result)
        else:
            steps: list[Awaitable[None]] = []
            try:
                if goes_on:
                    steps.append(self._way().publish(step.result, outcome.output))
                if waits:
                    steps.append(origin.reply(outcome.output))
                    self.counts["replies"] += 1
            except TemposError as error:
                self._close(steps)
                team.settle(invocation, "unpublished", one_line(error))
                return
            slow = [each for each in steps if each is not DONE and each is not TURN]
            if slow:
                self._later(self._settle_after(team, outcome, slow), step.result)
            else:
                team.settle(invocation)

    @staticmethod
    def _close(awaitables: list[Awaitable[None]]) -> None:
        for each in awaitables:
            if isinstance(each, Coroutine):
                each.close()

    async def _settle_after(self, team: Team, outcome: Outcome, sending: list[Awaitable[None]]) -> None:
        try:
            for each in sending:
                await each
        except TemposError as error:
            team.settle(outcome.invocation, "unpublished", one_line(error))
        except asyncio.CancelledError:
            team.settle(outcome.invocation, "stopped", "it could not be sent before the end")
            raise
        else:
            team.settle(outcome.invocation)

    async def _chain(self, team: Team, outcome: Outcome, origin: Event, topic: str) -> None:
        """Ask the next step, and pass its answer on. What it says is no failure of this step."""
        invocation = outcome.invocation
        try:
            reply = await self._way().request(topic, outcome.output, CHAIN_WITHIN)
        except ReplyError as error:
            team.settle(invocation)
            await self._answer(origin, error.body, failed=True)
        except NoReply as error:
            team.settle(invocation)
            failure = Failure.of(Outcome(invocation, "timeout", reason=one_line(error)), "", 0)
            await self._answer(origin, failure.reply(), failed=True)
        except TemposError as error:
            # It was not sent. Who waits is told as of any other failure.
            team.settle(invocation, "unpublished", one_line(error))
        except asyncio.CancelledError:
            team.settle(invocation, "stopped", "the steps behind had not answered before the end")
            raise
        else:
            team.settle(invocation)
            await self._answer(origin, reply.body, failed=False)

    # --- it failed ---------------------------------------------------------------------------

    def _failed(self, team: Team, outcome: Outcome) -> None:
        invocation = outcome.invocation
        event = invocation.event
        if isinstance(event.origin, asyncio.Future):
            # Called by hand: who called is told, and it is nobody else's business.
            if not event.origin.done():
                event.origin.set_result(outcome)
            return
        failure = self.failures.add(outcome, team.function.version)
        if topic := invocation.queue.step.error:
            self._publish_failure(topic, failure)
        if isinstance(event.origin, Event) and event.origin.is_request:
            self._later(self._answer(event.origin, failure.reply(), failed=True))

    def _publish_failure(self, topic: str, failure: Failure) -> None:
        for body in (True, False):
            try:
                sending = self._way().publish(topic, wire.encode_body(failure.envelope(body=body)))
            except EventTooBig:
                # What failed is left out, and kept here; that it failed is told.
                continue
            except TemposError as error:
                self._not_told(topic, error)
                return
            self.counts["errors_published"] += 1
            if sending is not DONE and sending is not TURN:
                self._later(self._tell(topic, failure, sending))
            return
        self._not_told(topic, EventTooBig(0, 0))

    async def _tell(self, topic: str, failure: Failure, sending: Awaitable[None]) -> None:
        try:
            try:
                await sending
            except EventTooBig:
                await self._way().publish(topic, wire.encode_body(failure.envelope(body=False)))
        except TemposError as error:
            self.counts["errors_published"] -= 1
            self._not_told(topic, error)

    def _not_told(self, topic: str, error: TemposError) -> None:
        self.counts["errors_unpublished"] += 1
        self._warn.warn("error topic", "a failure cannot be published on %s: %s", topic, one_line(error))

    async def _answer(self, origin: Event, body: object, *, failed: bool) -> None:
        """Answer who waits. It may be gone; that is counted."""
        try:
            await (origin.reply_error(body) if failed else origin.reply(body))
        except TemposError as error:
            self.counts["replies_failed"] += 1
            self._warn.warn("reply", "an answer cannot be sent: %s", one_line(error))
        else:
            self.counts["error_replies" if failed else "replies"] += 1

    def _later(self, work: Coroutine[Any, Any, None], topic: str = "") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._underway[task] = topic
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._underway.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what came of an event cannot be told", exc_info=error)


def by_hand(topic: str, body: bytes, publisher: int, sequence: int, origin: Any) -> Arrived:
    """An event that came by no topic: ``origin`` is the future of who called."""
    return Arrived(topic, body, publisher, sequence, 0, time.time_ns(), time.monotonic(), origin)
