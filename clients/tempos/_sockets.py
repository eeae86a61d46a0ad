"""The sockets of a client: how they are opened, and the two ways to read a data socket.

On Linux the event loop watches the socket and many datagrams are read at each wake-up, one of them
with its ancillary data, which tells of overruns (SO_RXQ_OVFL). Everywhere else asyncio's own datagram
transport does the reading. Both hand each datagram to one callback, which must not raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Protocol

from tempos.errors import LocalError, NoWay
from tempos.session.doorman import Doorman
from tempos.wire import IP_UDP_OVERHEAD

# Not all of these are in the socket module; the numbers are those of asm-generic/socket.h and linux/in.h.
_SO_RCVBUFFORCE = 33
_SO_RXQ_OVFL = 40
_SO_MEMINFO = 55
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DO = 2
_IP_MTU = 14

LINUX = sys.platform == "linux"
#: The largest UDP payload IPv4 has, bytes.
MAX_PAYLOAD = 0xFFFF - IP_UDP_OVERHEAD
#: What a path is taken to carry where the kernel does not tell.
DEFAULT_MTU = 1500
#: Datagrams read at one wake-up before the loop gets its turn.
READ_BATCH = 64
#: Wake-ups that read one datagram after one that found no second. What they cost where datagrams begin to
#: come in crowds is a turn of the event loop for each of so many.
ALONE = 15

#: What it says of a send that may succeed later.
BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR)
#: What the kernel says when an earlier datagram came back as an ICMP error.
RETURNED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO)
#: What it says where a socket's own address is no more, or leads nowhere: another socket may have a way.
NO_WAY = (
    errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENODEV,
)  # fmt: skip

_COUNTER = struct.Struct("=I")
_MEMINFO = struct.Struct("=9I")
_ANCILLARY = socket.CMSG_SPACE(_COUNTER.size) if hasattr(socket, "CMSG_SPACE") else 0
#: Several datagrams of one size may be handed over as one buffer; their size is told beside it (linux/udp.h).
_UDP_GRO = 104
_SIZE = struct.Struct("=i")
#: Wake-ups with a crowd before that is asked for, less those whose first and last datagram differ in size.
_CROWDS = 4

Receive = Callable[[bytes], None]
#: Datagrams of one size, of which the last may be shorter, as one buffer; and that size.
Joined = Callable[[bytes, int], None]
Overrun = Callable[[int], None]
Refused = Callable[[], object]


async def addresses_of(host: str) -> tuple[str, ...]:
    """The IPv4 addresses of ``host``, a name or an address; looks names up off the event loop.

    Of several with commas between those of all, in their order. Raises :class:`NoWay` where there is none.
    """
    if "," in host:
        hosts = host.split(",")
        each = await asyncio.gather(*map(addresses_of, hosts), return_exceptions=True)
        found = [address for some in each if not isinstance(some, BaseException) for address in some]
        if not found:
            raise NoWay(f"none of the brokers' names {', '.join(hosts)} leads to an IPv4 address")
        return tuple(dict.fromkeys(found))
    with contextlib.suppress(OSError):
        return (socket.inet_ntoa(socket.inet_pton(socket.AF_INET, host)),)
    try:
        told = await asyncio.get_running_loop().getaddrinfo(
            host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM
        )
    except (OSError, UnicodeError) as error:
        raise NoWay(f"the broker's name {host!r} leads to no IPv4 address: {error}") from error
    return tuple(dict.fromkeys(str(each[4][0]) for each in told))


def is_ours(address: str) -> bool:
    """Whether a socket of this machine can have this address now."""
    with _new() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def connected(host: str, port: int, send_buffer: int | None = None) -> socket.socket:
    """A non-blocking UDP socket to the IPv4 address ``host``, which never fragments what it sends (Linux)."""
    sock = _new()
    try:
        if send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if LINUX:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        try:
            sock.connect((host, port))
        except OSError as error:
            raise NoWay(f"no way to the broker at {host}:{port}: {error.strerror}{_in_vrf(host)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def largest_payload(sock: socket.socket) -> int:
    """Bytes that one datagram of a connected socket carries on the path as the kernel knows it."""
    mtu = DEFAULT_MTU
    if LINUX:
        # EINVAL and ENOTCONN: there is no route at this moment. The send will say so.
        with contextlib.suppress(OSError):
            mtu = sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return min(mtu - IP_UDP_OVERHEAD, MAX_PAYLOAD)


def bound(address: str, port: int, receive_buffer: int, doorman: Doorman | None = None) -> socket.socket:
    """A non-blocking UDP socket at ``address``, with as much of ``receive_buffer`` as the kernel gives.

    ``doorman`` stands there before anything can come.
    """
    sock = _new()
    try:
        if doorman is not None:
            doorman.take_post(sock)
        make_room(sock, receive_buffer)
        if LINUX:
            # For replies: too large is an error here, as it is for events.
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        try:
            sock.bind((address, port))
        except OSError as error:
            raise LocalError(
                f"cannot receive on {address}:{port}: {error.strerror}: choose an address of this machine "
                f"and a port that is free (0 takes any){_in_vrf(address)}"
            ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def beside(
    fileno: int, address: str, port: int, peer: tuple[str, int], size: int
) -> tuple[socket.socket, list[tuple[bytes, tuple[str, int]]]]:
    """A second socket where ``fileno``, a socket of ours, is bound: for what comes from ``peer`` (Linux).

    What came to it before it was connected, and is for the first one, is given, too, with its sender. Raises
    :class:`LocalError` and :class:`NoWay`.
    """
    if not LINUX:
        raise LocalError("events of several brokers are told apart on Linux alone")
    # Only while the second is bound: whoever else wants the port is to be told that it is taken.
    with socket.socket(fileno=os.dup(fileno)) as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock = _new()
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                make_room(sock, size)
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
                sock.bind((address, port))
                sock.connect(peer)
            except OSError as error:
                sock.close()
                raise NoWay(f"no way to the broker at {peer[0]}:{peer[1]}: {error.strerror}") from error
        finally:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    early = []
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while True:
            early.append(sock.recvfrom(MAX_PAYLOAD))
    return sock, early


def make_room(sock: socket.socket, size: int) -> None:
    """As much of a receive buffer of ``size`` bytes as the kernel gives; have it tell what found no room."""
    _ask_receive_buffer(sock, size)
    if LINUX:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)


def memory(sock: socket.socket) -> tuple[int, int, int]:
    """The kernel's account of a socket: bytes that wait in it, that may, and datagrams that found no room.

    What has been read goes on counting as waiting until it is a quarter of what may, or nothing is left to
    read (``udp_rmem_release``, Linux 6.18). What found no room is told beside datagrams only with the next
    one that comes, if one does. Linux alone has it; raises :class:`OSError`, as for a socket that is closed.
    """
    told = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    return told[0], told[1], told[8]


def source_address(host: str, port: int) -> str:
    """The local address from which this machine reaches ``host``."""
    with connected(host, port) as probe:
        address: str = probe.getsockname()[0]
        return address


def receive_buffer(sock: socket.socket) -> int:
    """Bytes of payload and bookkeeping that the kernel really queues. Linux doubles what was asked for."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if LINUX else granted


def _in_vrf(address: str) -> str:
    """What to add where an address was not found, if this process is inside of a VRF."""
    from tempos.doctor.vrf import bound_to, remedy, situation

    if not (device := bound_to()):
        return ""
    told = f"; {situation(device)}, which may have no way there"
    return f"{told}: {remedy(device, address)}" if address.startswith("127.") else told


def _ask_receive_buffer(sock: socket.socket, size: int) -> None:
    if LINUX:
        # Goes past net.core.rmem_max; only CAP_NET_ADMIN may.
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
            return
    # Some systems refuse more than their limit instead of giving less; then the default has to do.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _new() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


async def attach(protocol: asyncio.DatagramProtocol, sock: socket.socket) -> None:
    """Give ``sock`` to a datagram transport; on any error, a cancellation too, it is closed."""
    loop = asyncio.get_running_loop()
    # Seen through to its end: not every event loop cleans up an endpoint that is cancelled half-way.
    opening = loop.create_task(
        loop.create_datagram_endpoint(lambda: protocol, sock=sock), name="tempos datagram endpoint"
    )
    try:
        await asyncio.shield(opening)
    except BaseException:
        await asyncio.wait([opening])
        if opening.exception() is None:
            opening.result()[0].close()
        sock.close()
        raise


class Reader(Protocol):
    """Reads a data socket until it is closed."""

    def read_now(self) -> bool:
        """Read some of what is there already; False when there is no more."""
        ...

    def look_for_lost(self) -> None:
        """Count what found no room by now, also behind what came last."""
        ...

    async def close(self) -> None:
        """Stop reading and close the socket; safe to call twice."""
        ...


async def read(
    sock: socket.socket,
    receive: Receive,
    overrun: Overrun,
    doorman: Doorman | None = None,
    joined: Joined | None = None,
) -> Reader:
    """Begin to read ``sock`` with the better of the two ways; ``overrun`` takes counts of datagrams lost.

    ``doorman``: who has to be told where a proof comes from, and asked where the kernel does not do it;
    ``joined`` takes what the kernel joins.
    """
    if LINUX:
        return WatchingReader(sock, receive, overrun, doorman=doorman, joined=joined)
    return await TransportReader.open(sock, receive, doorman)


class WatchingReader:
    """Reads on its own whenever the event loop says that the socket is readable.

    Where datagrams come one at a time, to find out that there is no second one takes longer than to read
    the first, and whoever waits for that would wait for it as well. So a wake-up that brought only one is
    followed by :data:`ALONE` that ask for no more than one; if there are more, the loop comes back at once.

    Where many come at once and are of one size, the kernel is asked to hand them over together (UDP_GRO), if
    there is somebody who takes them so; from then on each read has to ask for their size, which takes 0.4 us
    more. What is lost for want of room counts as one then, however many it was.

    uvloop watches a socket no longer once that has had an error, which a connected one has when what it sent
    comes back: it wakes up for the last time, and says nothing. So after a wake-up that brought nothing the
    socket is given to the loop anew.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Receive,
        overrun: Overrun,
        refused: Refused | None = None,
        doorman: Doorman | None = None,
        joined: Joined | None = None,
    ) -> None:
        """``refused``, of a connected one: what was sent by it came back."""
        self._joined = joined
        self._crowds = 0
        self._joins = False
        self._sock = sock
        self._doorman = doorman
        self._refused = refused
        self._recv = sock.recv
        self._receive = receive
        self._overrun = overrun
        self._overruns = 0
        self._alone = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self.read_now)

    def read_now(self) -> bool:
        if self._joins:
            return self._read_joined()
        receive, recv = self._receive, self._recv
        only_one: bool | None = None
        try:
            if self._alone and (self._doorman is None or not self._doorman.expects_proof):
                self._alone -= 1
                receive(recv(MAX_PAYLOAD))
                return True
            # The overrun counter only grows: seeing it once per wake-up is enough.
            datagram, ancillary, _, sender = self._sock.recvmsg(MAX_PAYLOAD, _ANCILLARY)
            if ancillary:
                self._see_overruns(ancillary)
            doorman = self._doorman
            if doorman is not None and doorman.expects_proof:
                # For as long as that is so it matters of each where it comes from.
                doorman.sender = sender
                receive(datagram)
                doorman.sender = None
                return True
            receive(datagram)
            only_one = True
            size = len(datagram)
            for _ in range(READ_BATCH):
                receive(datagram := recv(MAX_PAYLOAD))
                only_one = False
            if self._joined is not None:
                self._crowd(len(datagram) == size)
        except OSError as error:
            return self._failed(error, only_one)
        return True

    def _read_joined(self) -> bool:
        """The same, where what is read may be several datagrams."""
        only_one: bool | None = None
        try:
            doorman, count = self._doorman, 0
            while count < 4 * READ_BATCH:
                buffer, ancillary, _, sender = self._sock.recvmsg(MAX_PAYLOAD, 2 * _ANCILLARY)
                size = 0
                for level, kind, data in ancillary:
                    if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                        (size,) = _SIZE.unpack_from(data)
                    else:
                        self._see_overruns([(level, kind, data)])
                only_one = only_one is None
                if doorman is not None and doorman.expects_proof:
                    for at in range(0, len(buffer) or 1, size or len(buffer) or 1):
                        doorman.sender = sender
                        self._receive(buffer[at : at + size] if size else buffer)
                        doorman.sender = None
                    return True
                if 0 < size < len(buffer):
                    assert self._joined is not None, "asked for"
                    self._joined(buffer, size)
                    count += len(buffer) // size
                    only_one = False
                else:
                    self._receive(buffer)
                    count += 1
                if self._alone:
                    # As without.
                    self._alone -= 1
                    return True
        except OSError as error:
            return self._failed(error, only_one)
        return True

    def _failed(self, error: OSError, only_one: bool | None) -> bool:
        """After a wake-up that ended in an error; ``only_one``: whether one was read, None: none."""
        if isinstance(error, (BlockingIOError, InterruptedError)):
            if only_one:
                self._alone = ALONE
            elif only_one is None:
                self._watch_again()
            return False
        # An unconnected UDP socket reports no one else's troubles; out of memory is what remains.
        if error.errno in RETURNED:
            if self._refused is not None:
                self._refused()
        elif error.errno not in (errno.ENOMEM, errno.ENOBUFS):
            raise error
        self._watch_again()
        return True

    def _crowd(self, of_one_size: bool) -> None:
        """More came than one wake-up reads."""
        self._crowds += 1 if of_one_size else -1
        if self._crowds < _CROWDS or (self._doorman is not None and self._doorman.expects_proof):
            return
        try:
            self._sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        except OSError:
            # Before Linux 5.0.
            self._joined = None
        else:
            self._joins = True

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def memory(self) -> tuple[int, int, int]:
        """See :func:`memory`."""
        return memory(self._sock)

    def pause(self) -> None:
        """Read nothing by itself, until :meth:`resume`."""
        self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Read again."""
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self.read_now)

    def _watch_again(self) -> None:
        # One that is not connected hears of nobody's errors. Who was told of one may have closed it.
        if self._refused is not None and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self.read_now)

    def _see_overruns(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL and len(data) >= _COUNTER.size:
                self._lost(*_COUNTER.unpack_from(data))

    def _lost(self, counter: int) -> None:
        lost = (counter - self._overruns) & 0xFFFFFFFF
        self._overruns = counter
        if lost:
            self._overrun(lost)

    def look_for_lost(self) -> None:
        # Of one that is closed what was lost was counted then.
        with contextlib.suppress(OSError):
            self._lost(memory(self._sock)[2])

    async def close(self) -> None:
        if self._sock.fileno() >= 0:
            self.look_for_lost()
            self._loop.remove_reader(self._sock)
            self._sock.close()


class TransportReader(asyncio.DatagramProtocol):
    """Reads through asyncio's datagram transport. What the kernel loses is not known here."""

    def __init__(self, receive: Receive, doorman: Doorman | None = None) -> None:
        self._receive = receive
        self._doorman = doorman
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, receive: Receive, doorman: Doorman | None = None
    ) -> TransportReader:
        reader = cls(receive, doorman)
        await attach(reader, sock)
        return reader

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        doorman = self._doorman
        if doorman is None:
            self._receive(data)
            return
        doorman.sender = addr
        self._receive(data if doorman.lets_in(data, addr) else b"")
        doorman.sender = None

    def error_received(self, exc: Exception) -> None:
        """Troubles of earlier sends; this socket sends nothing."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def read_now(self) -> bool:
        """Nothing to do: the transport has its own turn in the loop."""
        return False

    def look_for_lost(self) -> None:
        """Nobody knows."""

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            await self._closed
