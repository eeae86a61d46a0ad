"""Keeps a worker alive and tells it what changes; stands in for it, and replaces it, when it dies.

::

    starting --ready--> serving --died, or does not answer--> waiting --back-off--> starting

Rules kept here:

* Strict sockets are read by exactly one process at any time a person could tell: this one lets go before the
  worker begins, and takes them back at once when the worker has ended, whatever comes next.
* A change is in force once :meth:`Supervisor.tell` returns: the worker has acknowledged it, or it is dead,
  killed and waited for, and what it had begun is finished. So tickets read after that are final.
* A worker that does not answer within ``PATIENCE`` is killed: strict events come before its reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tempos import LocalError
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.scheduling import Scheduling
from tempos_broker.worker.protocol import Answer, Frames, Op, Request, answer_in, encode

log = logging.getLogger("tempos.broker.worker")

#: Seconds that an answer may take; to ``set_up``, which waits for Python to start, that is longer.
PATIENCE, START_PATIENCE = 5.0, 20.0
#: Seconds between two questions whether the worker is still there.
PING_EVERY = 1.0
#: Seconds before a worker that ended is replaced: doubled each time, as long as none served for a while.
FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
#: Seconds that a closing worker may take to send what waits.
CLOSE_PATIENCE = 1.5


class Child(Protocol):
    """A worker's process and the stream to it."""

    @property
    def pid(self) -> int: ...

    def send(self, frame: bytes) -> None:
        """To a process that has ended: no effect."""
        ...

    def send_descriptors(self, descriptors: Sequence[int]) -> None:
        """Hand these over, before the frame that is about them; to a process that has ended: no effect."""
        ...

    async def end(self) -> str:
        """Kill it if it still runs, and wait until no instruction of it is carried out; how it ended."""
        ...


#: Starts a process; the first argument gets its bytes, the second is called once when the stream ends.
Spawn = Callable[[Callable[[bytes], None], Callable[[], None]], Awaitable[Child]]


class Held(NamedTuple):
    """What a dead worker leaves.

    ``lost``: datagrams that it had taken in vain; ``unsent``: copies of others that it had not
    seen sent, some of which are lost to their groups.
    """

    lost: int
    unsent: int


class Sockets(Protocol):
    """What a supervisor does at the data sockets and at the account."""

    def set_up(self) -> Mapping[str, Any]:
        """What a worker needs at this moment, as its fields."""
        ...

    def descriptors(self) -> Sequence[int]:
        """Those of the journals that it names."""
        ...

    def hand_over(self) -> None:
        """Stop reading the strict sockets: the worker begins."""
        ...

    def take_over(self) -> None:
        """Read the strict sockets here."""
        ...

    def settle(self) -> Held:
        """Finish and count what the dead worker held; gives how much that was."""
        ...


class State(str, enum.Enum):
    """``OFF``: no worker is wanted, or there can be none."""

    OFF = "off"
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """``scheduling``: of the process ``pid``, while there is one. ``lost``, ``unsent``: as :class:`Held`."""

    state: State
    reason: str
    pid: int | None = None
    scheduling: Scheduling | None = None
    started: int = 0
    lost: int = 0
    unsent: int = 0
    told: Mapping[str, Any] | None = None


class _Over(Exception):
    """The life of a worker is over; the text says why."""


class _Life:
    """One worker, from its start to its end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.child: Child | None = None
        self.frames = Frames()
        self.pending: dict[int, asyncio.Future[Answer]] = {}
        self.serving = False
        #: Done with the reason once it has ended or must.
        self.broken: asyncio.Future[str] = loop.create_future()
        #: Set once nothing of it is left.
        self.over = asyncio.Event()

    def fail(self, reason: str) -> None:
        if not self.broken.done():
            self.broken.set_result(reason)

    def received(self, data: bytes) -> None:
        try:
            for message in self.frames.feed(data):
                answer = answer_in(message)
                if answer.error:
                    self.fail(f"it could not do what it was asked: {answer.error}")
                waiting = self.pending.pop(answer.id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except LocalError as error:
            self.fail(one_line(error))


class Supervisor:
    """One worker after the other.

    ``schedule`` gives a process its CPUs, and real time if the second argument says that it is about to
    serve: until then it only loads Python, which is nothing to hold up others for.
    """

    def __init__(
        self,
        spawn: Spawn,
        sockets: Sockets,
        schedule: Callable[[int, bool], Scheduling],
        *,
        now: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        first_wait: float = FIRST_WAIT,
        changes: Changes | None = None,
    ) -> None:
        self._log = (Changes() if changes is None else changes).of(Kind.WORKER, log)
        self._spawn = spawn
        self._sockets = sockets
        self._schedule = schedule
        self._now = now
        self._patience = patience
        self._first_wait = first_wait
        self._ids = itertools.count(1)
        self._life: _Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._closing = False
        self._status = WorkerStatus(State.STARTING, "the worker starts")
        self._started = 0
        self._held = Held(0, 0)
        self._gone = Remark(self._log, "strict events are served by an SQ worker again")
        self._fault = Remark(log, "")

    @property
    def status(self) -> WorkerStatus:
        return self._status

    async def start(self) -> None:
        """Start the first worker; returns once it serves, or it is clear that it does not yet."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="keep the SQ worker")
        await self._settled.wait()

    async def tell(self, op: Op, fields: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Have a change carried out; returns once no worker goes by what was before."""
        life = self._life
        if life is None or life.child is None:
            return
        answer = self._ask(life, op, fields, descriptors)
        if not life.serving:
            # It comes before `serve` in the stream, so it holds before the first event.
            return
        with contextlib.suppress(_Over):
            await self._answered(life, answer, self._patience)
            return
        await life.over.wait()

    async def close(self) -> None:
        """Let the worker send what it has taken, and end it; safe to call twice."""
        self._closing = True
        life = self._life
        if life is not None and life.serving:
            with contextlib.suppress(_Over):
                await self._answered(life, self._ask(life, Op.CLOSE, {}), CLOSE_PATIENCE)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._tell(State.OFF, "the broker stops")

    async def _keep(self) -> None:
        wait = self._first_wait
        while True:
            began = self._now()
            why = await self._live()
            if self._closing:
                # It was told to end, and did.
                return
            if self._now() - began > LONGEST_WAIT:
                wait = self._first_wait
            self._tell(State.WAITING, f"{why}; strict events are served by the broker's own process for now")
            self._gone(
                f"the SQ worker is gone: {why}; strict events are served by the broker's own process, "
                f"another one is started at least every {LONGEST_WAIT:g} s", level=logging.ERROR,
            )  # fmt: skip
            self._settled.set()
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _live(self) -> str:
        """One worker's life; why it ended."""
        life = self._life = _Life()
        self._tell(State.STARTING, "the worker starts; strict events are served by the broker's own process")
        why = ""
        try:
            life.child = await self._spawn(life.received, lambda: life.fail("it ended by itself"))
            self._started += 1
            await self._serve(life, life.child)
        except _Over as over:
            why = str(over)
        except ProcessLookupError:
            why = "it ended by itself"
        except OSError as error:
            why = f"no process can be started: {error}"
        except Exception as error:  # noqa: BLE001 - logged in full, once
            self._fault(f"a fault in keeping the SQ worker: {error!r}", trace=True, level=logging.ERROR)
            why = f"a fault of the broker's own: {error!r}"
        finally:
            how = await self._bury(life)
        return f"{why} ({how})" if how else why

    async def _serve(self, life: _Life, child: Child) -> None:
        self._schedule(child.pid, False)
        ready = self._ask(life, Op.SET_UP, self._sockets.set_up(), self._sockets.descriptors())
        told = (await self._answered(life, ready, START_PATIENCE)).fields
        scheduling = self._schedule(child.pid, True)
        # From here on it must be waited for; and what arrives meanwhile waits in the sockets.
        self._sockets.hand_over()
        life.serving = True
        await self._answered(life, self._ask(life, Op.SERVE, {}), self._patience)
        self._tell(State.SERVING, scheduling.reason, child.pid, scheduling, told)
        self._log.info("SQ worker %d serves: %s", child.pid, scheduling)
        served = self._now()
        self._settled.set()
        while True:
            if self._now() - served > LONGEST_WAIT:
                # One that only just serves may end as those before it did.
                self._gone.gone()
            await asyncio.wait({life.broken}, timeout=PING_EVERY)
            await self._answered(life, self._ask(life, Op.PING, {}), self._patience)

    async def _bury(self, life: _Life) -> str:
        """What must be done about a worker that is dead or to die, in this order; how it died."""
        how = ""
        if life.serving and not self._closing:
            self._sockets.take_over()
        if life.child is not None:
            life.fail("it is ended")
            how = await life.child.end()
            held = self._sockets.settle()
            self._held = Held(self._held.lost + held.lost, self._held.unsent + held.unsent)
            if held.lost:
                self._log.warning("the SQ worker (%s) held %d events that are lost", how, held.lost)
            if held.unsent:
                self._log.warning(
                    "the SQ worker (%s) was sending: %d copies at most are lost", how, held.unsent
                )
        for waiting in life.pending.values():
            waiting.cancel()
        self._life = None
        life.over.set()
        return how

    def _ask(
        self, life: _Life, op: Op, fields: Mapping[str, Any], descriptors: Sequence[int] = ()
    ) -> asyncio.Future[Answer]:
        assert life.child is not None, "there is one to be asked"
        if descriptors:
            life.child.send_descriptors(descriptors)
        request = Request(next(self._ids), op, fields)
        answer = life.pending[request.id] = asyncio.get_running_loop().create_future()
        life.child.send(encode(request))
        return answer

    async def _answered(self, life: _Life, answer: asyncio.Future[Answer], patience: float) -> Answer:
        """Raises :class:`_Over` for a worker that ended, cannot, or does not answer in time."""
        # Twice half of it: a broker that was itself held up finds the answer before it judges.
        either: set[asyncio.Future[Any]] = {answer, life.broken}
        for _ in range(2):
            await asyncio.wait(either, timeout=patience / 2, return_when=asyncio.FIRST_COMPLETED)
            if life.broken.done():
                break
            if answer.done():
                return answer.result()
        else:
            life.fail(f"it did not answer within {patience:g} s")
        raise _Over(life.broken.result())

    def _tell(
        self,
        state: State,
        reason: str,
        pid: int | None = None,
        scheduling: Scheduling | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self._status = WorkerStatus(state, reason, pid, scheduling, self._started, *self._held, told)
