"""The data sockets: bound, sized and set up alike for both ways of doing I/O.

A listen address has sockets of its own, one for each class where the kernel can tell these apart. Python's
socket module does not name all of the Linux options used here; their numbers are those of <linux/in.h> and
<asm-generic/socket.h>.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tempos import LocalError, Quality, Unavailable
from tempos._sockets import memory
from tempos_broker.addresses import ANY, ask_destinations
from tempos_broker.slowpath import ttl
from tempos_daemon.early import may_come_later

_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT, _IP_PMTUDISC_DO = 0, 2
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_DOUBLES = 2 if sys.platform == "linux" else 1
_SO_ATTACH_FILTER = 26
#: A filter of one instruction, which takes 0 bytes of each datagram (<linux/filter.h>: BPF_RET).
_REFUSE = struct.pack("=HBBI", 6, 0, 0, 0)

_HINTS = {
    errno.EADDRINUSE: "another program has this port: stop it (`ss -ulpn` names it), or change the port",
    errno.EADDRNOTAVAIL: (
        "no interface has this address, but perhaps one in a VRF: change `listen` (`ip -4 address` shows "
        "them), or start the broker in there, `ip vrf exec NAME tempos broker ...`"
    ),
    errno.EACCES: "ports below 1024 need a privilege: run with CAP_NET_BIND_SERVICE, or change the port",
}


def absent(address: str, key: str = "listen") -> str:
    """What to do where an address that ``key`` of the configuration names is not here, and will not come."""
    return _hint(errno.EADDRNOTAVAIL, address).replace("`listen`", f"`{key}`")


def _hint(number: int, address: str) -> str:
    from tempos.doctor.vrf import bound_to, remedy, situation

    if number == errno.EADDRNOTAVAIL and (device := bound_to()):
        where = f"{situation(device)}, which does not have this address"
        return f"{where}: change `listen`, or {remedy(device, address)}"
    return _HINTS.get(number, "")


class DataSocket:
    """A bound, non-blocking UDP socket, and what the kernel dropped in front of it."""

    def __init__(self, sock: socket.socket, *, watches_drops: bool = True, topic: int = 0) -> None:
        """``watches_drops``: of the processes that share a socket one counts what is dropped.

        ``topic``: the foreign topic that all is of that comes here; 0: each datagram says itself.
        """
        self.sock = sock
        self.topic = topic
        self.fd = sock.fileno()
        self._watches_drops = watches_drops and sys.platform == "linux"
        self._drops = 0
        self._to_send = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    @classmethod
    def bind(
        cls, address: str, port: int, receive_buffer: int, *, beside: bool = False, topic: int = 0
    ) -> DataSocket:
        """Bind ``address``:``port``, asking the kernel for ``receive_buffer`` bytes.

        ``topic``: as for the class. ``beside``: beside a socket of this process that is there already and
        shares its port. Raises :class:`Unavailable` if the machine does not allow it.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            grow_receive_buffer(sock, receive_buffer)
            if sys.platform == "linux":
                # Never fragment: an event too large for the way is an error that is counted.
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            ttl.ask(sock)
            may_come_later(sock)
            if beside:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            hint = _hint(error.errno or 0, address)
            text = f"cannot listen on {address}:{port}/udp: {error.strerror}"
            raise Unavailable(f"{text}; {hint}" if hint else text) from error
        except (OverflowError, TypeError) as error:
            sock.close()
            raise LocalError(f"cannot listen on {address!r}, port {port!r}: {error}") from error
        return cls(sock, topic=topic)

    @classmethod
    def adopt(cls, fd: int) -> DataSocket:
        """A socket that another process bound and goes on watching; a duplicate of ``fd`` is taken."""
        sock = socket.socket(fileno=os.dup(fd))
        sock.setblocking(False)
        return cls(sock, watches_drops=False)

    def __str__(self) -> str:
        address, port = self.sock.getsockname()
        return f"{address}:{port}"

    @property
    def address(self) -> str:
        """What it is bound to; asks the kernel."""
        return str(self.sock.getsockname()[0])

    @property
    def receive_buffer(self) -> int:
        """Bytes the kernel gave. Linux doubles what it is asked for, to have room for its own bookkeeping."""
        given = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return given // 2 if sys.platform == "linux" else given

    def overruns(self) -> int:
        """Datagrams the kernel dropped in front of this socket since the last call.

        Read from SO_MEMINFO rather than from SO_RXQ_OVFL messages: those travel with the next datagram
        that gets through, so the drops at the end of a burst would stay unknown. Systems that have
        neither count nothing.
        """
        if not self._watches_drops:
            return 0
        _, _, drops = memory(self.sock)
        new = (drops - self._drops) & 0xFFFFFFFF
        self._drops = drops
        return int(new)

    def room_to_send(self, more: int) -> None:
        """Let so many bytes more than usual wait to be sent, or as many as the kernel allows."""
        # Linux doubles what it is asked for, and has told what came of that.
        send_buffer(self.sock, self._to_send + more)

    def share_port(self, shared: bool) -> None:
        """Whether another socket may be bound to the same address and port; raises :class:`OSError`.

        Set after a bind that was exclusive: so whoever had the port before us is still found out, and who
        comes later and does not ask to share is refused.
        """
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))

    def shut(self) -> bool:
        """Let no datagram in any more, while what has come can still be read; whether that can be had.

        The kernel counts what it turns away among the :meth:`overruns`. Another process that has the socket
        is concerned as well.
        """
        if sys.platform != "linux":
            return False
        program = ctypes.create_string_buffer(_REFUSE, len(_REFUSE))
        described = struct.pack("@HP", 1, ctypes.addressof(program))
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.sock.close()


@dataclass(frozen=True, slots=True)
class Pair:
    """The sockets of one listen address; the same one twice where nothing tells the classes apart."""

    strict: DataSocket
    best_effort: DataSocket

    @property
    def apart(self) -> bool:
        return self.strict is not self.best_effort

    def of(self, quality: Quality) -> DataSocket:
        return self.strict if quality is Quality.SQ else self.best_effort

    def each(self) -> Iterator[tuple[Quality, DataSocket]]:
        """Every socket once. One that serves both classes counts as best effort's, which overflows it."""
        yield Quality.BQ, self.best_effort
        if self.apart:
            yield Quality.SQ, self.strict

    def close(self) -> None:
        for _, each in self.each():
            each.close()


def open_all(addresses: Iterable[str], port: int, receive_buffer: int) -> list[Pair]:
    """One socket for each address, all of them or none."""
    opened: list[Pair] = []
    try:
        for address in addresses:
            one = DataSocket.bind(address, port, receive_buffer)
            opened.append(Pair(one, one))
    except BaseException:
        for pair in opened:
            pair.close()
        raise
    return opened


def split_all(pairs: Iterable[Pair], receive_buffer: int) -> list[Pair]:
    """A strict socket beside each of these, all of them or none; raises :class:`Unavailable`."""
    divided: list[Pair] = []
    shared: list[DataSocket] = []
    try:
        for pair in pairs:
            first = pair.best_effort
            first.share_port(True)
            shared.append(first)
            address, port = first.sock.getsockname()
            strict = DataSocket.bind(address, port, receive_buffer, beside=True)
            divided.append(Pair(strict, first))
            if address == ANY:
                # What is sent to all comes to each of them, whatever selects. It counts at the first alone.
                ask_destinations(strict.sock)
    except (OSError, Unavailable) as error:
        join_all(divided)
        for each in shared:
            each.share_port(False)
        raise Unavailable(f"no second socket on the data port: {error}") from error
    return divided


def join_all(pairs: Iterable[Pair]) -> list[Pair]:
    """The best-effort sockets alone, which then stand for both classes; the others are closed."""
    joined = []
    for pair in pairs:
        pair.strict.close()
        pair.best_effort.share_port(False)
        joined.append(Pair(pair.best_effort, pair.best_effort))
    return joined


@contextlib.contextmanager
def in_fragments(sock: socket.socket) -> Iterator[None]:
    """Let what is too large for the way leave in fragments meanwhile."""
    if sys.platform != "linux":
        yield
        return
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)


def waiting(sock: socket.socket) -> int:
    """Bytes of a socket's send buffer that what was sent still takes; 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    told = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(struct.calcsize("i")))
    return int(struct.unpack("i", told)[0])


def send_buffer(sock: socket.socket, size: int) -> None:
    """Let so many bytes wait to be sent, or as many as the kernel allows."""
    _set_buffer(sock, (_SO_SNDBUFFORCE, socket.SO_SNDBUF), size // _DOUBLES)


def grow_receive_buffer(sock: socket.socket, size: int) -> None:
    """Let so many bytes wait to be read, or as many as the kernel allows; it counts twice as many."""
    _set_buffer(sock, (_SO_RCVBUFFORCE, socket.SO_RCVBUF), size)


def _set_buffer(sock: socket.socket, options: tuple[int, int], size: int) -> None:
    # FORCE, which Linux has, goes beyond net.core.rmem_max and wmem_max, but only with CAP_NET_ADMIN.
    for option in options if sys.platform == "linux" else options[1:]:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            continue
        return
