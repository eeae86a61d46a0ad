"""A program: an HTTP server that answers 202 and does nothing, as one writes it in a minute.

    python -m tempos_bench.calls.bare PROTOCOL PORT

PROTOCOL: that of uvicorn, h11 or httptools. Prints ``ready`` when it serves.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def _accept(request: Request) -> Response:
    await request.body()
    return Response(status_code=202)


async def _serve(protocol: str, port: int) -> None:
    app = Starlette(routes=[Route("/in", _accept, methods=["POST"])])
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=protocol, log_level="warning", access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
