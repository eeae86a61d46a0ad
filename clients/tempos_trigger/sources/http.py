"""Endpoints of kind ``http``: a request becomes an event, and if asked for, its answer the response.

    202   published; nothing more is known           200  ``answer = true``: the body of the answer
    400   a CloudEvent that is none                  413  too large
    401   no token, or another one                   422  the function refuses the body
    404, 405                                         502  the function failed
    503   the broker is not there, nobody is there     504  no answer within the deadline
          to answer, or too many wait; Retry-After

Endpoints with one ``listen`` share its port; paths (:mod:`.paths`) and methods tell them apart. Values of a
path make the topic of an event; where the broker has none of that name the answer is 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tempos import EventTooBig, LocalError, NoReply, ReplyError, TemposError
from tempos.errors import NoMember, one_line
from tempos_daemon import kinds
from tempos_daemon.http_server import HttpServer, Limits
from tempos_daemon.problems import problem
from tempos_daemon.schema import Faults, Key, Keys, Table
from tempos_trigger.account import NO_BROKER, NO_TOPIC, PUBLISHED, QUEUE_FULL, STOPPED, TOO_LARGE
from tempos_trigger.endpoint import TURN_EVERY, Refused
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import cloudevents, failures, tls
from tempos_trigger.sources.paths import PATH, Paths, shape, topic_of, values_in

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("tempos.trigger")

#: No event is larger than a datagram; a request may be, if only a part of it becomes the event.
MAX_BODY, BODY = 16 << 20, 65_536
#: Connections of one port, and seconds that its answers have when it closes.
LIMITS = Limits(connections=1024, idle=60.0, close=1.5)
RETRY = failures.RETRY
#: Reasons of drops beside those of every endpoint.
MALFORMED, UNAUTHORIZED, INCOMPLETE = "malformed", "unauthorized", "incomplete"

_SAID = {
    NO_BROKER: "the broker is not there",
    NO_TOPIC: "the broker has no such topic",
    QUEUE_FULL: "too many requests wait",
    STOPPED: "this trigger stops",
}


METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")

KEYS: Keys = {
    "listen": Key(kinds.API, ("127.0.0.1", 8080)),
    "path": Key(PATH),
    "methods": Key(kinds.choice(*METHODS), ("POST",), many=True, least=1),
    "tls": Key(tls.SERVER, {}),
    "token": Key(kinds.TOKEN, ""),
    "limit": Key(kinds.whole(0, MAX_BODY), BODY),
    "cloudevents": Key(kinds.choice("yes", "no", "only"), "yes"),
    "body": Key(kinds.choice("data", "whole"), "data"),
    "answer": Key(kinds.FLAG, False),
    "deadline": Key(kinds.seconds(0.001, 3600), 2.0),
    "content_type": Key(
        kinds.matching(r"[!-~][ -~]{0,126}", "the media type of answers, printable ASCII"),
        "application/octet-stream",
    ),
}


class Http:
    """The kind; has one listener for each address."""

    keys = KEYS

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, int], _Listener] = {}

    def check(self, table: Table, faults: Faults) -> None:
        """A port there must be."""
        if not table.get("listen")[1]:
            faults.refuse(table.at("listen"), "off", '"host:port"')
        tls.check(table, faults)

    def shares(self, spec: EndpointSpec) -> Mapping[str, Any]:
        """TLS is its port's."""
        host, port = spec.options["listen"]
        return {f"tls at {host}:{port}": spec.options["tls"]}

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        """Its path, for each method."""
        host, port = spec.options["listen"]
        path = shape(spec.options["path"])
        return [f"{method} http://{host}:{port}{path}" for method in spec.options["methods"]]

    def levels(self, spec: EndpointSpec) -> int:
        """The values of its path."""
        return values_in(spec.options["path"])

    def make(self, spec: EndpointSpec, sink: Sink) -> _Webhook:
        """A webhook."""
        return _Webhook(self, spec, sink)

    def listener(self, address: tuple[str, int]) -> _Listener:
        """Whoever has this address, or a new one, bound; raises :class:`OSError`."""
        found = self._listeners.get(address)
        if found is None:
            found = _Listener(address)
            found.server.bind()
            self._listeners[address] = found
        return found

    async def leave(self, listener: _Listener) -> None:
        """Close it if nobody uses it any more."""
        if not listener.users and self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]
            await listener.server.close()


class _Webhook:
    """One endpoint."""

    def __init__(self, kind: Http, spec: EndpointSpec, sink: Sink) -> None:
        self._kind = kind
        self._sink = sink
        self._listener: _Listener | None = None
        self._tls = tls.Tls(spec.options, listens=True)
        self._set(spec)

    def _set(self, spec: EndpointSpec) -> None:
        options = spec.options
        self.address: tuple[str, int] = options["listen"]
        self.path: str = options["path"]
        self._topic = spec.topic
        self.methods: tuple[str, ...] = options["methods"]
        self._token: bytes = options["token"].encode()
        self._limit: int = options["limit"]
        self._events: str = options["cloudevents"]
        self._whole = options["body"] == "whole"
        self._answer: bool = options["answer"]
        self._deadline: float = options["deadline"]
        self._headers = {"Content-Type": options["content_type"]}
        self._requires_certificate = bool(options["tls"]["client_ca"])

    # What a trigger calls

    async def open(self) -> None:
        self._tls.load()
        self._listener = self._kind.listener(self.address)
        self._listener.users += 1

    async def start(self) -> None:
        assert self._listener is not None, "opened before"
        self._listener.paths.add(self.path, self.methods, self)
        self._listener.server.tls = self._tls.context
        await self._listener.start()
        if not self._token and not self._requires_certificate and not kinds.is_loopback(self.address[0]):
            log.warning(
                "%s takes requests of everybody who reaches it: give it a token", self.status()["url"]
            )

    def takes(self, spec: EndpointSpec) -> bool:
        return bool(spec.options["listen"] == self.address) and self._tls.is_current(spec.options)

    def take(self, spec: EndpointSpec) -> None:
        assert self._listener is not None, "it is in force"
        self._listener.paths.remove(self)
        self._set(spec)
        self._listener.paths.add(self.path, self.methods, self)

    def status(self) -> dict[str, Any]:
        listener = self._listener
        return {
            "state": "up" if listener is not None and listener.serves else "closed",
            "url": f"{'https' if self._tls.wanted else 'http'}://{self.address[0]}:{self.address[1]}{self.path}",
            "methods": list(self.methods),
            "turned_away": {} if listener is None else dict(listener.refused),
        }

    async def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.paths.remove(self)
            listener.users -= 1
            await self._kind.leave(listener)

    # What the listener calls

    async def serve(self, scope: Scope, receive: Receive, send: Send, values: Sequence[str] = ()) -> None:
        """Answer one request; ``values``: those of its path."""
        sink = self._sink
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._token and not self._is_token(headers.get("authorization", "")):
            sink.refuse(UNAUTHORIZED)
            away = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            await _say(
                send, problem(401, "send 'Authorization: Bearer ...' with the endpoint's token", (), away)
            )
            return
        # Before its body is read: whoever is in trouble is not helped by reading it.
        end = time.monotonic() + self._deadline
        topic = ""
        if values:
            try:
                topic = topic_of(self._topic, values)
            except LocalError as error:
                sink.refuse(MALFORMED)
                await _say(send, problem(404, f"no topic can be called so: {one_line(error)}"))
                return
        if (topic or sink.why_not) and (why := await sink.ready(self._deadline, topic)) is not None:
            sink.refuse(why[0])
            if topic and why[0] == NO_TOPIC:
                await _say(send, problem(404, why[1]))
            else:
                await self._busy(send, why[0], why[1])
            return
        try:
            body = await self._read(headers, receive)
        except _TooLong:
            sink.refuse(TOO_LARGE)
            detail = f"the body is longer than {self._limit} bytes"
            await _say(send, problem(413, detail, (), {"Connection": "close"}))
            return
        if body is None:
            sink.refuse(INCOMPLETE)
            return
        batch: list[bytes] | None = None
        if self._events != "no":
            try:
                if cloudevents.is_batch(headers):
                    batch = cloudevents.bodies_of(headers, body, whole=self._whole)
                elif cloudevents.is_one(headers):
                    body = cloudevents.body_of(headers, body, whole=self._whole)
                elif self._events == "only":
                    raise cloudevents.Malformed(
                        [f"this is no CloudEvent; allowed: ce- headers, or the type {cloudevents.STRUCTURED}"]
                    )
            except cloudevents.Malformed as error:
                sink.refuse(MALFORMED, error.events)
                await _say(send, problem(400, f"not a CloudEvent: {error}", error.problems))
                return
        if batch is not None and self._answer:
            sink.refuse(MALFORMED, len(batch))
            await _say(send, problem(400, "this path answers: send each event of a batch by itself"))
        elif batch is not None:
            await self._publish_each(batch, topic, send)
        elif self._answer:
            await self._ask(body, topic, max(end - time.monotonic(), 0.001), send)
        else:
            await self._publish(body, topic, send)

    def _is_token(self, given: str) -> bool:
        scheme, _, token = given.partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self._token)
        return same and scheme.lower() == "bearer"

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The body; None if the client went away before it was there. Raises :class:`_TooLong`."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._limit:
            raise _TooLong
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            # All at once, as most are.
            whole: bytes = message.get("body", b"")
            if len(whole) > self._limit:
                raise _TooLong
            return whole
        parts, size = [], 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                raise _TooLong
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await receive()
        return None

    async def _publish(self, body: bytes, topic: str, send: Send) -> None:
        verdict = await self._sink.deliver(body, topic)
        if verdict == PUBLISHED:
            await send(_ACCEPTED)
            await send(_EMPTY)
        elif verdict == TOO_LARGE:
            await _say(send, problem(413, "the event is too large for a datagram to the broker"))
        else:
            await self._busy(send, verdict)

    async def _publish_each(self, bodies: Sequence[bytes], topic: str, send: Send) -> None:
        verdicts = []
        for number, body in enumerate(bodies, 1):
            verdicts.append(await self._sink.deliver(body, topic))
            if not number % TURN_EVERY:
                # Publishing alone never waits while the socket takes it.
                await asyncio.sleep(0)
        failed = [(number, why) for number, why in enumerate(verdicts) if why != PUBLISHED]
        if not failed:
            await send(_ACCEPTED)
            await send(_EMPTY)
            return
        problems = [f"event {number}: {_SAID.get(why, why)}" for number, why in failed]
        detail = f"{len(bodies) - len(failed)} of {len(bodies)} events were published: send the others again"
        again = any(why != TOO_LARGE for _, why in failed)
        await _say(send, problem(503 if again else 413, detail, problems, RETRY if again else None))

    async def _ask(self, body: bytes, topic: str, within: float, send: Send) -> None:
        try:
            reply = await self._sink.ask(body, within, topic)
        except ReplyError as error:
            await _say(send, failures.failed(error))
        except NoMember as error:
            await _say(send, problem(503, str(error), (), RETRY))
        except NoReply as error:
            await _say(send, problem(504, str(error)))
        except EventTooBig as error:
            await _say(send, problem(413, str(error)))
        except Refused as error:
            await self._busy(send, error.reason)
        except TemposError as error:
            await self._busy(send, NO_BROKER, one_line(error))
        else:
            head = [(name.lower().encode(), value.encode()) for name, value in self._headers.items()]
            head.append((b"content-length", str(len(reply.body)).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": reply.body})

    async def _busy(self, send: Send, reason: str, why: str = "") -> None:
        said = _SAID.get(reason, reason)
        detail = f"{said}: {why}" if why and why != said else said
        await _say(send, problem(503, f"{detail}; try again", (), RETRY))


_ACCEPTED = {"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]}
_EMPTY = {"type": "http.response.body", "body": b""}


class _TooLong(Exception):
    """A body beyond the limit."""


class _Listener:
    """One port, and the webhooks on it; an ASGI application."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.users = 0
        self.serves = False
        #: Requests that were no endpoint's, and connections that were cut off, by reason.
        self.refused: Counter[str] = Counter()
        app: ASGIApp = self
        self.server = HttpServer(app, *address, self.refused, LIMITS, fast=True)
        self.paths: Paths[_Webhook] = Paths()

    async def start(self) -> None:
        """Serve, if it does not yet."""
        if not self.serves:
            self.serves = True
            await self.server.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        methods, values = self.paths.find(scope["path"], scope["raw_path"].decode("latin-1"))
        webhook = methods.get(scope["method"])
        if webhook is not None:
            await webhook.serve(scope, receive, send, values)
        elif methods:
            self.refused["method not allowed"] += 1
            allow = {"Allow": ", ".join(sorted(methods)), "Connection": "close"}
            await _say(send, problem(405, f"allowed: {allow['Allow']}", (), allow))
        else:
            self.refused["not found"] += 1
            await _say(send, problem(404, "no endpoint has this path", (), {"Connection": "close"}))


async def _say(send: Send, response: Any) -> None:
    # A client that is gone hears nothing, and nobody minds.
    with contextlib.suppress(OSError):
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await send({"type": "http.response.body", "body": response.body})
