"""The control port of a listen address: hands requests on, and answers each from the address it was sent to.

asyncio's datagram transports cannot do that where the socket has every address of the machine: the kernel
then answers from the one that it prefers, and a client that asked another one, a second address, a virtual
one, 127.0.0.2, never gets its answer. So the event loop watches the socket, and this reads and writes it.

Rules: a few datagrams at a wake-up, and for a short time, then the loop goes on, for events come first;
nothing that a stranger sends raises; an answer that the kernel does not take at once is counted and not
kept, for clients ask again. What goes to an address on the link that nobody has waits there for seconds, and
a stranger may ask in the name of many: so where much waits each address gets few answers, and members have
room of their own. Heartbeats that come one upon the other, whose answers nobody waits for, gather for a
moment, and are a few wake-ups of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tempos import Unavailable
from tempos._remarks import Sparingly
from tempos.control import MAX_DATAGRAM
from tempos.wire import AGAIN
from tempos_broker import addresses
from tempos_broker.slowpath.sockets import grow_receive_buffer, send_buffer, waiting
from tempos_daemon.early import may_come_later

log = logging.getLogger("tempos.broker.control")

#: Bytes asked of the kernel for datagrams that wait: what a thousand members send at once, and again before
#: the first of it was read. The kernel gives twice as many, and takes two thousand and more for a datagram.
BUFFER = 4 << 20
#: Datagrams read at one wake-up, and seconds after which none is begun any more: the dearest request that
#: fits a datagram takes most of a millisecond.
READ_BATCH, READ_TIME = 16, 0.0005
#: Seconds within which so many wake-ups follow each other where what comes is left to gather for so long.
GATHER, IN_A_ROW = 0.002, 3
#: Bytes read of a datagram: as many as an event can have that a publisher sends again.
_READ = 0xFFFF
#: Bytes asked of the kernel for answers that wait.
TO_SEND = 4 << 20
#: Where one so many-th of that is taken, an address gets so many answers in so many seconds; where one so
#: many-th is, members alone get any.
CROWDED, APIECE, WAITS = 8, 4, 3.0
RESERVED = 2
_ADDRESSES = 4096
#: Bytes that an answer takes of the room at most, as the kernel counts it: none is larger than a request.
_TAKES = 2 * MAX_DATAGRAM + 4096
#: In ``unsent``: the socket had no room for an answer, or the kernel refused it.
NO_ROOM, NOT_SENT = "reply did not fit the socket", "reply not sent"


class Reply(Protocol):
    """Sends an answer to who asked; ``member``: to one that has proved that it receives there."""

    def __call__(self, answer: bytes, *, member: bool = False) -> None: ...


#: A request, the address that it comes from, the one of ours that it was sent to (None: that is not told),
#: and the way back. Gives whether nobody waits for the answer.
Receive = Callable[[bytes, str, "str | None", Reply], "bool | None"]


class _Room:
    """Who may have an answer wait in a socket's room to send."""

    def __init__(self, sock: socket.socket) -> None:
        send_buffer(sock, TO_SEND)
        self._sock = sock
        self._size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        #: So many answers have room whatever becomes of those before them.
        self._sure = 0
        self._since = 0.0
        self._answered: Counter[str] = Counter()

    def takes(self, ip: str, now: float) -> bool:
        """Whether there is room for an answer to somebody at this address who is no member."""
        if self._sure > 0:
            self._sure -= 1
            return True
        taken = waiting(self._sock)
        if taken <= self._size // CROWDED:
            self._sure = (self._size // CROWDED - taken) // _TAKES
            return True
        if taken > self._size // RESERVED:
            return False
        if now - self._since > WAITS or len(self._answered) >= _ADDRESSES:
            self._since = now
            self._answered.clear()
        self._answered[ip] += 1
        return self._answered[ip] <= APIECE


class ControlSocket:
    """Bound to ``ip``:``port``; heard once it is to :meth:`serve`.

    ``unsent`` counts the answers that could not be sent, by why; ``emptied`` is called when nothing waits to
    be heard. Raises :class:`Unavailable` if the address or the port cannot be had.
    """

    def __init__(
        self,
        ip: str,
        port: int,
        receive: Receive,
        unsent: Counter[str],
        emptied: Callable[[], None] = lambda: None,
    ) -> None:
        self._receive = receive
        self._when_emptied = emptied
        self._unsent = unsent
        self._log = Sparingly(log, time.monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        # When nothing was left in it last; when it was read last, and how often in a row so soon after the
        # time before; whether nobody waits for what was read then (None: nothing was).
        self._emptied = self._read_at = float("-inf")
        self._in_a_row = 0
        self._can_wait: bool | None = None
        self._gathering: asyncio.TimerHandle | None = None
        #: None: it has them all, and the kernel tells to which a request was sent.
        self._address = None if ip == addresses.ANY else ip
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            grow_receive_buffer(self._sock, BUFFER)
            self._asks = self._address is None and addresses.TELLS
            if self._asks:
                addresses.ask_destinations(self._sock)
            self._room = _Room(self._sock)
            may_come_later(self._sock)
            self._sock.bind((ip, port))
            #: Where it is bound to; the port the kernel's choice where none was asked for.
            self.name: tuple[str, int] = self._sock.getsockname()
        except OSError as error:
            self._sock.close()
            raise Unavailable(
                f"cannot listen on {ip}:{port}/udp for control: {error.strerror or error}; "
                "set broker.control_port to a free one"
            ) from error
        except BaseException:
            self._sock.close()
            raise

    def serve(self) -> None:
        """Hand on what has come and comes; on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def has_heard(self, since: float) -> bool:
        """Whether all was handed on that had come by then (monotonic seconds)."""
        return self._emptied >= since or self._loop is None or self._is_empty()

    def _is_empty(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Stop serving; answers that come after this go nowhere. Safe to call twice."""
        if self._sock.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._sock.fileno())
            if self._gathering is not None:
                self._gathering.cancel()
            self._sock.close()

    def _readable(self) -> None:
        began = time.monotonic()
        follows = self._gathering is not None or began - self._read_at < GATHER
        # That may have taken too long for another look.
        is_empty = self._read_some(began) or self._is_empty()
        if is_empty:
            self._when_emptied()
        self._read_at = time.monotonic()
        self._in_a_row = self._in_a_row + 1 if follows and self._can_wait else 0
        if self._loop is not None and self._sock.fileno() >= 0:
            self._gather(self._loop, more=is_empty and self._in_a_row >= IN_A_ROW)

    def _gather(self, loop: asyncio.AbstractEventLoop, *, more: bool) -> None:
        """Leave what comes alone for a moment, or (not ``more``) hear it as it comes."""
        if more and self._gathering is None:
            loop.remove_reader(self._sock.fileno())
        elif not more and self._gathering is not None:
            self.serve()
        self._gathering = loop.call_later(GATHER, self._readable) if more else None

    def _read_some(self, now: float) -> bool:
        """Whether it was found that nothing is left."""
        until, self._can_wait = now + READ_TIME, None
        for count in range(READ_BATCH):
            if count and time.monotonic() > until:
                return False
            # A request may have closed us.
            if self._sock.fileno() < 0:
                return True
            try:
                datagram, ancillary, _, sender = self._sock.recvmsg(_READ, addresses.SPACE)
            except (BlockingIOError, InterruptedError):
                self._emptied = time.monotonic()
                return True
            except OSError as error:
                self._log.warn(f"receive {error.errno}", f"control socket: {error}")
                return False
            if len(datagram) > MAX_DATAGRAM and not datagram.startswith(AGAIN):
                # Enough to see that it is larger than any request.
                datagram = datagram[: MAX_DATAGRAM + 1]
            asked = addresses.destination(ancillary) if self._asks else self._address
            can_wait = self._receive(datagram, sender[0], asked, partial(self._send, sender, asked))
            self._can_wait = bool(can_wait) and self._can_wait is not False
        return False

    def _send(self, to: tuple[str, int], asked: str | None, answer: bytes, *, member: bool = False) -> None:
        if self._sock.fileno() < 0:
            return
        if not member and not self._room.takes(to[0], time.monotonic()):
            self._unsent[NO_ROOM] += 1
            return
        try:
            self._sock.sendmsg((answer,), addresses.leaving_from(asked) if self._asks else [], 0, to)
        except OSError as error:
            full = error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)
            self._unsent[NO_ROOM if full else NOT_SENT] += 1
            self._log.warn(
                f"send {error.errno}",
                f"the answer to {to[0]}:{to[1]}, who asked {asked or 'us'}, cannot be sent: {error.strerror}",
            )
