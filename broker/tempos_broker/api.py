"""The control API for people and scripts: HTTP on loopback, described by OpenAPI.

Read-only so far: the status, whether the broker lives, whether it is ready. It runs on the broker's
own event loop and touches no data.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Response

from tempos import __version__


def application(status: Callable[[], dict[str, Any]]) -> FastAPI:
    """The web application over a source of status documents."""
    app = FastAPI(title="tempos control API", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/v1/status", summary="Paths with reasons, topics, routes, counters")
    async def get_status() -> dict[str, Any]:
        return status()

    @app.get("/v1/health", summary="The broker's event loop turns")
    async def get_health() -> dict[str, str]:
        return {"health": "ok"}

    @app.get("/v1/ready", summary="Every socket is bound and every topic has a route; 503 until then")
    async def get_ready(response: Response) -> dict[str, bool]:
        ready = bool(status()["broker"]["ready"])
        if not ready:
            response.status_code = 503
        return {"ready": ready}

    return app


class _Server(uvicorn.Server):
    """uvicorn inside a loop that belongs to the broker: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """Serves the application on ``host:port`` until closed. ``start`` raises :class:`OSError`."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._address = (host, port)
        self._server = _Server(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        listener = socket.create_server(self._address)
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[listener]), name="control API"
        )

    async def close(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
