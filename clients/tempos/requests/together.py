"""Replies that are given one behind the other in one turn of the event loop leave by one system call.

As events do (:mod:`tempos.sending.gathered`): each is a datagram of its own, cut out of one buffer by the
kernel (UDP_SEGMENT), and one behind whose request no others wait is in the socket when `reply` returns.
Rules: those of a crowd leave at the end of the turn at the latest; what waits is bounded; a full socket is
tried again until it takes them; what is larger than any that left by itself leaves by itself, too, for its
caller may have to hear that it is too large; of one that cannot be sent all the same its error is told to
whoever counts it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tempos import _sockets
from tempos.errors import LocalError
from tempos.sending.gathered import FEW, MOST, UNSEGMENTED, kernel_segments, segments_of
from tempos.sending.outlet import MAX_PAYLOAD

#: Seconds until a socket that nothing can watch is tried again.
RETRY = 0.001

Endpoint = tuple[str, int]


class Together:
    """What one subscriber has gathered.

    ``send`` takes one datagram: whether the socket took it, or :class:`LocalError`; ``failed`` learns of each
    that had been taken here and cannot be sent.
    """

    def __init__(
        self, send: Callable[[bytes, Endpoint], bool], failed: Callable[[LocalError], object]
    ) -> None:
        self._send = send
        self._failed = failed
        self._sock: socket.socket | None = None
        self._datagrams: list[bytes] = []
        self._to: Endpoint = ("", 0)
        self._segments = kernel_segments()
        self._is_open = self._scheduled = False
        #: Bytes of the largest that left by itself.
        self.largest = 0

    def open(self, sock: socket.socket) -> None:
        """They leave by ``sock`` from now on."""
        self._sock, self.largest = sock, 0

    def close(self) -> None:
        """The socket is about to be closed: what waits leaves now, or fails."""
        self.depart(last=True)
        self._sock = None

    def takes(self, datagram: bytes, to: Endpoint, behind: int) -> bool:
        """Whether this one leaves with others; else its caller sends it.

        ``behind``: so many requests have come since the one that it answers.
        """
        if len(datagram) > self.largest:
            return False
        if not self._is_open:
            if behind < FEW or not self._segments or self._sock is None:
                return False
            self._is_open = True
            self._schedule(asyncio.get_running_loop())
        if self._datagrams:
            size = len(self._datagrams[0])
            most = min(MOST, MAX_PAYLOAD // size)
            if (
                len(datagram) != size or to != self._to or len(self._datagrams) >= most
            ) and not self.depart():
                return False
        self._to = to
        self._datagrams.append(datagram)
        return True

    def _schedule(self, loop: asyncio.AbstractEventLoop, after: float = 0.0) -> None:
        if not self._scheduled:
            self._scheduled = True
            if after:
                loop.call_later(after, self._end_turn, loop)
            else:
                loop.call_soon(self._end_turn, loop)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = self._is_open = False
        if not self.depart():
            self._schedule(loop, RETRY)

    def depart(self, *, last: bool = False) -> bool:
        """Send all that waits; False if the socket takes no more now and this is not the ``last`` try."""
        datagrams = self._datagrams
        if len(datagrams) > 1 and self._segments and self._sock is not None:
            try:
                self._sock.sendmsg((b"".join(datagrams),), segments_of(len(datagrams[0])), 0, self._to)
                datagrams.clear()
            except OSError as error:
                if error.errno in _sockets.BUSY and not last:
                    return False
                # Which of them it concerns shows one by one; where none fails, it was that they were several.
                if not self._one_by_one(datagrams, last=last) and error.errno in UNSEGMENTED:
                    self._segments = False
                return not datagrams
        self._one_by_one(datagrams, last=last)
        return not datagrams

    def _one_by_one(self, datagrams: list[bytes], *, last: bool) -> int:
        """How many failed; what a full socket did not take is left, unless it is the ``last`` try."""
        failed = 0
        while datagrams:
            try:
                if not self._send(datagrams[0], self._to):
                    if not last:
                        return failed or 1
                    raise LocalError("the subscriber was closed while its socket was full")
            except LocalError as error:
                failed += 1
                self._failed(error)
            del datagrams[0]
        return failed
