"""The slow path as the rest of the broker sees it: sockets, core and one of two kinds of I/O, put together.

Batched I/O where the compiled helper is there, asyncio's datagram transport elsewhere; which and why is
part of the status.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tempos import Reason, Route, Topic
from tempos_broker.config.model import Limits
from tempos_broker.paths import Tickets
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.losses import Losses
from tempos_broker.slowpath.sockets import DataSocket, open_all

logger = logging.getLogger(__name__)


class Io(Protocol):
    """Moves datagrams between sockets and a core. ``reason``: why this one, and how it does now."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def configure(self, topics: Iterable[Topic]) -> None: ...

    def swap(self, route: Route) -> None: ...

    async def open(self, sockets: Sequence[DataSocket]) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SlowPathStatus:
    """``io`` is recvmmsg or portable, ``reason`` says why; ``listen`` holds "ip:port" texts.

    ``receive_buffer``: bytes the kernel gave each socket (0 while closed). ``received``: datagrams since
    the start, ``queued``: those that wait now.
    """

    io: str
    reason: str
    listen: tuple[str, ...]
    receive_buffer: int
    received: int
    queued: int


class SlowPathServer:
    """Receives events on the data port and hands each to one member of every group of its topic."""

    def __init__(
        self,
        *,
        topics: Sequence[Topic],
        listen: Sequence[str],
        port: int,
        limits: Limits,
        tickets: Tickets,
        portable: bool = False,
    ) -> None:
        """``listen``: IPv4 addresses; ``portable`` asks for the I/O that needs no compiled helper."""
        self._listen = tuple(listen)
        self._port = port
        self._limits = limits
        self._core: SlowPath[Any] = SlowPath(topics, tickets, limits.queue_sq, limits.queue_bq)
        self._losses = Losses(self._core, time.monotonic)
        self._sockets: list[DataSocket] = []
        self._io = _choose_io(self._core, topics, limits, self._losses, portable)

    async def start(self) -> None:
        """Bind every address and begin to serve; :class:`tempos.Unavailable` says which cannot be had."""
        self._sockets = open_all(self._listen, self._port, self._limits.receive_buffer)
        wanted, given = self._limits.receive_buffer, self.status().receive_buffer
        if given < wanted:
            logger.warning(
                "asked for a receive buffer of %d bytes, the kernel gives %d: raise it with "
                "`sysctl -w net.core.rmem_max=%d`, or run with CAP_NET_ADMIN",
                wanted, given, wanted,
            )  # fmt: skip
        try:
            await self._io.open(self._sockets)
        except BaseException:
            await self.close()
            raise

    def configure(self, topics: Sequence[Topic]) -> None:
        """Serve these topics from now on, and no others; their routes come with :meth:`swap`."""
        self._io.configure(topics)
        self._core.configure(topics)

    def swap(self, route: Route) -> None:
        """Make ``route`` the route of its topic, also for what already waits; before or after the start.

        The tickets of the new epoch are the caller's to reset: both paths draw from them.
        """
        self._io.swap(route)
        self._core.swap(route)

    def counters(self) -> Mapping[int, Mapping[Reason, int]]:
        """Datagrams by topic and reason since the start; :mod:`..core` says how they add up."""
        self._losses.overruns(self._sockets)
        return self._core.counters()

    def lost(self, topic: int, epoch: int, group: int) -> int:
        """Events of the group with this index in the route that could not be sent; two epochs are kept."""
        return self._core.lost(topic, epoch, group)

    def status(self) -> SlowPathStatus:
        return SlowPathStatus(
            io=self._io.name,
            reason=self._io.reason,
            listen=tuple(map(str, self._sockets)),
            receive_buffer=min((each.receive_buffer for each in self._sockets), default=0),
            received=self._core.received,
            queued=self._core.queued,
        )

    async def close(self) -> None:
        """Send what was already taken, then release the sockets; safe to call twice."""
        self._losses.overruns(self._sockets)
        await self._io.close()
        for each in self._sockets:
            each.close()
        self._sockets = []


def _choose_io(
    core: SlowPath[Any], topics: Sequence[Topic], limits: Limits, losses: Losses, portable: bool
) -> Io:
    from tempos_broker.slowpath.portable import PortableIo

    if portable:
        return PortableIo(core, topics, limits, losses, "asked for")
    if sys.platform != "linux":
        return PortableIo(core, topics, limits, losses, f"recvmmsg needs Linux, this is {sys.platform}")
    try:
        from tempos_broker.slowpath.batched import BatchedIo
    except ImportError as error:
        reason = f"the compiled helper cannot be loaded: {error}"
        return PortableIo(core, topics, limits, losses, reason)
    return BatchedIo(core, topics, limits, losses)
