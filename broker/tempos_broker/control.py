"""The broker's end of the control protocol, without I/O.

One datagram in, one :class:`Outcome` out: the reply to send, and the topics whose route has to be
swapped before it is sent, so that a subscriber that got its answer gets events. Datagrams that
cannot be answered are counted and dropped.

Who may ask at all is decided by :mod:`tempos_broker.auth`; what is not served is counted under its
reason, and told in the log sparingly. No reply is larger than the datagram it answers, whoever sent it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempos import Topic
from tempos.auth import REPLY_OVERHEAD
from tempos.control import (
    PATIENCE,
    U32,
    BadRequest,
    Code,
    Request,
    decode_request,
    encode_error_within,
    encode_ok,
)
from tempos_broker.auth import Admitted, Caller, Denied, Guard
from tempos_broker.config.model import ControlConfig
from tempos_broker.ledger import Holder, Ledger
from tempos_broker.membership import Refused, Registry, own_group
from tempos_broker.sparingly import Sparingly

log = logging.getLogger("tempos.broker.control")

#: In ``replies``: an answer was larger than its request, so a short error went instead, or nothing.
TOO_LARGE = "reply too large"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a control datagram led to.

    ``finish`` makes the reply once the routes of the ``changed`` topics are in place. Its None means:
    not yet; the client asks again, with newer counts.
    """

    changed: frozenset[int]
    finish: Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class _Way:
    """How a reply goes back: to whom, and how many bytes it may have before it is signed."""

    admitted: Admitted
    room: int

    @property
    def caller(self) -> Caller:
        return self.admitted.caller


def topic_fields(topic: Topic) -> dict[str, Any]:
    """A topic as control replies show it, and the control API besides other things."""
    return {
        "id": topic.id,
        "name": topic.name,
        "class": topic.quality.value,
        "priority": topic.priority,
        "framing": topic.framing.value,
    }


def limit_fields(topic: Topic) -> dict[str, Any]:
    """A topic's limit as the control API shows it; control replies, for which every byte counts, do not."""
    return {"rate": topic.rate, "burst": topic.bucket, "overflow": topic.overflow.value}


class ControlServer:
    """Serves control datagrams from a :class:`Registry`.

    ``epoch`` tells the epoch in force of a topic; ``name`` and ``instance`` identify this start of
    the broker, so that clients notice a restart. ``wall`` gives Unix time in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        config: ControlConfig,
        *,
        name: str,
        instance: int,
        epoch: Callable[[int], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._name = name
        self._instance = instance
        self._epoch = epoch
        self._wall = wall
        self._guard = Guard(config, wall())
        self._timing = self._timing_of(config)
        self._now = 0.0
        self._log = Sparingly(log, lambda: self._now)
        #: Every datagram is in one of these once: by operation, by why not.
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        #: What became of replies, where it is not what was meant.
        self.replies: Counter[str] = Counter()
        self._operations: dict[str, Callable[[Request, _Way, float], Outcome]] = {
            "hello": self._hello,
            "resolve": self._resolve,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "heartbeat": self._heartbeat,
            "drain": self._drain,
            "goodbye": self._goodbye,
        }

    def reconfigure(self, config: ControlConfig) -> None:
        """Go by another configuration from now on."""
        self._guard.reconfigure(config, self._wall())
        self._timing = self._timing_of(config)

    def receive_datagram(self, datagram: bytes, ip: str, now: float) -> Outcome | None:
        """Serve one datagram from ``ip``; None when there is nobody to answer."""
        self._now = now
        try:
            admitted = self._guard.admit(datagram, ip, self._wall(), now)
        except Denied as denied:
            return self._deny(denied, ip, len(datagram))
        way = _Way(admitted, len(datagram) - (REPLY_OVERHEAD if admitted.key else 0))
        try:
            request = decode_request(admitted.plain)
        except BadRequest as error:
            self.refused[error.code] += 1
            if error.request_id is None:
                return None
            return self._error(way, error.request_id, error.code, str(error), error.hint)
        try:
            outcome = self._operations[request.op](request, way, now)
        except Refused as error:
            self.refused[error.code] += 1
            if error.code == Code.NOT_ALLOWED:
                self._tell(error.code, way.caller, str(error))
            return self._error(way, request.id, error.code, str(error), error.hint)
        self.served[request.op] += 1
        return Outcome(outcome.changed, lambda: self._finish(way, request.id, outcome.finish))

    def _timing_of(self, config: ControlConfig) -> dict[str, int]:
        return {
            "lease_ms": round(config.lease * 1000),
            "heartbeat_ms": round(config.heartbeat * 1000),
            "instance": self._instance,
        }

    # --- replies ----------------------------------------------------------------------------

    def _finish(self, way: _Way, request_id: int, finish: Callable[[], bytes | None]) -> bytes | None:
        answer = finish()
        if answer is None:
            return None
        if len(answer) > way.room:
            self.replies[TOO_LARGE] += 1
            cut = encode_error_within(way.room, request_id, Code.TOO_SHORT, *_too_short(len(answer)))
            return None if cut is None else self._sealed(way.admitted, cut)
        return self._sealed(way.admitted, answer)

    def _error(self, way: _Way, request_id: int, code: str, text: str, hint: str) -> Outcome | None:
        datagram = encode_error_within(way.room, request_id, code, text, hint)
        if datagram is None:
            self.replies[TOO_LARGE] += 1
            return None
        return _reply(self._sealed(way.admitted, datagram))

    def _deny(self, denied: Denied, ip: str, size: int) -> Outcome | None:
        self.refused[denied.count] += 1
        self._tell(denied.count, ip, str(denied))
        if denied.code is None:
            return None
        try:
            request_id = decode_request(denied.plain).id
        except BadRequest as error:
            if error.request_id is None:
                return None
            request_id = error.request_id
        room = size - (REPLY_OVERHEAD if denied.signed else 0)
        way = _Way(denied.signed or Admitted(Caller(ip), b""), room)
        return self._error(way, request_id, denied.code, str(denied), denied.hint)

    def _sealed(self, admitted: Admitted, plain: bytes) -> bytes:
        return admitted.seal(plain, round(self._wall() * 1000))

    def _tell(self, reason: str, who: object, text: str) -> None:
        self._log.warn(reason, f"control request from {who} refused: {text}")

    # --- operations -------------------------------------------------------------------------

    def _hello(self, request: Request, way: _Way, now: float) -> Outcome:
        return _ok(request, broker=self._name, **self._timing)

    def _resolve(self, request: Request, way: _Way, now: float) -> Outcome:
        way.caller.require(request.fields["topic"], "publish", "subscribe")
        topic = self._registry.topic(request.fields["topic"])
        return _ok(request, topic=topic_fields(topic), members=self._registry.member_count(topic.id))

    def _subscribe(self, request: Request, way: _Way, now: float) -> Outcome:
        name, group = request.fields["topic"], request.fields["group"]
        endpoint = (way.caller.ip, request.fields["port"])
        way.caller.require(name, "subscribe")

        def answer(topic: Topic, group: str, epoch: int) -> bytes:
            return encode_ok(request.id, topic=topic_fields(topic), group=group, epoch=epoch, **self._timing)

        # Whoever cannot be told that it is a member is not made one.
        size = len(answer(self._registry.topic(name), group or own_group(*endpoint), U32))
        if size > way.room:
            raise Refused(Code.TOO_SHORT, *_too_short(size))
        done = self._registry.subscribe(name, group, endpoint, request.client, now)

        def finish() -> bytes:
            return answer(done.topic, done.group, self._epoch(done.topic.id))

        # Even when nothing changed the swap may still be under way for an earlier copy of this
        # request; the shell's per-topic order makes this answer wait for it.
        return Outcome(frozenset({done.topic.id}), finish)

    def _unsubscribe(self, request: Request, way: _Way, now: float) -> Outcome:
        way.caller.require(request.fields["topic"], "subscribe")
        topic = self._registry.topic(request.fields["topic"])
        self._registry.unsubscribe(
            topic.name, request.fields["group"], (way.caller.ip, request.fields["port"]), request.client
        )
        return Outcome(frozenset({topic.id}), lambda: encode_ok(request.id))

    def _heartbeat(self, request: Request, way: _Way, now: float) -> Outcome:
        way.caller.require_any("subscribe")
        ip = way.caller.ip
        endpoint = (ip, request.fields["port"])
        # What a member got before it was taken out is news even where it is no member any more.
        self._report(request, ip)
        if not self._registry.heartbeat(endpoint, request.client, now):
            raise Refused(
                Code.UNKNOWN_MEMBER, f"{ip}:{endpoint[1]} is no member of anything", "subscribe again"
            )
        return _ok(request)

    def _drain(self, request: Request, way: _Way, now: float) -> Outcome:
        way.caller.require_any("subscribe")
        ip = way.caller.ip
        endpoint = (ip, request.fields["port"])
        patience = request.fields["patience_ms"]
        patience = PATIENCE if patience is None else patience
        leaving = self._registry.drain(endpoint, request.client, now, patience / 1000)
        holder = Holder(*endpoint, request.client)

        def finish() -> bytes | None:
            # Only now, after the swap, is it known what was ticketed for the leaver.
            self._report(request, ip)
            accounts = self._ledger.accounts(holder)
            outstanding = sum(account.outstanding for account in accounts)
            if outstanding and now < leaving.deadline:
                return None
            ticketed = sum(account.ticketed for account in accounts)
            return encode_ok(
                request.id, ticketed=ticketed, delivered=ticketed - outstanding, lost=outstanding
            )

        return Outcome(leaving.topics, finish)

    def _goodbye(self, request: Request, way: _Way, now: float) -> Outcome:
        way.caller.require_any("subscribe")
        ip = way.caller.ip
        endpoint = (ip, request.fields["port"])
        changed = self._registry.goodbye(endpoint, request.client)
        self._report(request, ip)
        return Outcome(frozenset(changed), lambda: encode_ok(request.id))

    def _report(self, request: Request, ip: str) -> None:
        holder = Holder(ip, request.fields["port"], request.client)
        for row in request.fields["received"]:
            self._ledger.report(row.topic, row.group, holder, row.epoch, row.datagrams)


def _ok(request: Request, **fields: Any) -> Outcome:
    return Outcome(frozenset(), lambda: encode_ok(request.id, **fields))


def _reply(datagram: bytes) -> Outcome:
    return Outcome(frozenset(), lambda: datagram)


def _too_short(size: int) -> tuple[str, str]:
    return f"the answer takes {size} bytes, more than the request", "pad the request: 'pad', zero bytes"


def new_instance() -> int:
    """A number that differs from one start of the broker to the next (u32)."""
    return time.time_ns() // 1_000_000 & 0xFFFFFFFF
