"""What a publisher has towards its broker: a way that may change, and the control link once it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from tempos import _sockets, auth
from tempos._abi import CONTROL_PORT, DATA_PORT
from tempos.errors import ControlRefused, LocalError, NoAnswer, NoWay
from tempos.session.core import ControlSession
from tempos.session.events import SessionEvent
from tempos.session.link import ControlLink
from tempos.session.scout import Scout, choose
from tempos.session.way import Patience, Roaming, Way

#: Seconds in which a broker that was never asked for anything ought to be heard.
EVERY = 2.5
#: Seconds between two looks at who of several brokers answers.
CHECK_EVERY = 0.15


class Reach:
    """The way to the broker ``host`` of one publisher.

    ``take`` gets the socket to send by, now and whenever there is another; ``refusals`` tells how many
    datagrams came back so far; ``elsewhere`` is called when another of several brokers is sent to. ``wait``:
    see :class:`Patience`; ``asks``: whether the broker is to answer by then.
    """

    def __init__(
        self,
        host: str,
        data_port: int,
        control_port: int,
        *,
        signer: auth.Signer | None,
        wait: float,
        asks: bool,
        send_buffer: int | None,
        take: Callable[[socket.socket], None],
        refusals: Callable[[], int],
        elsewhere: Callable[[], Awaitable[None]],
    ) -> None:
        self._host = host
        self._data_port = data_port
        self._control_port = control_port
        self._signer = signer
        self._patience = Patience(wait)
        self._asks = asks
        self._send_buffer = send_buffer
        self._take = take
        self._refusals = refusals
        self._elsewhere = elsewhere
        self._choice: asyncio.Task[None] | None = None
        self._returned = 0
        self._gone = False
        self._way: Way | None = None
        self._roaming: Roaming | None = None
        self._lock = asyncio.Lock()
        #: The link to the control port, if the broker was asked for anything.
        self.link: ControlLink | None = None

    async def open(self) -> None:
        """Find the broker; raises :class:`NoWay`, and :class:`NoAnswer` where it is waited for in vain."""
        self._patience.begin()
        while self._way is None:
            try:
                self._connect(await choose(self._host, self._control_port, self._signer, self._data_port))
            except NoWay as error:
                await self._patience.again(error)
        self._roaming = Roaming(
            self._host, self._data_port, self._way,
            move=self._move, is_silent=self._is_silent,
            every=lambda: EVERY if self.link is None else self.link.interval,
        )  # fmt: skip
        if "," in self._host:
            self._choice = asyncio.create_task(self._choose(), name="tempos choice of a broker")
        while self._patience.waits and self._asks:
            try:
                await (await self.control()).ask("hello")
            except ControlRefused:
                return
            except NoAnswer as error:
                await self._patience.again(error)
            else:
                return

    @property
    def broker(self) -> str:
        """The address of the broker that is sent to; "": none is known yet."""
        return "" if self._way is None else self._way.broker

    async def control(self) -> ControlLink:
        """The link to the control port."""
        async with self._lock:
            if self.link is None:
                assert self._way is not None and self._roaming is not None, "open"  # noqa: PT018 - both or none
                client = int.from_bytes(os.urandom(8), "big")
                name = f"{self._host}:{self._control_port}"
                session = ControlSession(client=client, broker=name, signer=self._signer)
                link = await ControlLink.open(self._way.broker, self._control_port, session, _ignore_event)
                link.on_trouble = self._roaming.look
                self.link = link
            return self.link

    def told_port(self, port: object) -> None:
        """The broker says where it takes events.

        That holds where another control port than the usual one was named, and no data port.
        """
        named = self._control_port != CONTROL_PORT and self._data_port == DATA_PORT
        if named and type(port) is int and 0 < port <= 0xFFFF and port != DATA_PORT and self._way is not None:
            self._data_port = port
            self._connect(self._way)

    def has_other_way(self, sock: socket.socket) -> bool:
        """Whether there is another socket now; ``sock``, in use, has no way any more."""
        assert self._way is not None and self._roaming is not None, "open"  # noqa: PT018 - both or none
        self._roaming.look()
        try:
            other = _sockets.connected(self._way.broker, self._data_port, self._send_buffer)
        except NoWay:
            return False
        ours = other.getsockname()[0]
        if ours == sock.getsockname()[0]:
            other.close()
            return False
        self._take(other)
        self._way = Way(self._way.broker, ours)
        return True

    def trouble(self) -> None:
        """What was sent came back: see whether there is another broker."""
        if self._choice is not None and self._roaming is not None:
            self._roaming.look()

    async def _choose(self) -> None:
        """Of several brokers see that the one in use answers, and whether a better one does again."""
        async with Scout(self._control_port, self._signer) as scout:
            while True:
                await asyncio.sleep(CHECK_EVERY)
                assert self._way is not None and self._roaming is not None, "open"  # noqa: PT018 - both or none
                with contextlib.suppress(LocalError):
                    known = await _sockets.addresses_of(self._host)
                    better = known[: known.index(self._way.broker)] if self._way.broker in known else known
                    for address in better:
                        if await scout.is_ready(address):
                            self._roaming.prefer(address)
                            break
                    else:
                        if await scout.is_away(self._way.broker):
                            self._gone = True
                            self._roaming.look()
                        elif scout.is_leaving(self._way.broker):
                            for address in known:
                                if address != self._way.broker and await scout.is_ready(address):
                                    self._roaming.prefer(address)
                                    break

    async def end(self) -> None:
        """Look for no other way any more; safe to call twice."""
        if self._choice is not None:
            self._choice.cancel()
            await asyncio.wait([self._choice])
        if self._roaming is not None:
            await self._roaming.end()

    def _connect(self, way: Way) -> None:
        self._take(_sockets.connected(way.broker, self._data_port, self._send_buffer))
        self._way = way

    def _is_silent(self) -> bool:
        """Whether the broker does not answer, or what was published came back since this was asked last."""
        returned, self._returned = self._returned, self._refusals()
        gone, self._gone = self._gone, False
        return gone or self._returned > returned or (self.link is not None and self.link.is_silent)

    async def _move(self, way: Way) -> None:
        elsewhere = self._choice is not None and self._way is not None and way.broker != self._way.broker
        if way != self._way:
            self._connect(way)
        async with self._lock:
            if self.link is not None:
                await self.link.move(way.broker, self._control_port)
        if elsewhere:
            await self._elsewhere()


def _ignore_event(event: SessionEvent) -> None:
    """A publisher holds no membership, so nothing happens that it has not asked for."""
