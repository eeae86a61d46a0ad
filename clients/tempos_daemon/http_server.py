"""Serves an application by HTTP, on an event loop that belongs to the daemon and has better things to do.

uvicorn's protocols speak HTTP, that of h11, or the faster one of httptools where that is asked for and there;
accepting, limits and closing are here. Rules: a few connections are accepted
at a wake-up, so many are open at a time; a request, and the reading of its answer, take so long at most. When
all places are taken the connection makes room whose client has kept it waiting for longest: for a request,
for the end of a TLS handshake, or else to read its answer; so a client that asks at once is served, whoever
else holds connections open. What is cut off is counted under its reason.
Closing lets what is being answered come to its end for a moment, tells the others that this daemon stops, and
waits for nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.server import ServerState

from tempos._awaitables import in_time
from tempos._remarks import Sparingly
from tempos.errors import one_line
from tempos_daemon.early import listening
from tempos_daemon.http_connections import MALFORMED, SLOW, UNREAD, Connection, H11Connection, Limits
from tempos_daemon.problems import MEDIA_TYPE, document, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CROWDED", "MALFORMED", "NO_DESCRIPTORS", "NO_TLS", "SLOW", "UNREAD", "HttpServer", "Limits"]

log = logging.getLogger("tempos.daemon.http")

#: Seconds that a request has to come to its end once nobody waits for more of its answer.
LAST_STEPS = 0.2
#: Connections accepted at one wake-up, and that wait in the kernel.
ACCEPTED, BACKLOG = 4, 64
#: Seconds between two looks at who takes too long, and that a listener rests which cannot accept.
LOOK_EVERY, REST = 0.5, 0.5
#: What is counted of connections that are not let in.
CROWDED, NO_DESCRIPTORS, NO_TLS = "too many connections", "no descriptors", "no TLS"

_BODY = json.dumps(document(503, "all connections are in use: try again"))
_STOPS = "this daemon stops, and what was asked is broken off: ask again when it is back"
_BUSY = (
    f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(_BODY)}\r\n"
    f"Connection: close\r\nRetry-After: 1\r\n\r\n{_BODY}"
).encode()


class HttpServer:
    """Serves the application on ``host:port`` until closed. ``bind`` raises :class:`OSError`.

    ``refused`` counts what is cut off. ``fast``: by httptools, if it is installed. ``early``: the address may
    be one that this machine gets later (Linux).
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        refused: Counter[str],
        limits: Limits | None = None,
        *,
        fast: bool = False,
        early: bool = False,
    ) -> None:
        self._early = early
        self._address = (host, port)
        self._limits = Limits() if limits is None else limits
        self._refused = refused
        self._log = Sparingly(log, time.monotonic)
        self._protocol = _protocol(fast=fast)
        self._requests = _Requests(app)
        self._config = uvicorn.Config(
            self._requests,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            # Ours comes first, and lets a request that has begun come to its end.
            timeout_keep_alive=math.ceil(self._limits.idle + 2 * LOOK_EVERY),
        )
        self._config.load()
        self._state = ServerState()
        self._connections: set[Connection] = set()
        #: Those that are being accepted, the longest first: since when, and whether TLS waits for the client.
        self._joining: dict[asyncio.Task[None], tuple[float, bool]] = {}
        self._empty = asyncio.Event()
        self._listener: socket.socket | None = None
        #: TLS of the connections that are accepted from now on.
        self.tls: ssl.SSLContext | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Where it listens; the kernel's choice where 0 was asked for."""
        assert self._listener is not None, "started before anybody asks"
        return int(self._listener.getsockname()[1])

    def bind(self) -> None:
        """Have the port; who connects waits until :meth:`start`."""
        self._listener = listening(self._address, BACKLOG, early=self._early)
        self._listener.setblocking(False)

    async def start(self) -> None:
        """Serve from now on; binds first if that is not done yet."""
        self._loop = asyncio.get_running_loop()
        if self._listener is None:
            self.bind()
        assert self._listener is not None, "bound just now"
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def close(self) -> None:
        """Serve no longer; safe to call twice, and before :meth:`start`."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        for each in list(self._connections):
            each.finish()
        if self._connections or self._joining:
            try:
                await in_time(self._empty.wait(), self._limits.close)
            except asyncio.TimeoutError:
                log.info("%d connections are cut off", len(self._connections))
                await self._requests.break_off()
        for each in list(self._connections):
            each.abort()
        unfinished = [*self._joining, *self._state.tasks]
        if unfinished:
            # Who has answered, or has just been told that nobody reads on, comes to its end by itself.
            await asyncio.wait(unfinished, timeout=LAST_STEPS)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if self._look is not None:
            self._look.cancel()

    # --- accepting --------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            if self._listener is None:
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Most likely there is no descriptor left; asking again at once would not make one.
                what = NO_DESCRIPTORS if error.errno in (errno.EMFILE, errno.ENFILE) else "accept"
                self._count(what, f"no connection can be accepted: {error.strerror}")
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(REST, self._go_on)
                return
            self._join(sock, address[0])

    def _go_on(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _join(self, sock: socket.socket, source: str) -> None:
        sock.setblocking(False)
        if len(self._connections) + len(self._joining) >= self._limits.connections:
            self._count(CROWDED, f"too many connections at a time, the last one from {source}")
            if not self._make_room():
                # All are being answered.
                with sock:
                    try:
                        sock.send(_BUSY)
                    except OSError as error:
                        log.debug("%s was not told: %s", source, error)
                return
        task = self._loop.create_task(self._connect(sock), name="accept a connection")
        self._joining[task] = time.monotonic(), self.tls is not None
        task.add_done_callback(self._joined)

    def _make_room(self) -> bool:
        """End the connection whose client has kept it waiting for longest; False: there is none.

        Who reads its answer slowly has its turn after all that ask nothing.
        """
        late = time.monotonic() - self._limits.slow
        waiting: list[tuple[bool, float, asyncio.Task[None] | Connection]] = [
            *((False, since, task) for task, (since, shakes) in self._joining.items() if shakes),
            *(
                (each.is_unread, each.since, each)
                for each in self._connections
                if each.is_waited_for or (each.is_unread and each.since < late)
            ),
        ]
        *_, longest = min(waiting, key=lambda each: each[:2], default=(None,))
        if isinstance(longest, asyncio.Task):
            del self._joining[longest]
            longest.cancel()
        elif longest is not None:
            self._connections.discard(longest)
            longest.abort()
        return longest is not None

    async def _connect(self, sock: socket.socket) -> None:
        try:
            handshake = None if self.tls is None else self._limits.request
            await self._loop.connect_accepted_socket(
                self._connection, sock, ssl=self.tls, ssl_handshake_timeout=handshake
            )
        except ssl.SSLError as error:
            sock.close()
            self._count(NO_TLS, f"a connection has no TLS that is taken here: {one_line(error)}")
        except OSError as error:
            sock.close()
            log.debug("a connection was gone before it was served: %s", error)
        except BaseException:
            sock.close()
            raise

    def _connection(self) -> Connection:
        return self._protocol(self, self._config, self._state)

    def _joined(self, task: asyncio.Task[None]) -> None:
        self._joining.pop(task, None)
        self._is_empty()

    # --- what connections tell --------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """It is served from now on."""
        self._connections.add(connection)
        self._empty.clear()
        if self._listener is None:
            connection.finish()
        if self._look is None:
            self._look = self._loop.call_later(LOOK_EVERY, self._look_at_all)

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        self._is_empty()

    def malformed(self, source: str, reason: str = MALFORMED) -> None:
        """What came from there is no HTTP."""
        self._count(reason, f"{reason} from {source}")

    def _is_empty(self) -> None:
        if not self._connections and not self._joining:
            self._empty.set()

    def _look_at_all(self) -> None:
        self._look = None
        now = time.monotonic()
        for each in list(self._connections):
            reason = each.overdue(now, self._limits)
            if reason is not None:
                if reason:
                    self._count(reason, f"{reason}: the connection of {each.source} is cut off")
                each.abort()
        if self._connections:
            self._look = self._loop.call_later(LOOK_EVERY, self._look_at_all)

    def _count(self, reason: str, text: str) -> None:
        self._refused[reason] += 1
        self._log.warn(reason, text)


class _Requests:
    """The application, and the requests that it has not begun to answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._unanswered: set[asyncio.Task[object]] = set()
        self._breaking_off = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None, "uvicorn makes one for each request"
        self._unanswered.add(task)

        async def answer(message: Message) -> None:
            self._unanswered.discard(task)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            if not self._breaking_off or task not in self._unanswered:
                raise
            await problem(503, _STOPS, headers={"Retry-After": "1"})(scope, receive, send)
        finally:
            self._unanswered.discard(task)

    async def break_off(self) -> None:
        """Answer all of them that this daemon stops."""
        self._breaking_off = True
        if tasks := set(self._unanswered):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST_STEPS)


def _protocol(*, fast: bool) -> Callable[[HttpServer, uvicorn.Config, ServerState], Connection]:
    """What makes a connection."""
    if fast:
        try:
            from tempos_daemon.http_fast import FastConnection
        except ImportError:
            log.info("httptools is not installed: h11 serves")
        else:
            return FastConnection
    return H11Connection
