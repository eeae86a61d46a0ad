"""The invoker's API: HTTP, described by OpenAPI at ``/openapi.json``.

    GET, PUT /v1/deployment               what it is to do, in force as a whole once a PUT is answered
    PUT      /v1/code/SHA256              the bytes of a function, before a deployment names them
    GET      /v1/status                   accounts, workers, what is wrong
    POST     /v1/functions/NAME/invoke    call a function by hand: a body in, its output out
    GET      /v1/logs/NAME                what a function wrote
    GET      /v1/errors, /v1/errors/N     invocations that failed; POST /v1/errors/redrive accepts them anew
    GET      /metrics                     for Prometheus

Rule: whatever comes in, the answer is a document or a problem (RFC 9457).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from tempos import ConfigError
from tempos_daemon.door import MAX_BODY, Door
from tempos_daemon.metrics import MEDIA_TYPE, pieces
from tempos_daemon.operations import Streamed
from tempos_daemon.problems import described, problem
from tempos_daemon.web import new_app
from tempos_invoker import documents, metrics
from tempos_invoker.deploy import layout
from tempos_invoker.invoker import Invoker
from tempos_invoker.workers import frames

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: The longest document of a deployment, bytes.
MAX_DEPLOYMENT = 16 * 1024 * 1024
#: Failures in one list.
MOST_LISTED = 1000
#: HTTP statuses for how a call by hand failed.
_STATUS = {
    "error": 422,
    "refused": 422,
    "too_large": 413,
    "timeout": 504,
    "crash": 502,
    "queue_full": 503,
    "too_old": 503,
    "no_worker": 503,
    "stopped": 503,
    "unpublished": 500,
}

log = logging.getLogger("tempos.invoker")

Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="of the bytes, in hex")]
Name = Annotated[str, Path(description="of a function", min_length=1, max_length=64)]
Wanted = Annotated[str | None, Query(max_length=64)]


def longest_body(method: str, path: str) -> int:
    """How many bytes a body may have."""
    if method == "PUT" and path.startswith("/v1/code/"):
        return layout.MAX_CODE
    if method == "PUT" and path == "/v1/deployment":
        return MAX_DEPLOYMENT
    if method == "POST" and path.startswith("/v1/functions/"):
        return frames.LARGEST_BODY
    return MAX_BODY


def application(invoker: Invoker, token: str = "") -> ASGIApp:
    """The web application over an invoker; with a ``token``, every request must bring it."""
    app = new_app(
        "tempos invoker API",
        lambda: invoker.ready,
        "Every function of the deployment has its workers, and every group is joined",
    )
    _add_deployment(app, invoker)
    _add_reading(app, invoker)
    _add_calling(app, invoker)
    _add_errors(app, invoker)
    return Door(
        app,
        token,
        invoker.api_refused,
        daemon="invoker",
        set_by="invoker.api_token",
        logger=log,
        longest=longest_body,
    )


def _add_deployment(app: FastAPI, invoker: Invoker) -> None:
    @app.get("/v1/deployment", summary="What the invoker is to do", responses=described(404))
    async def get_deployment() -> JSONResponse:
        if invoker.deployment is None:
            return problem(404, "there is no deployment yet: put one to /v1/deployment")
        return JSONResponse(layout.as_document(invoker.deployment))

    @app.put(
        "/v1/deployment",
        summary="Do this from now on: answered when all of it is in force, or nothing has changed",
        responses=described(400, 409, 422),
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def put_deployment(request: Request) -> JSONResponse:
        if invoker.settings.fixed:
            return problem(409, "the deployment stands in the file of this invoker: change that, then SIGHUP")
        try:
            document = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            return problem(400, f"the body is not JSON: {error}")
        try:
            deployment = layout.read(document)
        except ConfigError as error:
            return problem(422, f"nothing has changed: {'; '.join(error.problems)}", error.problems)
        try:
            await invoker.apply(deployment, document)
        except ConfigError as error:
            return problem(409, f"nothing has changed: {'; '.join(error.problems)}", error.problems)
        return JSONResponse({"revision": deployment.revision})

    @app.put(
        "/v1/code/{sha256}",
        summary="Upload code, to be named by a deployment",
        responses=described(400, 422, 507),
        openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}}},
    )
    async def put_code(sha256: Sha256, request: Request) -> JSONResponse:
        store = invoker.store
        part = store.part()
        try:
            with part.open("xb") as file:
                size, found = await _take(request, file.write)
            if found != sha256:
                return problem(422, f"the {size} bytes that came have the hash {found}: nothing is kept")
            store.keep(part, sha256)
        except OSError as error:
            return problem(507, f"the code cannot be kept in {store.folder}: {error.strerror}")
        finally:
            part.unlink(missing_ok=True)
        return JSONResponse({"sha256": sha256, "size": size})


async def _take(request: Request, write: Any) -> tuple[int, str]:
    """Take a body in pieces; gives its size and hash."""
    size, found = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        found.update(piece)
        write(piece)
    return size, found.hexdigest()


def _add_reading(app: FastAPI, invoker: Invoker) -> None:
    @app.get("/v1/status", summary="Everything a person looks for first", responses=described())
    async def get_status() -> dict[str, Any]:
        return documents.status(invoker)

    @app.get("/v1/logs/{name}", summary="The latest lines a function wrote", responses=described(404, 422))
    async def get_logs(name: Name) -> JSONResponse:
        if (function_log := invoker.logs.get(name)) is None:
            return _no_function(invoker, name)
        return JSONResponse(
            {"function": name, "lines": function_log.lines(), "left_out": function_log.left_out}
        )

    @app.get(
        "/metrics",
        summary="Numbers in Prometheus's text format",
        response_class=Streamed,
        responses=described(),
    )
    async def get_metrics() -> Response:
        return Streamed(pieces(metrics.samples(invoker)), media_type=MEDIA_TYPE)


def _add_calling(app: FastAPI, invoker: Invoker) -> None:
    @app.post(
        "/v1/functions/{name}/invoke",
        summary="Call a function by hand",
        responses={
            **described(404, 413, 422, 500, 502, 503, 504),
            200: {"description": "its output", "content": {"application/octet-stream": {}}},
        },
        openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}}},
    )
    async def invoke(name: Name, request: Request) -> Response:
        body = await request.body()
        try:
            outcome = await invoker.invoke(name, body)
        except KeyError:
            return _no_function(invoker, name)
        invocation = outcome.invocation
        took = (invocation.ended_ns - invocation.started_ns) / 1e9
        headers = {"Tempos-Id": invocation.event.id, "Tempos-Seconds": f"{took:.6f}"}
        if not outcome.condition:
            return Response(outcome.output, media_type="application/octet-stream", headers=headers)
        headers["Tempos-Condition"] = outcome.condition
        return problem(_STATUS[outcome.condition], f"{outcome.condition}: {outcome.reason}", headers=headers)


def _add_errors(app: FastAPI, invoker: Invoker) -> None:
    @app.get("/v1/errors", summary="Invocations that failed, the latest first", responses=described(422))
    async def get_errors(
        workflow: Wanted = None,
        step: Wanted = None,
        function: Wanted = None,
        condition: Wanted = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
    ) -> dict[str, Any]:
        found = invoker.failures.list(workflow=workflow, step=step, function=function, condition=condition)
        return {
            "errors": [documents.failure(each) for each in found[:limit]],
            "found": len(found),
            "dropped": invoker.failures.dropped,
        }

    @app.get("/v1/errors/{number}", summary="One of them, with its body", responses=described(404, 422))
    async def get_error(number: int) -> JSONResponse:
        found = invoker.failures.get(number)
        if found is None:
            return problem(404, f"there is no failure {number}, or it is kept no more")
        return JSONResponse(documents.failure(found, body=True))

    @app.post(
        "/v1/errors/redrive",
        summary="Accept failed events anew: a JSON object with numbers, or what they have in common",
        responses=described(400, 422),
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def redrive(request: Request) -> JSONResponse:
        try:
            wanted = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError) as error:
            return problem(400, f"the body is not JSON: {error}")
        if fault := _fault_in(wanted):
            return problem(422, fault)
        numbers = wanted.pop("numbers", None)
        chosen = [
            each for each in invoker.failures.list(**wanted) if numbers is None or each.number in numbers
        ]
        # The oldest first, as they came.
        done = [each.number for each in reversed(chosen) if invoker.redrive(each)]
        return JSONResponse({"redriven": done, "left": [e.number for e in chosen if e.number not in done]})


def _fault_in(wanted: object) -> str:
    keys = ("numbers", "workflow", "step", "function", "condition")
    allowed = f"allowed: an object with {', '.join(keys)}"
    if not isinstance(wanted, Mapping) or wanted.keys() - set(keys):
        return f"this says not what to redrive; {allowed}"
    for key, value in wanted.items():
        if key == "numbers":
            if not isinstance(value, list) or not all(type(each) is int for each in value):
                return "numbers is a list of whole numbers"
        elif not isinstance(value, str):
            return f"{key} is text"
    return ""


def _no_function(invoker: Invoker, name: str) -> JSONResponse:
    there = ", ".join(sorted({known for known, _ in invoker.teams})) or "none"
    return problem(404, f"there is no function {name!r}; there are: {there}")
