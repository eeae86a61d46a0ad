"""The slow path's I/O where only asyncio's datagram transport exists: one call per datagram, only bytes.

Same core, same account. One thing it cannot do: answer from the address a datagram was sent to when it
listens on 0.0.0.0; the kernel chooses one.

A transport tells of a failed send without saying which. So it is allowed to hold back one datagram at
most: whatever it reports then concerns the one being handed over, or the one held back.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

from tempos import Framing, Reason, Route, Topic
from tempos._abi import TOPICS
from tempos.wire import check_payload, stamp
from tempos_broker.config.model import Limits
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.rounds import drain, serve
from tempos_broker.slowpath.sockets import DataSocket
from tempos_broker.slowpath.sources import Sources


class Datagrams:
    """The load of a run: payloads, each with the transport it came in by."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[bytes, asyncio.DatagramTransport]]) -> None:
        self.items = items

    def split(self, count: int) -> tuple[Datagrams, Datagrams]:
        return Datagrams(self.items[:count]), Datagrams(self.items[count:])

    def release(self) -> None:
        self.items = []


class _Copy(NamedTuple):
    """One datagram on its way to one member, and whose loss it would be."""

    transport: asyncio.DatagramTransport
    data: bytes | bytearray
    to: tuple[str, int]
    topic: int
    epoch: int
    group: int


class PortableIo:
    """asyncio's datagram transports around a core. ``reason``: why these."""

    name = "portable"

    def __init__(
        self,
        core: SlowPath[Datagrams],
        topics: Iterable[Topic],
        limits: Limits,
        losses: Losses,
        reason: str,
    ) -> None:
        self.reason = reason
        self._core = core
        self._limit = limits.batch
        self._largest = limits.datagram
        self._losses = losses
        self._sources = Sources(topics := tuple(topics))
        self._framings = [Framing.RAW] * TOPICS
        for topic in topics:
            self._framings[topic.id] = topic.framing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transports: list[asyncio.DatagramTransport] = []
        self._copies: deque[_Copy] = deque()
        self._sending: _Copy | None = None
        self._held_back: _Copy | None = None
        self._unblocked = asyncio.Event()
        self._pumping = False

    def configure(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._framings[topic.id] = topic.framing

    def swap(self, route: Route) -> None:
        """A delivery brings its route; what is prepared is whom the next events may come from."""
        self._sources.set(route.topic)

    async def open(self, sockets: Sequence[DataSocket]) -> None:
        self._loop = asyncio.get_running_loop()
        for each in sockets:
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda source=each: _DataProtocol(self, source),  # type: ignore[misc]
                sock=each.sock,
            )
            cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=0)
            self._transports.append(transport)

    async def close(self) -> None:
        """Send what was taken, then leave the event loop; what the links do not take in time is lost."""
        if await drain(self._core, self, self._limit):
            # Transports cannot be told to only send, so a little may have arrived meanwhile.
            while self._core.queued and serve(self._core, self, self._limit):
                pass
        self._loop = None
        for copy in self._copies:
            self._losses.send_failed(copy.topic, copy.epoch, copy.group, 1, errno.ETIMEDOUT)
        self._copies.clear()
        for transport in self._transports:
            transport.close()
        # The transports take leave in callbacks of their own.
        await asyncio.sleep(0)
        self._transports.clear()

    # The Outlet that `serve` fills.

    def stage(self, delivery: Delivery[Datagrams]) -> bool:
        self._copies.extend(_copies(delivery))
        return self.flush()

    def flush(self) -> bool:
        while self._copies and self._held_back is None:
            self._sending = copy = self._copies.popleft()
            copy.transport.sendto(copy.data, copy.to)
            self._sending = None
        return self._held_back is None

    async def ready(self) -> None:
        while not self.flush():
            self._unblocked.clear()
            await self._unblocked.wait()

    # What the transports tell.

    def received(self, data: bytes, ip: str, transport: asyncio.DatagramTransport) -> None:
        topic = data[0] if data else 0
        if self._sources.refuse(topic, ip):
            reason = Reason.FOREIGN_SOURCE
            self._losses.foreign(topic, 1, ip)
        elif len(data) > self._largest:
            reason = Reason.CUT_SHORT
        else:
            reason = check_payload(data, self._framings[topic])
        if reason is Reason.FORWARDED:
            self._core.arrived(topic, 1, Datagrams([(data, transport)]))
            self._pump_soon()
        else:
            self._core.refused(topic, reason, 1)

    def failed(self, source: DataSocket, error: OSError) -> None:
        copy = self._sending or self._held_back
        if copy is None:
            self._losses.socket_error(source, error)
        else:
            self._losses.send_failed(copy.topic, copy.epoch, copy.group, 1, error.errno or 0)

    def paused(self) -> None:
        self._held_back = self._sending

    def resumed(self) -> None:
        self._held_back = None
        self._unblocked.set()
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping and self._held_back is None and self._loop is not None:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.flush():
            serve(self._core, self, self._limit)
        if self._core.queued:
            self._pump_soon()


class _DataProtocol(asyncio.DatagramProtocol):
    """What asyncio calls for one socket."""

    def __init__(self, io: PortableIo, source: DataSocket) -> None:
        self._io = io
        self._source = source
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None, "connected before it receives"
        self._io.received(data, addr[0], self._transport)

    def error_received(self, exc: Exception) -> None:
        assert isinstance(exc, OSError), "asyncio passes on nothing else"
        self._io.failed(self._source, exc)

    def pause_writing(self) -> None:
        self._io.paused()

    def resume_writing(self) -> None:
        self._io.resumed()


def _copies(delivery: Delivery[Datagrams]) -> Iterator[_Copy]:
    """Group by group, as the batched I/O sends them."""
    route = delivery.route
    is_event = route.topic.framing is Framing.EVENT
    for index, group in enumerate(route.groups):
        addresses = [(member.ip, member.port) for member in group.members]
        first = delivery.first_tickets[index]
        for ticket, (payload, transport) in enumerate(delivery.load.items, first):
            sequence, member = divmod(ticket, len(addresses))
            data: bytes | bytearray = payload
            if is_event:
                data = bytearray(payload)
                stamp(data, route.epoch, sequence)
            yield _Copy(transport, data, addresses[member], route.topic.id, route.epoch, index)
