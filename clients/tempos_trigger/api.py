"""The trigger's API: HTTP, described by OpenAPI at ``/openapi.json``.

Who is let in at all is the business of :mod:`tempos_daemon.door`. Errors are problems (RFC 9457).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tempos import ConfigError
from tempos_daemon.door import Door
from tempos_daemon.metrics import MEDIA_TYPE, pieces
from tempos_daemon.operations import Streamed
from tempos_daemon.problems import described, problem
from tempos_daemon.web import new_app
from tempos_trigger import layout, metrics
from tempos_trigger.trigger import Trigger

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger("tempos.trigger")

#: Bytes of a deployment.
LONGEST = 16 << 20


def application(trigger: Trigger, token: str = "", *, by_file: bool = False) -> ASGIApp:
    """The web application over a trigger; ``by_file``: its deployment is a file's, so none is put."""
    app = new_app(
        "tempos trigger API",
        lambda: trigger.ready,
        "A deployment is in force, every endpoint takes signals in and the broker takes their events",
    )
    _add(app, trigger, by_file=by_file)
    return Door(
        app,
        token,
        trigger.api_refused,
        daemon="trigger",
        set_by="trigger.api_token",
        logger=log,
        longest=lambda method, path: LONGEST,
    )


def _add(app: FastAPI, trigger: Trigger, *, by_file: bool) -> None:
    @app.get("/v1/status", summary="Everything a person looks for first", responses=described())
    async def get_status() -> dict[str, Any]:
        return trigger.status()

    @app.get("/metrics", summary="The same for Prometheus", responses=described(), response_class=Streamed)
    async def get_metrics() -> Response:
        return Streamed(pieces(metrics.samples(trigger)), media_type=MEDIA_TYPE)

    @app.get(
        "/v1/deployment",
        summary="The deployment in force, as it was given, with what is secret in it",
        responses=described(404),
    )
    async def get_deployment() -> dict[str, Any]:
        if trigger.deployment is None:
            raise HTTPException(404, "there is no deployment yet: PUT one here")
        return dict(trigger.deployment.document)

    @app.put(
        "/v1/deployment",
        summary="Put a deployment in force, whole or not at all; answered when it is",
        responses=described(409, 422),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}
        },
    )
    async def put_deployment(request: Request) -> JSONResponse:
        if by_file:
            return problem(
                409, "the deployment of this trigger stands in its file: change that, and send SIGHUP"
            )
        try:
            document = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            return problem(400, f"the body is no JSON document: {error}")
        try:
            new = layout.parse(document, "deployment")
        except ConfigError as error:
            return problem(422, f"the deployment has faults: {'; '.join(error.problems)}", error.problems)
        changes = await trigger.apply(new, "put")
        return JSONResponse({"revision": new.revision, "changes": changes})


_SCHEMA = {
    "type": "object",
    "properties": {
        "revision": {"type": "string", "maxLength": layout.MAX_REVISION},
        "broker": {"type": "object"},
        "endpoint": {"type": "array", "items": {"type": "object"}},
    },
}
