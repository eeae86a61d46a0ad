"""Endpoints of kind ``tcp``: a line, or a message with its length in front, becomes an event.

    framing = "line"     up to the next line feed, which is no part of it, nor a carriage return before it
    framing = "length"   four bytes, big-endian, say how many bytes follow

A stream can wait, so its sender does: while there is no room for more signals nothing more is read. A message
that is too long is counted ``too_large``: of lines the next one counts again; where lengths lead, the
connection ends, for nobody reads to the end of gigabytes. What ends in the middle is ``incomplete``.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from tempos_daemon import kinds
from tempos_daemon.early import listening
from tempos_daemon.schema import Faults, Key, Keys, Table
from tempos_trigger.account import TOO_LARGE
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import tls
from tempos_trigger.sources.ports import Address, Ports
from tempos_trigger.sources.udp import Networks, check_listen

BACKLOG = 128
LIMIT, MAX_LIMIT = 65_507, 16 << 20
INCOMPLETE = "incomplete"
#: Who is gone without a word is noticed after a minute and a half, and holds no place any more.
_KEEP_ALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)

KEYS: Keys = {
    "listen": Key(kinds.API),
    "framing": Key(kinds.choice("line", "length"), "line"),
    "limit": Key(kinds.whole(1, MAX_LIMIT), LIMIT),
    "connections": Key(kinds.whole(1, 10_000), 64),
    "idle": Key(kinds.seconds(0, 86_400), 0.0),
    "sources": Key(kinds.NETWORK, (), many=True),
    "tls": Key(tls.SERVER, {}),
}


class Lines:
    """Splits a stream into lines. Bytes in, lines out; ``skipped`` counts those that were too long."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        self._rest = bytearray()
        self._skipping = False

    @property
    def begun(self) -> bool:
        """Whether a part of a message is there."""
        return bool(self._rest) or self._skipping

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete by now."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = bytearray(rest)
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if self._skipping:
                self._skipping = False
            elif len(line) > self.limit:
                self.skipped += 1
            else:
                found.append(bytes(line))
        if len(self._rest) > self.limit + 1 or self._skipping:
            if not self._skipping:
                self.skipped += 1
            self._skipping = True
            self._rest.clear()
        return found


class Lengths:
    """Splits a stream into messages, their lengths in front. ``failed``: it makes no sense any more."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        self.failed = False
        self._rest = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a part of a message is there."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete by now."""
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= 4:
            (length,) = struct.unpack_from(">I", self._rest, at)
            if length > self.limit:
                self.skipped += 1
                self.failed = True
                at = len(self._rest)
                break
            if len(self._rest) - at - 4 < length:
                break
            found.append(bytes(self._rest[at + 4 : at + 4 + length]))
            at += 4 + length
        del self._rest[:at]
        return found


def _bound(address: Address) -> socket.socket:
    return listening(address, BACKLOG)


class Tcp:
    """The kind."""

    keys = KEYS

    def __init__(self) -> None:
        self.ports = Ports(_bound)

    def check(self, table: Table, faults: Faults) -> None:
        check_listen(table, faults)
        tls.check(table, faults)

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        host, port = spec.options["listen"]
        return [f"TCP {host}:{port}"]

    def make(self, spec: EndpointSpec, sink: Sink) -> _TcpSource:
        return _TcpSource(self.ports, spec, sink)


class _TcpSource:
    def __init__(self, ports: Ports, spec: EndpointSpec, sink: Sink) -> None:
        self._ports = ports
        self.sink = sink
        self._address: Address = spec.options["listen"]
        self._sock: socket.socket | None = None
        self._accepts = False
        self.connections: set[_Connection] = set()
        self._joining: set[asyncio.Task[Any]] = set()
        self._tls = tls.Tls(spec.options, listens=True)
        self.turned_away: Counter[str] = Counter()
        self._set(spec)

    def takes(self, spec: EndpointSpec) -> bool:
        return bool(spec.options["listen"] == self._address) and self._tls.is_current(spec.options)

    def take(self, spec: EndpointSpec) -> None:
        """Go on; connections go on as well, unless what they speak has changed."""
        before = self._framing
        self._set(spec)
        for each in list(self.connections):
            if self._framing != before:
                each.end("framing changed")
            else:
                each.splitter.limit = self._limit

    def _set(self, spec: EndpointSpec) -> None:
        options = spec.options
        self._framing: str = options["framing"]
        self._limit: int = options["limit"]
        self._most: int = options["connections"]
        self.idle: float = options["idle"]
        self._networks = Networks(options["sources"])

    def splitter(self) -> Lines | Lengths:
        """For a new connection."""
        return Lines(self._limit) if self._framing == "line" else Lengths(self._limit)

    async def open(self) -> None:
        self._tls.load()
        self._sock = self._ports.take(self._address)

    async def start(self) -> None:
        assert self._sock is not None, "opened before"
        self._accepts = True
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept, self._sock)

    def status(self) -> dict[str, Any]:
        host, port = self._address
        return {
            "state": "up" if self._accepts else "closed",
            "listen": f"{host}:{port}",
            "tls": self._tls.wanted,
            "connections": len(self.connections),
            "paused": sum(each.paused for each in self.connections),
            "turned_away": dict(self.turned_away),
        }

    async def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._accepts:
            self._accepts = False
            asyncio.get_running_loop().remove_reader(sock.fileno())
        self._ports.give(self._address, sock)
        if self._joining:
            await asyncio.wait(self._joining)
        for each in list(self.connections):
            each.end()
        while self.connections:
            # The loop tells them in its next turn.
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError:
            # Gone again, or no descriptor is left: whoever waits is asked for at the next wake-up.
            self.turned_away["not accepted"] += 1
            return
        sock.setblocking(False)
        for option, value in _KEEP_ALIVE:
            sock.setsockopt(*option, value)
        if not self._networks.allow(address[0]):
            self.turned_away["source"] += 1
            sock.close()
        elif len(self.connections) + len(self._joining) >= self._most:
            self.turned_away["too many connections"] += 1
            sock.close()
        else:
            loop = asyncio.get_running_loop()
            task = loop.create_task(
                loop.connect_accepted_socket(
                    lambda: _Connection(self), sock, ssl=self._tls.context,
                    ssl_handshake_timeout=tls.HANDSHAKE if self._tls.wanted else None,
                ),
                name="accept a connection",
            )  # fmt: skip
            self._joining.add(task)
            task.add_done_callback(self._joined)

    def _joined(self, task: asyncio.Task[Any]) -> None:
        self._joining.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.turned_away["not accepted"] += 1


class _Connection(asyncio.Protocol):
    """One stream; pauses while there is no room for what it brings."""

    def __init__(self, source: _TcpSource) -> None:
        self._source = source
        self.splitter = source.splitter()
        self.paused = False
        self._waiting: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class.
        self._transport = cast("asyncio.Transport", transport)
        self._source.connections.add(self)
        self._heard()

    def data_received(self, data: bytes) -> None:
        self._heard()
        splitter = self.splitter
        skipped = splitter.skipped
        self._waiting += splitter.feed(data)
        self._put()
        if splitter.skipped > skipped:
            self._source.sink.refuse(TOO_LARGE, splitter.skipped - skipped)
        if isinstance(splitter, Lengths) and splitter.failed:
            self.end("too long")

    def _put(self) -> None:
        """Put in what there is room for; go on when there is more."""
        sink, waiting = self._source.sink, self._waiting
        at = 0
        while at < len(waiting) and sink.room:
            sink.put(waiting[at])
            at += 1
        del waiting[:at]
        if self._transport is not None and bool(waiting) != self.paused:
            self.paused = bool(waiting)
            if self.paused:
                self._transport.pause_reading()
                sink.when_room(self._put)
            else:
                self._transport.resume_reading()
        elif self.paused:
            sink.when_room(self._put)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._source.connections.discard(self)
        # What was read and had no room yet finds some, or is dropped and counted.
        for each in self._waiting:
            self._source.sink.put(each)
        self._waiting.clear()
        if self.splitter.begun:
            self._source.sink.refuse(INCOMPLETE)

    def end(self, why: str = "") -> None:
        """Close it."""
        if why:
            self._source.turned_away[why] += 1
        if self._transport is not None:
            self._transport.abort()

    def _heard(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._source.idle:
            self._timer = asyncio.get_running_loop().call_later(self._source.idle, self._on_idle)

    def _on_idle(self) -> None:
        if self.paused:
            # It is we who do not read.
            self._heard()
        else:
            self.end("idle")
