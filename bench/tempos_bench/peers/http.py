"""An HTTP server that calls a function, and a caller: what one has without a broker.

The server is starlette under uvicorn (uvloop, httptools), one process, as their documentation runs it. It
calls the function in its own process, or starts a program for each request: in a thread, by `subprocess`,
for uvloop's own way to start one copies the whole server meanwhile. The caller keeps connections open and
has one request on each; it does no more than it must, for its time is in what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
from collections.abc import Callable
from typing import Any

from tempos_bench.peers.clients import AsyncClient, BlockingClient, Record, Where
from tempos_bench.peers.talk import PeerRefused

#: Requests that may be under way.
CONNECTIONS = 64
#: Seconds that a connection may be idle: others have their turn meanwhile.
_KEPT = 3600
_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class _Connection(asyncio.Protocol):
    """One request at a time; ``free`` is told when its answer is there."""

    def __init__(self, free: Callable[[_Connection], None]) -> None:
        self._free = free
        self._answer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head = self._answer.find(_END)
        if head < 0:
            return
        at = self._answer.index(_LENGTH) + len(_LENGTH)
        length = int(self._answer[at : self._answer.index(b"\r", at)])
        if len(self._answer) >= head + len(_END) + length:
            if not self._answer.startswith(b"HTTP/1.1 200 "):
                raise PeerRefused(f"the HTTP server answers {self._answer[:200]!r}")
            self._answer = b""
            self._free(self)


class HttpClient(AsyncClient):
    """Requests, and a server that calls the function; what it records is recorded before it answers."""

    async def open_publisher(self, where: Where) -> None:
        self._idle: asyncio.Queue[_Connection] = asyncio.Queue()
        self._under_way = 0
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._idle.put_nowait), where.address, where.port
            )
            self._idle.put_nowait(connection)
        self._head = (
            f"POST /{where.topic} HTTP/1.1\r\nHost: {where.address}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self.publish = self._request

    async def _request(self, body: bytes) -> None:
        connection = self._idle.get_nowait() if not self._idle.empty() else await self._idle.get()
        connection.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))

    async def flush(self) -> None:
        """Until every request is answered."""
        connections = [await self._idle.get() for _ in range(CONNECTIONS)]
        for each in connections:
            self._idle.put_nowait(each)

    async def open_subscriber(self, where: Where, record: Record) -> None:
        async def called(request: Any) -> Any:
            return response(record(await request.body()) or b"", media_type="application/octet-stream")

        response: Any = importlib.import_module("starlette.responses").Response
        self._server = await _serve(where, called)

    async def receive(self) -> None:
        await self._server


class SpawningHttpClient(HttpClient):
    """The same, and a server that runs ``where.group``, the program with its arguments, for each request."""

    async def open_subscriber(self, where: Where, record: Record) -> None:
        response: Any = importlib.import_module("starlette.responses").Response
        in_thread: Any = importlib.import_module("starlette.concurrency").run_in_threadpool
        command = where.group.split()

        async def spawned(request: Any) -> Any:
            body = await request.body()
            done = await in_thread(subprocess.run, command, input=body, capture_output=True, check=True)
            return response(done.stdout, media_type="application/octet-stream")

        self._server = await _serve(where, spawned)


async def _serve(where: Where, answer: Callable[[Any], Any]) -> asyncio.Task[None]:
    """Serve ``answer`` under the topic's name; returns when connections are taken."""
    starlette: Any = importlib.import_module("starlette.applications")
    routing: Any = importlib.import_module("starlette.routing")
    uvicorn: Any = importlib.import_module("uvicorn")
    app = starlette.Starlette(routes=[routing.Route(f"/{where.topic}", answer, methods=["POST"])])
    config = uvicorn.Config(
        app, host=where.address, port=where.port, http="httptools", log_level="warning", access_log=False,
        timeout_keep_alive=_KEPT,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # Signals are the program's own.
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
            raise PeerRefused(f"the HTTP server does not serve {where.address}:{where.port}")
        await asyncio.sleep(0.01)
    return serving


#: By the name that `--client` takes.
CLIENTS: dict[str, Callable[[], BlockingClient | AsyncClient]] = {
    "http": HttpClient,
    "http-spawn": SpawningHttpClient,
}
