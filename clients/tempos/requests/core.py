"""The requests of one publisher that wait for an answer, and what became of all others.

Sans-IO: datagrams come in, answers go to whoever waits. Rules: only who has seen a request can answer it, by
its token; the first answer is the one, and later ones are counted; what comes for a request that nobody waits
for any more is counted under why; what is remembered of those is bounded (:data:`REMEMBERED`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tempos import _abi, wire
from tempos._remarks import Sparingly
from tempos.encryption import Decryptor, Undecryptable
from tempos.errors import WireError
from tempos.requests import envelope

#: Requests that are over and of which it is known how they ended: the latest.
REMEMBERED = 4096

_REPLY_FLAGS = _abi.WIRE_VERSION << 4 | _abi.FLAG_ENVELOPE
#: Whatever a later version sets beside them.
_KNOWN_BITS = 0xFF & ~_abi.FLAG_TRACE & ~_abi.FLAG_DUP
_unpack_header = _abi.EVENT_HEADER.unpack_from
_U32 = 0xFFFFFFFF
_WIDE = bytes((_abi.WIDE,))

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


class Waiter(Protocol):
    """Who waits for an answer; an asyncio future is one."""

    def done(self) -> bool:
        """Whether it waits no more, for it has an answer or was given up."""
        ...

    def set_result(self, answer: Answer, /) -> object:
        """Here is the answer."""
        ...


class Waiting(NamedTuple):
    """A request that is out. ``due``: when it is over; ``note``: whatever its maker wants to know then.

    ``decryptor``: of its topic, where answers are encrypted.
    """

    token: bytes
    waiter: Any
    due: float
    note: Any
    decryptor: Decryptor | None


class Requests:
    """The requests of the publisher with this number. Times are seconds of one clock that never steps."""

    def __init__(self, publisher: int, now: Callable[[], float] = time.monotonic) -> None:
        self._publisher = publisher
        self._waiting: dict[int, Waiting] = {}
        #: How it ended, with its token: whether it was answered; and in which order they ended.
        self._over: dict[int, tuple[bytes, bool]] = {}
        self._order: deque[int] = deque()
        self._counts = dict.fromkeys(RequestStats.__dataclass_fields__, 0)
        self._log = Sparingly(_log, now)
        #: Who takes what is no answer to a request, if it is a report: its wide id, the datagram laid out
        #: as a narrow one, and where its envelope begins; tells whether it did.
        self.on_report: Callable[[int, bytes, int], bool] | None = None

    @property
    def stats(self) -> RequestStats:
        return RequestStats(**{**self._counts, "waiting": len(self._waiting)})

    def begin(
        self,
        topic: int,
        sequence: int,
        token: bytes,
        waiter: Waiter,
        due: float,
        note: Any = None,
        decryptor: Decryptor | None = None,
    ) -> int:
        """A request is about to go; gives what :meth:`end` takes."""
        key = topic << 32 | sequence & _U32
        self._waiting[key] = Waiting(token, waiter, due, note, decryptor)
        return key

    def end(self, key: int, how: str) -> None:
        """Nobody waits for an answer any more: count it as a field of :class:`RequestStats`."""
        if key in self._waiting:
            self._end(key, how, answered=False)

    @property
    def out(self) -> int:
        """How many are out."""
        return len(self._waiting)

    def waiting_at(self, key: int) -> Waiting | None:
        """What is out under a key of :meth:`begin`."""
        return self._waiting.get(key)

    @staticmethod
    def key_of(datagram: bytes) -> int | None:
        """The key of a datagram of this publisher's own, if it is a request and no probe."""
        wide = wire.topic_in(datagram) if datagram[:1] == _WIDE else 0
        head = wire.as_narrow(datagram) if wide else datagram
        if len(head) < wire.HEADER_LEN or head[_abi.OFFSET_VERSION_FLAGS] != _REPLY_FLAGS:
            return None
        narrow, _, _, _, _, sequence, _, _ = _unpack_header(head)
        key: int = (wide or narrow) << 32 | sequence
        return key

    def expire(self, now: float) -> list[Waiting]:
        """Those that are over without an answer, counted as timeouts."""
        over = [(key, waiting) for key, waiting in self._waiting.items() if waiting.due <= now]
        for key, _ in over:
            self._end(key, "timeouts", answered=False)
        return [waiting for _, waiting in over]

    def next_due(self) -> float | None:
        """When :meth:`expire` has something to do, at the earliest."""
        return min((waiting.due for waiting in self._waiting.values()), default=None)

    def waiting(self) -> list[Waiting]:
        """All that are out."""
        return list(self._waiting.values())

    def count(self, what: str, number: int = 1) -> None:
        """Count what concerns no request that waits."""
        self._counts[what] += number

    def receive(self, datagram: bytes) -> None:
        """Take one datagram from the socket; never raises."""
        wide = 0
        if datagram[:1] == _WIDE and len(datagram) >= wire.WIDE_HEADER_LEN:
            wide, datagram = wire.topic_in(datagram), wire.as_narrow(datagram)
        at = wire.HEADER_LEN
        if (
            len(datagram) >= at + envelope.LENGTH
            and datagram[_abi.OFFSET_VERSION_FLAGS] & _KNOWN_BITS == _REPLY_FLAGS
        ):
            narrow, _, _, _, publisher, sequence, _, sent_ns = _unpack_header(datagram)
            key = (wide or narrow) << 32 | sequence
            waiting = self._waiting.get(key)
            if waiting is not None and publisher == self._publisher:
                kind = envelope.ANSWERS.get(datagram[at])
                token = datagram[at + _abi.ENVELOPE_TOKEN : at + envelope.LENGTH]
                if kind is not None and token == waiting.token:
                    code = datagram[at + _abi.ENVELOPE_CODE]
                    # What a broker says itself has a code, and no body.
                    if waiting.decryptor is not None and not code:
                        try:
                            datagram = waiting.decryptor.decrypt(datagram, time.time_ns())
                        except Undecryptable as error:
                            self._malformed(str(error))
                            return
                    self._end(key, "answered" if kind == _abi.KIND_REPLY else "refused", answered=True)
                    if not waiting.waiter.done():
                        body = datagram[at + envelope.LENGTH :]
                        waiting.waiter.set_result(Answer(kind, code, body, sent_ns))
                    return
        self._receive_other(wide, datagram, at)

    def _receive_other(self, wide: int, datagram: bytes, at: int) -> None:
        """What is no answer to a request that is out: count it under what it is."""
        if self.on_report is not None and self.on_report(wide, datagram, at):
            return
        if len(datagram) < at or datagram[_abi.OFFSET_VERSION_FLAGS] & _KNOWN_BITS != _REPLY_FLAGS:
            self._malformed("it is no reply")
            return
        try:
            read = envelope.read(datagram, at)
        except WireError as error:
            self._malformed(str(error))
            return
        narrow, _, _, _, publisher, sequence, _, _ = _unpack_header(datagram)
        token, answered = self._over.get((wide or narrow) << 32 | sequence, (b"", False))
        ours = publisher == self._publisher and read.kind != _abi.KIND_REQUEST and token == read.token
        self._counts["strays" if not ours else "further" if answered else "late"] += 1

    def _end(self, key: int, how: str, *, answered: bool) -> None:
        waiting = self._waiting.pop(key)
        self._counts[how] += 1
        self._over[key] = waiting.token, answered
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._over.pop(self._order.popleft(), None)

    def _malformed(self, why: str) -> None:
        self._counts["malformed"] += 1
        self._log.warn("reply", "%d datagrams so far are no replies that can be read; the last: %s",
                       self._counts["malformed"], why)  # fmt: skip
