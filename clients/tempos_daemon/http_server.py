"""Serves an application by HTTP, on an event loop that belongs to the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """uvicorn inside a loop that belongs to the daemon: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves the application on ``host:port`` until closed. ``start`` raises :class:`OSError`."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._address = (host, port)
        self._server = _Server(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        listener = socket.create_server(self._address)
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[listener]), name="HTTP"
        )

    async def close(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
