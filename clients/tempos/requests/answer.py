"""Requests as a subscriber gets them, and the way back of its answers.

A reply goes from the socket that the events come to, to the data port of the broker that the request came
from: whatever is on the way takes it for an answer within the same flow. Rules: a reply that is handed over
is sent, or raises; one of a crowd leaves at the end of the turn, and where it cannot, that is counted and
logged; a request is answered once; a full socket makes the caller wait.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import select
import socket
import time
from collections.abc import Awaitable
from typing import TypeVar

from tempos import _abi, _sockets, wire
from tempos._awaitables import DONE
from tempos._remarks import Sparingly
from tempos.encryption import OVERHEAD, Encryptor, TopicKeys
from tempos.errors import EventTooBig, LocalError
from tempos.model import Framing, Topic
from tempos.receiving.inbox import Event
from tempos.requests import envelope, probe
from tempos.requests.together import RETRY, Together

_log = logging.getLogger("tempos.subscriber")


class Request(Event):
    """An event whose publisher waits for an answer: :meth:`reply` or :meth:`reply_error`, once."""

    # What is behind the fields of an event; a tuple's subclass has a dict for it.
    _replies: Replies
    _head: bytes
    _at: int
    _number: int
    _answered: bool

    @property
    def is_request(self) -> bool:
        return True

    def reply(self, body: object) -> Awaitable[None]:
        return self._replies.answer(self, body, _abi.KIND_REPLY)

    def reply_error(self, body: object) -> Awaitable[None]:
        return self._replies.answer(self, body, _abi.KIND_ERROR)


class RequestAgain(Request):
    """One that another member was sent, and is not known to have processed: who asked may still wait."""

    #: As :class:`Again` has it.
    number: int | None = None

    @property
    def is_redelivered(self) -> bool:
        return True


RequestT = TypeVar("RequestT", bound=Request)


class Replies:
    """The answers of one subscriber. ``requests`` came, ``sent`` and ``failed`` are answers to them."""

    def __init__(self, keys: TopicKeys | None = None) -> None:
        self._keys = keys
        self._encryptors: dict[int, Encryptor | None] = {}
        self.requests = self.sent = self.failed = 0
        #: Whether the caller is no event loop, so that a full socket holds it up where it is.
        self.blocks = False
        self._sock: socket.socket | None = None
        self._broker: str | None = None
        self._together = Together(self._taken, self._not_sent)
        self._log = Sparingly(_log, time.monotonic)

    def open(self, sock: socket.socket, broker: str | None) -> None:
        """Send by ``sock`` from now on; ``broker``: its address, None where only requests tell it."""
        self._together.close()
        self._sock, self._broker = sock, broker
        self._together.open(sock)

    def open_at(self, broker: str) -> None:
        """The broker's address is another one now."""
        self._broker = broker

    def close(self) -> None:
        """The socket is about to be closed; what is answered after this goes by one of its own."""
        self._together.close()
        self._sock = None

    def request(self, fields: tuple[object, ...], datagram: bytes, at: int) -> Request:
        """An event of these fields, whose envelope begins at byte ``at`` of the datagram."""
        return self._request(tuple.__new__(Request, fields), datagram, at)

    def request_again(self, fields: tuple[object, ...], datagram: bytes, at: int) -> RequestAgain:
        """The same of one that is handed out again."""
        self.requests += 1
        return self._request(tuple.__new__(RequestAgain, fields), datagram, at)

    def _request(self, event: RequestT, datagram: bytes, at: int) -> RequestT:
        event._replies, event._at, event._number, event._answered = self, at, self.requests, False
        event._head = datagram[: at + envelope.LENGTH]
        return event

    def answer(self, request: Request, body: object, kind: int) -> Awaitable[None]:
        """Send it; see :meth:`Event.reply`."""
        if request._answered:
            raise LocalError(f"this request on topic {request.topic!r} has been answered already")
        head = envelope.answer(request._head, request._at, time.time_ns(), kind=kind)
        data, encryptor = wire.encode_body(body), self._encryptor(request.topic_id, request.topic)
        datagram = head + data if encryptor is None else encryptor.encrypt(head, data)
        to = (self._broker or _via(request._head, request._at), envelope.port_of(request._head, request._at))
        request._answered = True
        if not self.blocks and self._together.takes(datagram, to, self.requests - request._number):
            self.sent += 1
            return DONE
        if self._sent(request, datagram, to):
            return DONE
        if not self.blocks:
            return self._send_patiently(request, datagram, to)
        while not self._sent(request, datagram, to):
            sock = self._sock
            select.select((), (sock,) if sock is not None else (), (), RETRY)
        return DONE

    def report(self, topic: int, name: str, group: str, datagram: bytes, at: int, received_ns: int) -> bool:
        """Answer a probe of a topic, whose envelope begins at byte ``at``, if that can be done at once.

        Whether it was; what cannot be said is left unsaid, for nobody waits here.
        """
        body = at + envelope.LENGTH
        marks, sock = probe.marks_of(datagram, body), self._sock
        if marks is None or sock is None:
            return False
        encryptor = self._encryptor(topic, name)
        room = len(datagram) - body - len(marks) - (0 if encryptor is None else OVERHEAD)
        try:
            ip, port = sock.getsockname()[:2]
            told = probe.tell(room, received_ns, ip, port, group)
            if told is None:
                return False
            head = envelope.answer(datagram[:body], at, time.time_ns())
            report = head + told if encryptor is None else encryptor.encrypt(head, told)
            to = (self._broker or _via(datagram, at), envelope.port_of(datagram, at))
            return self._taken(probe.marked(report, body, marks), to)
        except (LocalError, EventTooBig, OSError):
            return False

    def _encryptor(self, topic: int, name: str) -> Encryptor | None:
        """Who encrypts what is said of a topic, if anybody."""
        if self._keys is None:
            return None
        if topic not in self._encryptors:
            keys = self._keys.of(Topic(topic, name, framing=Framing.EVENT))
            self._encryptors[topic] = Encryptor(keys[0]) if keys else None
        return self._encryptors[topic]

    def _sent(self, request: Request, datagram: bytes, to: tuple[str, int]) -> bool:
        """Whether the socket took it; raises where it never will: then another answer may be tried."""
        try:
            taken = self._taken(datagram, to)
        except BaseException:
            request._answered = False
            self.failed += 1
            raise
        if taken:
            self.sent += 1
            self._together.largest = max(self._together.largest, len(datagram))
        return taken

    def _not_sent(self, error: LocalError) -> None:
        """Of one that left with others, so that nobody can be told who gave it."""
        self.sent -= 1
        self.failed += 1
        self._log.warn("reply", "a reply that was to leave with others is not sent: %s", error)

    def _taken(self, datagram: bytes, to: tuple[str, int]) -> bool:
        sock = self._sock
        try:
            if sock is None:
                with _sockets.connected(*to) as other:
                    other.send(datagram)
            else:
                sock.sendto(datagram, to)
        except OSError as error:
            if error.errno in _sockets.BUSY:
                return False
            if error.errno == errno.EBADF and sock is not None:
                # Closed by another thread just now.
                self._sock = None
                return self._taken(datagram, to)
            if error.errno == errno.EMSGSIZE:
                with _sockets.connected(*to) as probe:
                    limit = min(_sockets.largest_payload(probe), len(datagram) - 1)
                overhead = wire.IP_UDP_OVERHEAD
                raise EventTooBig(len(datagram) + overhead, limit + overhead, "reply") from error
            raise LocalError(f"cannot send to the broker at {to[0]}:{to[1]}: {error.strerror}") from error
        return True

    async def _send_patiently(self, request: Request, datagram: bytes, to: tuple[str, int]) -> None:
        # The loop's one writer of this socket may be somebody else's, and a full socket is empty soon.
        while not self._sent(request, datagram, to):
            await asyncio.sleep(RETRY)


def _via(head: bytes, at: int) -> str:
    """The broker's address as who asked knows it; the envelope begins at byte ``at``."""
    at += _abi.ENVELOPE_VIA
    number = int.from_bytes(head[at : at + 4], "big")
    if not number:
        raise LocalError("the request does not tell the address of its broker: subscribe there by control")
    return str(ipaddress.IPv4Address(number))
