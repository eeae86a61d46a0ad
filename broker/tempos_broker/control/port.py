"""The control port: sockets that hand datagrams to the control server, and carry out what it decides.

Only when the routes are in force that a request changed is the one who asked answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from tempos._remarks import Sparingly
from tempos.control import Code
from tempos.wire import AGAIN
from tempos_broker.control.decisions import (
    Copies,
    Decision,
    Done,
    Drained,
    Joined,
    Listed,
    Proving,
    Refusal,
    Renewed,
    Way,
)
from tempos_broker.control.server import ControlServer
from tempos_broker.control.sockets import ControlSocket, Reply
from tempos_broker.expiry import Expiry
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.repair.desk import Say
from tempos_broker.resend.desk import Desk as Resends
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks

#: Seconds after which whoever subscribes is answered, whatever is in force by then: before it asks again.
ANSWER_BY = 0.1
#: The same while so many are being carried out: each that is told less than all asks on, and keeps the others
#: waiting by that. Still before anybody takes us for silent; who repeats itself meanwhile costs little.
CROWD, CROWD_BY = 32, 0.4
#: The same of whoever awaits nothing but the other brokers of the fleet; if it asks again, that costs little.
LOOK_BY = 0.3
#: Seconds in which one copy of what waits to be heard is answered: had that been lost, it is asked for again.
#: And of how many different ones copies are known.
COPY_WITHIN, COPIES = 5.0, 1 << 14
#: Seconds after which others are, whichever broker of the fleet has not heard of it by then.
SETTLED_BY = 1.0
#: What members ask for again and again, whenever it is answered.
_RENEWS = "heartbeat"
#: Answers to those that are members, or were a moment ago.
_MEMBERS = (Joined, Listed, Renewed, Drained)
#: In ``replies``: what is to be proved with could not be sent to the endpoint.
PROOF_UNSENT = "proof not sent"
#: An event that was to be sent again was not.
COPY_UNSENT = "copy not sent"

log = logging.getLogger("tempos.broker.control")


class ControlPort:
    """The control sockets of a broker, one for each address."""

    def __init__(
        self,
        control: ControlServer,
        routes: Routes,
        expiry: Expiry,
        tasks: Tasks,
        say: Say | None = None,
        fleet: Fleet | None = None,
        resends: Resends | None = None,
    ) -> None:
        """``say``: sends from the data port; None: nothing is to be proved there. ``resends``: see there."""
        self._fleet = fleet
        self._resends = resends
        self._control = control
        self._routes = routes
        self._expiry = expiry
        self._tasks = tasks
        self._say = say
        self._log = Sparingly(log, time.monotonic)
        self._sockets: list[ControlSocket] = []
        #: Requests that are being carried out, by who sent them.
        self._under_way: set[tuple[str, int]] = set()
        #: The datagrams of those that nobody signed, each as it came from where to where.
        self._same: dict[tuple[str, str | None, bytes], Way] = {}
        #: Of those that were heard since nothing waited, by hashes: what they ask. And since when.
        self._heard: dict[int, str] = {}
        self._heard_since = 0.0

    def open(self, listen: Sequence[str], port: int) -> None:
        """Have the sockets, in which requests wait; raises :class:`Unavailable`."""
        for ip in listen:
            self._sockets.append(
                ControlSocket(ip, port, self._hear, self._control.replies, self._heard.clear)
            )

    def serve(self) -> None:
        """Hear and answer from now on; on the event loop."""
        for each in self._sockets:
            each.serve()

    def has_heard(self, since: float) -> bool:
        """Whether all was heard that had come by then (monotonic seconds)."""
        return all(each.has_heard(since) for each in self._sockets)

    def close(self) -> None:
        """Hear nothing any more, and answer nothing."""
        for each in self._sockets:
            each.close()

    def _hear(self, datagram: bytes, ip: str, asked: str | None, reply: Reply) -> bool:
        """:meth:`_receive` what has waited in a socket; of copies that wait behind each other, one.

        Who is kept waiting repeats itself: were each copy answered a crowd would wait ever longer. Gives
        whether nobody waits for the answer.
        """
        same, now = hash((ip, asked, datagram)), time.monotonic()
        if now - self._heard_since > COPY_WITHIN or len(self._heard) >= COPIES:
            self._heard.clear()
            self._heard_since = now
        if (op := self._heard.get(same)) is not None:
            # It counts, and changes nothing.
            self._control.served[op] += 1
            return op == _RENEWS
        op, has_copies = self._receive(datagram, ip, asked, reply)
        if has_copies:
            self._heard[same] = op
        return op == _RENEWS

    def _receive(self, datagram: bytes, ip: str, asked: str | None, reply: Reply) -> tuple[str, bool]:
        """What it asks for ("": that is not known), and whether a copy of it asks for nothing else."""
        if self._resends is not None and datagram.startswith(AGAIN):
            self._resends.again(datagram, ip)
            return "", False
        if self._same and (way := self._same.get((ip, asked, datagram))) is not None:
            # It counts, and changes nothing.
            self._control.served[way.op] += 1
            return way.op, True
        now = time.monotonic()
        if (answer := self._control.repeats.answer(datagram, ip, asked, now)) is not None:
            self._control.served[_RENEWS] += 1
            reply(answer, member=True)
            return _RENEWS, True
        decision = self._control.receive_datagram(datagram, ip, now, asked)
        if decision is None:
            return "", False
        if decision.proving is not None:
            self._have_proved(decision.proving)
        if decision.copies is not None:
            self._send_again(decision.copies)
        if decision.publisher is not None and self._resends is not None:
            self._resends.heard(decision.publisher, reply)
        if decision.changed or decision.joining:
            request = (ip, decision.way.request_id)
            # Whoever asks again while that is under way is answered when it is done, once.
            if request in self._under_way:
                self._control.pass_over(decision)
                return decision.way.op, _has_copies(decision)
            self._under_way.add(request)
            self._begin(partial(self._carry_out, decision, reply), decision.way, datagram)
        elif self._is_awaited(decision):
            self._begin(partial(self._answer_when_come, decision, reply), decision.way, datagram)
        else:
            answer = self._answer(decision, reply)
            if answer is not None and decision.again is not None:
                self._control.repeats.keep(datagram, ip, asked, decision, answer)
        return decision.way.op, _has_copies(decision)

    def _have_proved(self, proving: Proving) -> None:
        assert self._say is not None, "who asks for proofs says by what they are sent"
        error = self._say(proving.datagram, proving.endpoint, proving.via)
        if error:
            self._control.replies[PROOF_UNSENT] += 1
            ip, port = proving.endpoint
            self._log.warn(
                f"proof {error}",
                f"{ip}:{port} cannot be asked whether it receives there: {os.strerror(error)}",
            )

    def _send_again(self, copies: Copies) -> None:
        assert self._say is not None, "who has events sent again says by what"
        for datagram in copies.datagrams:
            if self._say(datagram, copies.endpoint, copies.via):
                # The socket takes no more now; what lacks is asked for again.
                self._control.replies[COPY_UNSENT] += 1
                return

    def _is_awaited(self, decision: Decision) -> bool:
        """Whether all there is to tell is that other brokers have who asks in force, which do not yet."""
        answer = decision.answer
        return (
            self._fleet is not None
            and isinstance(answer, Renewed)
            and answer.awaits
            and self._fleet.is_coming(answer.holder)
        )

    def _begin(self, work: Callable[[], Awaitable[None]], way: Way, datagram: bytes) -> None:
        """Carry out what takes time; whoever repeats the datagram meanwhile is answered then, once."""
        same = (way.caller.ip, way.asked, datagram)
        if way.admitted.key is None:
            self._same[same] = way

        async def carry_out() -> None:
            try:
                await work()
            finally:
                self._same.pop(same, None)

        self._tasks.spawn(carry_out(), "apply a control request")

    async def _answer_when_come(self, decision: Decision, reply: Reply) -> None:
        """So who waits hears of it at once, and asks few times however long it takes."""
        assert self._fleet is not None, "it is awaited"
        assert isinstance(decision.answer, Renewed), "it is awaited"
        await self._fleet.come(decision.answer.holder, LOOK_BY)
        self._answer(decision, reply)

    async def _carry_out(self, decision: Decision, reply: Reply) -> None:
        work = asyncio.ensure_future(self._put_in_force(decision))
        try:
            # Of very many memberships whoever asked is told those that are in force by now, and asks on.
            by = CROWD_BY if len(self._under_way) > CROWD else ANSWER_BY
            await asyncio.wait({work}, timeout=by if isinstance(decision.answer, Listed) else None)
            if not work.done():
                await self._routes.keep_wants()
            if not work.done() or work.exception() is None:
                self._answer(decision, reply)
            await work
        finally:
            self._under_way.discard((decision.way.caller.ip, decision.way.request_id))
            work.cancel()

    async def _put_in_force(self, decision: Decision) -> None:
        noted = 0 if self._fleet is None else self._fleet.noted
        await self._routes.swap_all(decision.changed)
        for changed in self._control.joins(decision):
            await self._routes.swap_all(changed)
            # Whatever waits has its turn before the next ones are joined.
            await asyncio.sleep(0)
        # A swap that was due has it stored with its epoch.
        await self._routes.keep_wants()
        self._expiry.schedule()
        if self._fleet is not None:
            # A member that drains asks again soon, and drains everywhere.
            by = ANSWER_BY if isinstance(decision.answer, Drained) else SETTLED_BY
            await self._fleet.settle(noted, by)

    def _answer(self, decision: Decision, reply: Reply) -> bytes | None:
        """Gives the answer that was sent, if any was."""
        if (answer := self._control.render(decision)) is not None:
            told = decision.answer
            reply(answer, member=told.member if isinstance(told, Done) else isinstance(told, _MEMBERS))
        return answer


def _has_copies(decision: Decision) -> bool:
    """Whether copies ask for the same: what is signed has none, and refusals are counted."""
    answer, way = decision.answer, decision.way
    is_refused = isinstance(answer, Refusal) and answer.code != Code.PROVE
    return way.admitted.key is None and not is_refused and way.op != ""
