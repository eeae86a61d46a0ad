"""A connection of an HTTP server: uvicorn's protocol, and since when it has been doing what it does.

Here by h11; :mod:`.http_fast` has the same by httptools.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

log = logging.getLogger("tempos.daemon.http")

#: What is counted of connections that are cut off, and of what is no HTTP.
SLOW, UNREAD = "slow request", "answer not read"
MALFORMED, LONG_HEAD = "malformed request", "long head"


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections at a time; seconds for a request, until the next one, and for an answer to be read.

    ``slow``: seconds after which who does not read may have to make room for others; ``close``: that closing
    waits for answers that are being made.
    """

    connections: int = 64
    request: float = 5.0
    idle: float = 5.0
    read: float = 30.0
    slow: float = 1.0
    close: float = 0.5


class Server(Protocol):
    """What a connection tells the server that made it."""

    def opened(self, connection: Connection) -> None:
        """It is served from now on."""
        ...

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        ...

    def malformed(self, source: str, reason: str = MALFORMED) -> None:
        """What came from there is no HTTP."""
        ...


class _Quiet:
    """In place of uvicorn's logger: what a client can bring about is counted, and told sparingly."""

    level = logging.WARNING

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def warning(self, text: str, *values: object) -> None:
        self._connection.http_server.malformed(self._connection.source)

    def error(self, text: str, *values: object, exc_info: object = None) -> None:
        log.error(text, *values, exc_info=exc_info)  # type: ignore[arg-type]


class Connection(asyncio.Protocol):
    """What both protocols get: since when a connection has been doing what it does."""

    http_server: Server
    client: tuple[str, int] | None
    cycle: Any
    transport: Any

    def begin(self, server: Server) -> None:
        """Made by this server."""
        self.http_server = server
        self._doing: tuple[str, object] = ("", None)
        self.since = time.monotonic()
        self.logger: Any = _Quiet(self)

    @property
    def source(self) -> str:
        return self.client[0] if self.client else "nobody"

    @property
    def is_waited_for(self) -> bool:
        """Whether it is the client's turn: to ask, or to go on asking."""
        return self.note() in ("asking", "idle")

    @property
    def is_unread(self) -> bool:
        """Whether it is the client's turn to read."""
        return self.note() == "sending"

    def overdue(self, now: float, limits: Limits) -> str | None:
        """Why it is to be cut off now: a reason to count, or "" for a client that simply asks no more."""
        doing = self.note()
        took = now - self.since
        if doing == "idle":
            return "" if took > limits.idle else None
        if doing == "asking":
            return SLOW if took > limits.request else None
        if doing == "sending":
            return UNREAD if took > limits.read else None
        return None

    def finish(self) -> None:
        """End it as soon as what it asked is answered."""
        if self.transport.is_closing():
            return
        try:
            self.shutdown()
        except h11.LocalProtocolError:
            # Something was wrong with what it asked.
            self.abort()

    def abort(self) -> None:
        """End it now."""
        self.transport.abort()

    def note(self) -> str:
        """What it does now; remembers since when."""
        cycle = self.cycle
        unsent = self.transport.get_write_buffer_size()
        if cycle is not None and not cycle.response_complete:
            doing = "asking" if cycle.more_body else "sending" if unsent else "answering"
        elif unsent:
            doing = "sending"
        else:
            doing = "idle" if cycle is not None and not self.has_begun else "asking"
        if (doing, cycle) != self._doing:
            self._doing = (doing, cycle)
            self.since = time.monotonic()
        return doing

    @property
    def has_begun(self) -> bool:
        """Whether a part of the next request is there."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """The protocol's own way to come to an end."""
        raise NotImplementedError


class H11Connection(H11Protocol, Connection):
    """A connection by h11."""

    def __init__(self, server: Server, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self.begin(server)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.note()
        self.http_server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.http_server.closed(self)

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = date()
        super().data_received(data)
        self.note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.note()

    @property
    def has_begun(self) -> bool:
        return bool(self.conn.trailing_data[0])


def date() -> list[tuple[bytes, bytes]]:
    """The headers of every answer: made once a second."""
    global _said
    now = int(time.time())
    if _said[0] != now:
        _said = now, [(b"date", formatdate(now, usegmt=True).encode())]
    return _said[1]


_said: tuple[int, list[tuple[bytes, bytes]]] = (0, [])
