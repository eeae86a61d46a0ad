"""The requests of one publisher that wait for an answer, and what became of all others.

Sans-IO: datagrams come in, answers go to whoever waits. Rules: only who has seen a request can answer it, by
its token; the first answer is the one, and later ones are counted; what comes for a request that nobody waits
for any more is counted under why; what is remembered of those is bounded (:data:`REMEMBERED`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tempos import _abi, wire
from tempos._remarks import Sparingly
from tempos.errors import WireError
from tempos.requests import envelope

#: Requests that are over and of which it is known how they ended: the latest.
REMEMBERED = 4096

_REPLY_FLAGS = _abi.WIRE_VERSION << 4 | _abi.FLAG_ENVELOPE
#: Whatever a later version sets beside them.
_KNOWN_BITS = 0xFF & ~_abi.FLAG_TRACE & ~_abi.FLAG_DUP
_unpack_header = _abi.EVENT_HEADER.unpack_from
_U32 = 0xFFFFFFFF

_log = logging.getLogger("tempos.publisher")


class Answer(NamedTuple):
    """What came for a request. ``kind`` and ``code`` as in the envelope; ``sent_ns``: the replier's clock."""

    kind: int
    code: int
    body: bytes
    sent_ns: int


@dataclass(frozen=True, slots=True)
class RequestStats:
    """What became of a publisher's requests, each of which is in one of the first six.

    ``answered`` got a reply, ``refused`` an error in its place (the replier's, or that there is no member),
    ``timeouts`` nothing in time, ``cancelled`` was given up by its caller or at the close, ``failed`` could
    not be sent, ``waiting`` is still out. Of what else came: ``further`` answers to a request that had one
    (other groups answer, too; or a network doubled it), ``late`` ones, ``strays`` that answer nothing that
    was asked here or lack its token, and ``malformed`` ones. ``overruns``: lost by the kernel for want of
    room in the socket, as far as it has told.
    """

    answered: int = 0
    refused: int = 0
    timeouts: int = 0
    cancelled: int = 0
    failed: int = 0
    waiting: int = 0
    further: int = 0
    late: int = 0
    strays: int = 0
    malformed: int = 0
    overruns: int = 0

    @property
    def requests(self) -> int:
        """All that were made."""
        return self.answered + self.refused + self.timeouts + self.cancelled + self.failed + self.waiting


class _Waiting(NamedTuple):
    token: bytes
    answered: Callable[[Answer], None]


class Requests:
    """The requests of the publisher with this number."""

    def __init__(self, publisher: int, now: Callable[[], float] = time.monotonic) -> None:
        self._publisher = publisher
        self._waiting: dict[int, _Waiting] = {}
        #: How it ended, with its token: whether it was answered.
        self._over: dict[int, tuple[bytes, bool]] = {}
        self._counts = dict.fromkeys(RequestStats.__dataclass_fields__, 0)
        self._log = Sparingly(_log, now)

    @property
    def stats(self) -> RequestStats:
        return RequestStats(**{**self._counts, "waiting": len(self._waiting)})

    def begin(self, topic: int, sequence: int, token: bytes, answered: Callable[[Answer], None]) -> int:
        """A request is about to go; gives what :meth:`end` takes. ``answered`` is called at most once."""
        key = topic << 32 | sequence & _U32
        self._waiting[key] = _Waiting(token, answered)
        return key

    def end(self, key: int, how: str) -> None:
        """Nobody waits for an answer any more: count it as a field of :class:`RequestStats`."""
        if key in self._waiting:
            self._end(key, how)

    def count(self, what: str, number: int = 1) -> None:
        """Count what concerns no request that waits."""
        self._counts[what] += number

    def receive(self, datagram: bytes) -> None:
        """Take one datagram from the socket; never raises."""
        at = wire.HEADER_LEN
        if len(datagram) < at or datagram[_abi.OFFSET_VERSION_FLAGS] & _KNOWN_BITS != _REPLY_FLAGS:
            self._malformed("it is no reply")
            return
        try:
            read = envelope.read(datagram, at)
        except WireError as error:
            self._malformed(str(error))
            return
        topic, _, _, _, publisher, sequence, _, sent_ns = _unpack_header(datagram)
        key = topic << 32 | sequence
        waiting = self._waiting.get(key)
        if publisher != self._publisher or read.kind == _abi.KIND_REQUEST:
            self._counts["strays"] += 1
        elif waiting is not None and waiting.token == read.token:
            self._end(key, "answered" if read.kind == _abi.KIND_REPLY else "refused")
            body = datagram[at + envelope.LENGTH :]
            waiting.answered(Answer(read.kind, read.code, body, sent_ns))
        else:
            token, answered = self._over.get(key, (b"", False))
            known = token == read.token
            self._counts["strays" if not known else "further" if answered else "late"] += 1

    def _end(self, key: int, how: str) -> None:
        waiting = self._waiting.pop(key)
        self._counts[how] += 1
        if len(self._over) >= REMEMBERED:
            del self._over[next(iter(self._over))]
        self._over[key] = waiting.token, how in ("answered", "refused")

    def _malformed(self, why: str) -> None:
        self._counts["malformed"] += 1
        self._log.warn("reply", "%d datagrams so far are no replies that can be read; the last: %s",
                       self._counts["malformed"], why)  # fmt: skip
