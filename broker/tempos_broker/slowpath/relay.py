"""Sends replies on to who asked, and tells askers at once that nobody is there.

A reply comes by the data port, like an event of its topic and in that topic's class, and leaves from the data
port for the return address in its envelope. It waits in no queue, draws no ticket and has no member; the path
of a request is that of any event.

Rules: nothing is sent on that has no address of this broker's making, or one whose time is over; those of one
size that came together for one asker leave together, and the kernel cuts them apart (UDP_SEGMENT); each reply
is counted in its topic's row, as ``reply`` or as refused, and what is not sent on is told sparingly;
what the broker says itself (nobody is there, the reply was too big) is no larger than what it answers.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tempos import REASON_TEXTS, Framing, Quality, Reason, Topic, _abi, wire
from tempos._remarks import Sparingly
from tempos.requests import envelope
from tempos.requests.probe import since_start
from tempos.sending.gathered import MOST, UNSEGMENTED, kernel_segments, segments_of
from tempos.sending.outlet import MAX_PAYLOAD
from tempos_broker.addresses import ANY, leaving_from
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.marking import tos_message
from tempos_broker.slowpath.returns import Destination, Returns, unsealed
from tempos_broker.slowpath.sockets import DataSocket, waiting

logger = logging.getLogger(__name__)

#: Ways that are remembered.
WAYS = 64
#: What the broker says itself waits in one so many-th of a socket's send buffer at most.
SHARE = 8


_Control = Sequence[tuple[int, int, bytes]]


class _Way(NamedTuple):
    """What to send by, with which control messages."""

    sock: socket.socket
    control: list[tuple[int, int, bytes]]


class Relay:
    """What a slow path does with replies. ``returns`` None: it has no key, and sends none on."""

    def __init__(self, core: SlowPath[Any], topics: Iterable[Topic], returns: Returns | None) -> None:
        self._core = core
        self._returns = returns
        self._classes: dict[int, Quality] = {}
        self._sockets: dict[Quality, list[tuple[str, socket.socket]]] = {}
        self._marks: dict[Quality, list[tuple[int, int, bytes]]] = {}
        self._ways: dict[tuple[Quality, str | None], _Way] = {}
        self._log = Sparingly(logger, time.monotonic)
        self._segments = kernel_segments()
        for topic in topics:
            self.put(topic)

    def put(self, topic: Topic) -> None:
        """Send on the replies of a topic in the class that it has now."""
        self.drop(topic.id)
        if topic.framing is Framing.EVENT:
            self._classes[topic.id] = topic.quality

    def drop(self, topic: int) -> None:
        """A topic is no more."""
        self._classes.pop(topic, None)

    def channels(self, quality: Quality, sockets: Sequence[DataSocket], tos: int | None) -> None:
        """What a class sends by, and the byte to write into each datagram; None: the socket's own holds."""
        self._sockets[quality] = [(each.address, each.sock) for each in sockets]
        self._marks[quality] = [] if tos is None else [tos_message(tos)]
        self._ways.clear()

    def reply(self, topic: int, datagram: bytes) -> None:
        """Send one on, and count it."""
        to = self._to(datagram, since_start())
        if to is None:
            self._refuse(topic, Reason.BAD_RETURN, "")
        else:
            self._send_one(topic, datagram, unsealed(datagram, wire.body_at(datagram)), to)

    def replies(self, topic: int, datagrams: Iterable[bytes]) -> None:
        """Send these on, and count each."""
        now = since_start()
        alike: list[bytes] = []
        last: tuple[Destination, int] | None = None
        for datagram in datagrams:
            to = self._to(datagram, now)
            if to is None:
                self._refuse(topic, Reason.BAD_RETURN, "")
                continue
            at = to, len(datagram)
            if at != last or len(alike) >= min(MOST, MAX_PAYLOAD // len(datagram)):
                self._send_on(topic, alike, last)
                alike, last = [], at
            alike.append(datagram)
        self._send_on(topic, alike, last)

    def _send_on(self, topic: int, alike: Sequence[bytes], last: tuple[Destination, int] | None) -> None:
        """Send on replies of one size to one asker, together if that can be."""
        if last is None:
            return
        to, size = last
        onward = [unsealed(datagram, wire.body_at(datagram)) for datagram in alike]
        refusal = 0
        if len(onward) > 1 and self._segments:
            refusal = self._send(topic, b"".join(onward), to, segments_of(size))
            if not refusal:
                self._core.refused(topic, Reason.REPLY, len(onward))
                return
        # Whatever it was, each is told its own.
        sent = [self._send_one(topic, *each, to) for each in zip(alike, onward, strict=True)]
        if refusal in UNSEGMENTED and all(sent):
            self._segments = False

    def _send_one(self, topic: int, datagram: bytes, onward: bytes, to: Destination) -> bool:
        """Send a reply on as ``onward``; whether the kernel took it."""
        error = self._send(topic, onward, to)
        if not error:
            self._core.refused(topic, Reason.REPLY, 1)
            return True
        self._refuse(topic, Reason.REPLY_UNSENT, f" ({to.ip}:{to.port}: {os.strerror(error)})")
        if error == errno.EMSGSIZE:
            self._send_error(topic, datagram, to, _abi.ERROR_TOO_BIG)
        return False

    def nobody(self, topic: int, requests: Iterable[bytes]) -> None:
        """Tell those who sent these requests that the topic has no member."""
        now = since_start()
        for datagram in requests:
            to = self._to(datagram, now)
            if to is not None:
                self._send_error(topic, datagram, to, _abi.ERROR_NO_MEMBER)

    def say(self, datagram: bytes, endpoint: tuple[str, int], via: str | None) -> int:
        """Send something of the broker's own as best effort; 0, or the errno.

        What is for an address that does not answer waits for seconds, in the kernel, in the room that events
        need; so this gets no more than a share of it.
        """
        way = self._ways.get((Quality.BQ, via)) or self._find(Quality.BQ, via)
        if way is None:
            return errno.EADDRNOTAVAIL
        if waiting(way.sock) > way.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // SHARE:
            return errno.EAGAIN
        return self._by(way, datagram, endpoint)

    def _to(self, datagram: bytes, now: float) -> Destination | None:
        """Where the return address leads, if it is one that leads anywhere."""
        at = wire.body_at(datagram)
        return None if self._returns is None else self._returns.open(datagram[at : at + envelope.LENGTH], now)

    def _send_error(self, topic: int, datagram: bytes, to: Destination, code: int) -> None:
        at = wire.body_at(datagram)
        head = datagram[: at + envelope.LENGTH]
        head = envelope.answer(head, at, time.time_ns(), kind=_abi.KIND_ERROR, code=code)
        if error := self._send(topic, unsealed(head, at), to):
            self._log.warn(
                f"error {topic}",
                f"an asker of topic {topic} at {to.ip}:{to.port} cannot be told why it gets no reply: "
                f"{os.strerror(error)}",
            )

    def _send(self, topic: int, datagram: bytes, to: Destination, more: _Control = ()) -> int:
        """0, or the errno; ``more``: control messages."""
        key = self._classes.get(topic, Quality.BQ), to.via
        way = self._ways.get(key) or self._find(*key)
        if way is None:
            return errno.EADDRNOTAVAIL
        return self._by(way, datagram, (to.ip, to.port), more)

    def _by(self, way: _Way, datagram: bytes, to: tuple[str, int], more: _Control = ()) -> int:
        try:
            if way.control or more:
                way.sock.sendmsg((datagram,), (*way.control, *more), 0, to)
            else:
                way.sock.sendto(datagram, to)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _find(self, quality: Quality, via: str | None) -> _Way | None:
        """The way by which a class sends from an address of ours, or from any."""
        sockets, marks = self._sockets.get(quality, []), self._marks.get(quality, [])
        found = None
        for address, sock in sockets:
            if via in (None, address):
                found = _Way(sock, marks)
                break
            if address == ANY:
                # One that has every address stands alone.
                found = _Way(sock, [*marks, *leaving_from(via)])
        # Only few: what is asked of us to seal are addresses of ours.
        if found is not None and len(self._ways) < WAYS:
            self._ways[quality, via] = found
        return found

    def _refuse(self, topic: int, reason: Reason, more: str) -> None:
        self._core.refused(topic, reason, 1)
        self._log.warn(
            f"{reason.label} {topic}",
            f"a reply on topic {topic} is not sent on: {REASON_TEXTS[reason]}{more}",
        )
