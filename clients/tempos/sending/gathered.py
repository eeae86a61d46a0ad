"""Events that are published one behind the other in one turn of the event loop leave by one system call.

Each is a datagram of its own, as ever; the kernel is given many of one size as one buffer, which it cuts up
(UDP_SEGMENT). Rules: an event that does not follow many others closely is in the socket when `publish`
returns; those of a crowd leave when there are as many as the kernel takes, when one of another size comes,
and at the end of the turn at the latest; order stays. Where segmenting is refused, all leave one by one. What
waits is bounded, stays while the socket is full or has no way, and is counted as sent once it is. Requests
are gathered like events where several others are out; what goes wrong with one is told to who asks, and none
waits for a way.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from tempos import _sockets, wire
from tempos._awaitables import DONE, TURN
from tempos.errors import LocalError, NoWay
from tempos.sending.outlet import MAX_PAYLOAD, Outlet
from tempos.sending.outlets import Outlets

#: Two events that are further apart than this, nanoseconds, are not of one burst.
APART = 100_000
#: So many of a burst leave at once before others are gathered, unless there was a crowd in the turn before;
#: and so many more where the turn turned out to be over.
EAGER, AGAIN = 8, 64
#: Where so many others wait for an answer, or to be answered, one is taken for one of a crowd.
FEW = 4
#: Datagrams that wait at most: as many as the kernels that take the fewest cut out of one buffer.
MOST = 64
#: Datagrams sent without a turn of the event loop before the publisher takes one on its own.
TURN_EVERY = 256

# Not in the socket module; the numbers are those of linux/udp.h.
_UDP_SEGMENT = 103
_SIZE = struct.Struct("=H")
#: What says that the kernel, or a device on the way, does not segment; some say so of one that is too large.
UNSEGMENTED = (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT)

_log = logging.getLogger("tempos.publisher")


class Sender(Protocol):
    """The publisher: its socket, and what it does after a send that failed."""

    _socket: Any
    _topics: Outlets
    _datagrams: int
    _bytes: int
    _asking: Any

    def _sent(self, outlet: Outlet, datagram: bytes, events: int) -> bool: ...

    @property
    def _confirming(self) -> object: ...

    def _sent_after(self, error: OSError, datagram: bytes, events: int) -> bool: ...

    def _send_patiently(self, outlet: Outlet, datagram: bytes, events: int) -> Awaitable[None]: ...

    async def _until_writable(self) -> None: ...

    def _note_refused(self, count: int) -> int: ...

    def _note_failed(self, events: int, error: LocalError) -> None: ...


def kernel_segments() -> bool:
    """Whether this kernel knows the option; one that does not would send all as one datagram."""
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
        except OSError:
            return False
    return True


def segments_of(size: int) -> tuple[tuple[int, int, bytes]]:
    """What tells the kernel to cut a buffer into datagrams of so many bytes: ancillary data of sendmsg."""
    return ((socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(size)),)


class Gathered:
    """What one publisher has gathered. While :attr:`is_open` events are to go by :meth:`put`."""

    __slots__ = (
        "_datagrams",
        "_error",
        "_flushing",
        "_gathers",
        "_loop",
        "_most",
        "_publisher",
        "_scheduled",
        "_segments",
        "_size",
        "is_open",
        "last_ns",
        "near",
        "single",
        "turn_at",
    )

    def __init__(self, publisher: Sender) -> None:
        self._publisher = publisher
        self._loop: asyncio.AbstractEventLoop | None = None
        self._datagrams: list[bytes] = []
        # What one has to have to go on top without a question, and how many there may be of it.
        self._size = self._most = 0
        self._segments = kernel_segments()
        self._error: LocalError | None = None
        self._scheduled = self._gathers = False
        self._flushing: asyncio.Task[None] | None = None
        #: Whether a burst is on in this turn, or something is to be told.
        self.is_open = False
        #: When the latest event left that was not gathered.
        self.last_ns = 0
        #: How many have left so, one shortly after the other.
        self.near = 0
        #: Whether nothing is gathered: the broker says that its fast path does not understand several at
        #: once. They would go another way than those alone, and be overtaken.
        self.single = False
        #: At how many datagrams the event loop gets its turn.
        self.turn_at = TURN_EVERY

    @property
    def waits(self) -> bool:
        """Whether anything waits."""
        return bool(self._datagrams)

    def left_alone(self, loop: asyncio.AbstractEventLoop, now: int, datagrams: int) -> Awaitable[None]:
        """An event has left at ``now``, one of so many datagrams; gives what `publish` gives."""
        if now - self.last_ns > APART:
            self.near = 0
        elif self.near < EAGER:
            self.near += 1
        else:
            self.begin(loop)
        self.last_ns = now
        return DONE if datagrams < self.turn_at else self.turn(datagrams)

    def leave(
        self, loop: asyncio.AbstractEventLoop, outlet: Outlet, datagram: bytes, others: int
    ) -> Awaitable[None]:
        """Send a request: by itself, or with others of this turn; so many ``others`` wait for answers."""
        if others >= FEW and not self.is_open:
            self.begin(loop)
        if self.is_open:
            return self.put(outlet, datagram, len(datagram))
        if self._publisher._sent(outlet, datagram, 1):
            return DONE
        return self._publisher._send_patiently(outlet, datagram, 1)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """After :data:`EAGER` events that left shortly after each other: gather what follows in this turn."""
        if self._segments and not self.single:
            self._loop, self.is_open = loop, True
            self._gathers = False
            self._schedule()

    def new_way(self) -> None:
        """There is another socket, and perhaps another device."""
        self._segments = kernel_segments()

    def turn(self, datagrams: int, ahead: int = 0) -> Awaitable[None]:
        """What `publish` gives after so many datagrams in all; ``ahead``: as many may follow at once."""
        if datagrams + ahead < self.turn_at:
            return DONE
        self.turn_at = datagrams + TURN_EVERY
        return TURN

    def put(self, outlet: Outlet, datagram: bytes, size: int) -> Awaitable[None]:
        """Take a datagram; raises what became of earlier ones, without taking it."""
        if size != self._size:
            self.tell()
            if self._datagrams and not self._may_end(size) and not self.depart(raises=True):
                return self._publisher._send_patiently(outlet, datagram, 1)
            if self._datagrams:
                # A shorter one, with which the buffer ends.
                self._size, self._most = 0, 1
            else:
                self._size, self._most = size, min(MOST, MAX_PAYLOAD // max(size, 1))
                self._gathers = True
                self._schedule()
        outlet.events += 1
        self._datagrams.append(datagram)
        if len(self._datagrams) < self._most:
            return DONE
        return self._full(outlet, datagram)

    def _may_end(self, size: int) -> bool:
        return 0 < size < self._size

    def _full(self, outlet: Outlet, datagram: bytes) -> Awaitable[None]:
        try:
            gone = self.depart(raises=True)
        except LocalError:
            self._take_back(outlet, datagram)
            raise
        if not gone:
            self._take_back(outlet, datagram)
            return self._publisher._send_patiently(outlet, datagram, 1)
        return self.turn(self._publisher._datagrams, MOST)

    def _take_back(self, outlet: Outlet, datagram: bytes) -> None:
        """The one that came last is its publisher's still."""
        if self._datagrams and self._datagrams[-1] is datagram:
            self._datagrams.pop()
            outlet.events -= 1

    def _schedule(self) -> None:
        if not self._scheduled:
            assert self._loop is not None, "begun"
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def tell(self) -> None:
        """Raise what became of events that had been taken, if that was not told yet."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def depart(self, *, raises: bool = False) -> bool:
        """Send all that waits; False if the socket takes no more now.

        What goes wrong is raised here, or else told by the next call: where there is no way, all of it goes
        on waiting.
        """
        datagrams = self._datagrams
        if datagrams:
            try:
                return self._depart(datagrams)
            except LocalError as error:
                if raises:
                    raise
                self._note(error)
                return not datagrams
        return True

    async def flush(self) -> None:
        """The same, and wait for the socket; raises what went wrong."""
        while not self.depart(raises=True):
            await self._publisher._until_writable()
        self.tell()

    def forget(self) -> None:
        """Let go of what waits: it was told why it does not leave, or is another process's to send."""
        self._emptied()
        self.is_open = False
        self._error = None

    def give_up(self, error: LocalError) -> None:
        """What waits will not leave any more."""
        datagrams = self._datagrams
        if datagrams:
            for datagram in datagrams:
                self._never_left(datagram)
            events = sum(not self._publisher._asking.refused(each, error) for each in datagrams)
            if events:
                self._publisher._note_failed(events, error)
        self.forget()

    def _note(self, error: LocalError) -> None:
        # Publish has to come by here for it.
        self.is_open = True
        self._size = 0
        if self._error is None:
            self._error = error

    def _end_turn(self) -> None:
        self._scheduled = self.is_open = False
        if self._gathers:
            # That was no lone one's turn, nor is the next, if it comes now.
            self.last_ns = time.time_ns()
        else:
            self.near = -AGAIN
        if not self._datagrams:
            self.is_open = self._error is not None
            return
        if not self.depart():
            self.is_open = True
            if self._error is None and (self._flushing is None or self._flushing.done()):
                self._flushing = asyncio.create_task(self._flush_late(), name="tempos publisher turn")

    async def _flush_late(self) -> None:
        while not self.depart():
            if self._error is not None:
                return
            await self._publisher._until_writable()
        self.is_open = self._error is not None

    def _left(self, datagrams: Sequence[bytes], size: int) -> None:
        publisher = self._publisher
        publisher._datagrams += len(datagrams)
        publisher._bytes += size
        if publisher._confirming is not None:
            publisher._topics.keep(datagrams)

    def _never_left(self, datagram: bytes) -> None:
        self._publisher._topics.never_left(wire.topic_in(datagram))

    def _drop_requests(self, datagrams: list[bytes], error: NoWay) -> bool:
        """There is no way: who asks is told, and does not wait for one; whether anybody was."""
        asked = [each for each in datagrams if self._publisher._asking.refused(each, error)]
        for each in asked:
            datagrams.remove(each)
            self._never_left(each)
        return bool(asked)

    def _emptied(self) -> None:
        self._datagrams.clear()
        self._size = 0

    def _depart(self, datagrams: list[bytes]) -> bool:
        publisher, count = self._publisher, len(datagrams)
        if count > 1 and self._segments:
            whole = b"".join(datagrams)
            control = segments_of(len(datagrams[0]))
            for last in (False, True):
                try:
                    publisher._socket.sendmsg((whole,), control)
                except OSError as error:
                    # The news of an earlier datagram, in place of a send: the next try is about these.
                    if error.errno in _sockets.RETURNED and not last:
                        publisher._note_refused(1)
                        continue
                    if error.errno in _sockets.BUSY:
                        return False
                    return self._one_by_one(datagrams, error)
                left = tuple(datagrams)
                self._emptied()
                self._left(left, len(whole))
                return True
        return self._one_by_one(datagrams)

    def _one_by_one(self, datagrams: list[bytes], refusal: OSError | None = None) -> bool:
        """Send each by itself, so that an error is that of the datagram that it concerns, and no other's."""
        publisher = self._publisher
        while datagrams:
            datagram = datagrams[0]
            try:
                publisher._socket.send(datagram)
            except OSError as error:
                try:
                    if not publisher._sent_after(error, datagram, 1):
                        return False
                except NoWay as refused:
                    if self._drop_requests(datagrams, refused):
                        continue
                    raise
                except LocalError as refused:
                    del datagrams[0]
                    self._never_left(datagram)
                    if publisher._asking.refused(datagram, refused):
                        pass
                    elif self._error is not None:
                        publisher._note_failed(1, refused)
                    else:
                        self._note(refused)
                    refusal = None
                    continue
            del datagrams[0]
            self._left((datagram,), len(datagram))
        self._size = 0
        if refusal is not None and refusal.errno in UNSEGMENTED and self._segments:
            self._segments = False
            _log.info(
                "the way to the broker does not take several events at once (%s): from now on each leaves by "
                "a system call of its own", refusal.strerror,
            )  # fmt: skip
        return True
