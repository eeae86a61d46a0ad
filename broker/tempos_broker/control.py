"""The broker's end of the control protocol, without I/O.

One datagram in, one :class:`Outcome` out: the reply to send, and the topics whose route has to be
swapped before it is sent, so that a subscriber that got its answer gets events. Datagrams that
cannot be answered are counted and dropped.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempos import Topic
from tempos.control import PATIENCE, BadRequest, Code, Request, decode_request, encode_error, encode_ok
from tempos_broker.config.model import ControlConfig
from tempos_broker.ledger import Holder, Ledger
from tempos_broker.membership import Refused, Registry


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a control datagram led to.

    ``finish`` makes the reply once the routes of the ``changed`` topics are in place. Its None means:
    not yet; the client asks again, with newer counts.
    """

    changed: frozenset[int]
    finish: Callable[[], bytes | None]


def topic_fields(topic: Topic) -> dict[str, Any]:
    """A topic as replies and the control API show it."""
    return {
        "id": topic.id,
        "name": topic.name,
        "class": topic.quality.value,
        "priority": topic.priority,
        "framing": topic.framing.value,
    }


class ControlServer:
    """Serves control datagrams from a :class:`Registry`.

    ``epoch`` tells the epoch in force of a topic; ``name`` and ``instance`` identify this start of
    the broker, so that clients notice a restart.
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
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._name = name
        self._instance = instance
        self._epoch = epoch
        self._networks = [ipaddress.ip_network(network) for network in config.networks]
        self._timing = {
            "lease_ms": round(config.lease * 1000),
            "heartbeat_ms": round(config.heartbeat * 1000),
            "instance": instance,
        }
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._operations: dict[str, Callable[[Request, str, float], Outcome]] = {
            "hello": self._hello,
            "resolve": self._resolve,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "heartbeat": self._heartbeat,
            "drain": self._drain,
            "goodbye": self._goodbye,
        }

    def receive_datagram(self, datagram: bytes, ip: str, now: float) -> Outcome | None:
        """Serve one datagram from ``ip``; None when there is nobody to answer."""
        if not any(ipaddress.ip_address(ip) in network for network in self._networks):
            self.refused["foreign network"] += 1
            return None
        try:
            request = decode_request(datagram)
        except BadRequest as error:
            self.refused[error.code] += 1
            if error.request_id is None:
                return None
            return _error(error.request_id, error.code, str(error), error.hint)
        try:
            outcome = self._operations[request.op](request, ip, now)
        except Refused as error:
            self.refused[error.code] += 1
            return _error(request.id, error.code, str(error), error.hint)
        self.served[request.op] += 1
        return outcome

    def _hello(self, request: Request, ip: str, now: float) -> Outcome:
        return _ok(request, broker=self._name, **self._timing)

    def _resolve(self, request: Request, ip: str, now: float) -> Outcome:
        topic = self._registry.topic(request.fields["topic"])
        return _ok(request, topic=topic_fields(topic), members=self._registry.member_count(topic.id))

    def _subscribe(self, request: Request, ip: str, now: float) -> Outcome:
        endpoint = (ip, request.fields["port"])
        done = self._registry.subscribe(
            request.fields["topic"], request.fields["group"], endpoint, request.client, now
        )

        def finish() -> bytes:
            return encode_ok(
                request.id,
                topic=topic_fields(done.topic),
                group=done.group,
                epoch=self._epoch(done.topic.id),
                **self._timing,
            )

        # Even when nothing changed the swap may still be under way for an earlier copy of this
        # request; the shell's per-topic order makes this answer wait for it.
        return Outcome(frozenset({done.topic.id}), finish)

    def _unsubscribe(self, request: Request, ip: str, now: float) -> Outcome:
        topic = self._registry.topic(request.fields["topic"])
        self._registry.unsubscribe(topic.name, request.fields["group"], (ip, request.fields["port"]))
        return Outcome(frozenset({topic.id}), lambda: encode_ok(request.id))

    def _heartbeat(self, request: Request, ip: str, now: float) -> Outcome:
        endpoint = (ip, request.fields["port"])
        if not self._registry.heartbeat(endpoint, request.client, now):
            raise Refused(
                Code.UNKNOWN_MEMBER, f"{ip}:{endpoint[1]} is no member of anything", "subscribe again"
            )
        self._report(request, ip)
        return _ok(request)

    def _drain(self, request: Request, ip: str, now: float) -> Outcome:
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

    def _goodbye(self, request: Request, ip: str, now: float) -> Outcome:
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


def _error(request_id: int, code: str, text: str, hint: str) -> Outcome:
    return Outcome(frozenset(), lambda: encode_error(request_id, code, text, hint))


def new_instance() -> int:
    """A number that differs from one start of the broker to the next (u32)."""
    return time.time_ns() // 1_000_000 & 0xFFFFFFFF
