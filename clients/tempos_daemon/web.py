"""An application to add operations to: errors are problems, health and readiness can be asked for.

Its OpenAPI document, at ``/openapi.json``, describes problems and the token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from tempos import ConfigError, __version__
from tempos.errors import one_line
from tempos_daemon.models import Health, Problem, Ready
from tempos_daemon.operations import on_config, on_disconnect, on_http
from tempos_daemon.problems import described, problem


def new_app(title: str, ready: Callable[[], bool], ready_means: str) -> FastAPI:
    """An application with ``/v1/health`` and ``/v1/ready``; ``ready_means`` says in words what is asked."""
    app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ConfigError, on_config)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    @app.get("/v1/health", summary="The event loop turns", responses=described())
    async def get_health() -> Health:
        return Health()

    @app.get(
        "/v1/ready",
        summary=f"{ready_means}; 503 until then",
        responses={**described(), 503: {"model": Ready, "description": "not yet"}},
    )
    async def get_ready(response: Response) -> Ready:
        is_ready = ready()
        if not is_ready:
            response.status_code = 503
        return Ready(ready=is_ready)

    return app


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):
        # JSON that is not called so is not read.
        came = request.headers.get("content-type", "none")
        faults = [f"body: its Content-Type is {one_line(came)}; allowed: application/json"]
    else:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return problem(422, "the request is not as the OpenAPI document says: " + "; ".join(faults), faults)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}, {}]
        app.openapi_schema = schema
    return app.openapi_schema
