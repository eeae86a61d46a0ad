"""The Controller's API: HTTP, described by OpenAPI at ``/openapi.json``.

Workflows, functions, triggers and nodes are the tables of the platform's file, as JSON, one by one or several
in one change. A change is answered when it is in force, or when nothing has changed; errors are problems
(RFC 9457). Who is let in at all is the business of :mod:`tempos_daemon.door`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tempos import ConfigError
from tempos_controller import metrics
from tempos_controller.config.layout import FUNCTION, MAX_CODE, NODE, TRIGGER, WORKFLOW
from tempos_controller.config.load import KINDS
from tempos_controller.documents import Documents
from tempos_controller.force.engine import Engine, NotDone
from tempos_controller.watch.feed import Feed
from tempos_daemon.door import Door
from tempos_daemon.metrics import MEDIA_TYPE, pieces
from tempos_daemon.operations import Streamed
from tempos_daemon.page import Page
from tempos_daemon.problems import described, problem
from tempos_daemon.schema import Keys, join, json_schema
from tempos_daemon.viewers import VIEWERS, Full
from tempos_daemon.web import new_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger("tempos.controller")

#: Of a change: some thousands of workflows.
MAX_CHANGE = 16 * 1024 * 1024
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$"

Name = Annotated[str, Path(pattern=_NAME, description="its name")]
Documented = Annotated[dict[str, Any], Body(description="the table of the platform's file, as JSON")]
_TABLES: dict[str, Keys] = {"function": FUNCTION, "node": NODE, "trigger": TRIGGER, "workflow": WORKFLOW}


class ChangeIn(BaseModel):
    """Several documents at once, and names of what is to go: in force as a whole or not at all."""

    model_config = ConfigDict(extra="forbid")

    function: list[dict[str, Any]] = Field(default_factory=list)
    trigger: list[dict[str, Any]] = Field(default_factory=list)
    workflow: list[dict[str, Any]] = Field(default_factory=list)
    node: list[dict[str, Any]] = Field(default_factory=list)
    remove: dict[str, list[str]] = Field(default_factory=dict, description="kind -> names")


class PlanIn(ChangeIn):
    """The same, only to be told of."""

    whole: bool = Field(
        False, description="it is all that the file says: what came with that and is not here any more goes"
    )


class ChangedOut(BaseModel):
    """What was done, or would be, a line each."""

    changes: list[str]


class CodeOut(BaseModel):
    """Code that a function may name from now on."""

    sha256: str
    bytes: int


class LogOut(BaseModel):
    """The last lines of a log."""

    lines: list[str]


def application(
    engine: Engine, documents: Documents, token: str, refused: Counter[str], feed: Feed | None = None
) -> ASGIApp:
    """The web application over an engine; every request but for the page must bring the ``token``."""
    app = new_app(
        "tempos Controller API",
        lambda: engine.ready,
        "All that is wanted is in force, and every part answers",
    )
    app.add_exception_handler(ConfigError, _on_fault)
    app.add_exception_handler(NotDone, _on_not_done)
    feed = Feed(engine, documents) if feed is None else feed
    _add_status(app, documents, feed)
    _add_feed(app, feed)
    _add_changes(app, engine)
    for kind in KINDS:
        _add_kind(app, kind, engine, documents)
    door = Door(
        app,
        token,
        refused,
        daemon="Controller",
        set_by="tokens/controller in its state folder, or controller.api_token",
        logger=log,
        longest=_longest,
    )
    return Page(door, "tempos_controller.watch", ("page.js", "platform.js", "platform.css"))


def _longest(method: str, path: str) -> int:
    return MAX_CODE if path.startswith("/v1/code/") else MAX_CHANGE


def _add_status(app: FastAPI, documents: Documents, feed: Feed) -> None:
    @app.get("/v1/status", summary="Everything a person looks for first", responses=described())
    async def get_status() -> dict[str, Any]:
        return {**documents.status(), "wrong": await feed.wrong()}

    @app.get("/metrics", summary="The same for Prometheus", response_class=Streamed, responses=described())
    async def get_metrics() -> Response:
        return Streamed(pieces(metrics.samples(documents)), media_type=MEDIA_TYPE)

    @app.get(
        "/v1/parts/{part}/log",
        summary="The last lines of the log of a daemon that was started here",
        responses=described(404, 422),
    )
    async def get_log(
        part: Annotated[str, Path(description="as the status names it, a hyphen for the space")],
        lines: Annotated[int, Query(ge=1, le=10_000)] = 200,
    ) -> LogOut:
        try:
            return LogOut(lines=documents.log_of(part, lines))
        except KeyError:
            raise HTTPException(404, f"no part {part!r} was started here") from None

    @app.get(
        "/v1/workflows/{name}/logs",
        summary="The last lines that the functions of a workflow wrote",
        responses=described(404, 422),
    )
    async def get_workflow_logs(name: Name) -> dict[str, Any]:
        try:
            return await documents.logs(name)
        except KeyError:
            raise HTTPException(404, f"there is no workflow {name!r}") from None


def _add_feed(app: FastAPI, feed: Feed) -> None:
    # A stream without an end is not what OpenAPI describes.
    @app.get("/v1/events", include_in_schema=False)
    async def get_events(steps: Annotated[int | None, Query(ge=1)] = None) -> Response:
        try:
            stream = feed.look(steps)
        except Full:
            raise HTTPException(503, f"{VIEWERS} are looking already: close one of the pages") from None
        return Streamed(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _add_changes(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/v1/plan",
        summary="What is to be done until all that is wanted is in force",
        responses=described(409),
    )
    async def get_plan() -> ChangedOut:
        return ChangedOut(changes=await engine.plan({}))

    @app.post(
        "/v1/plan", summary="What a change would do; nothing is done", responses=described(404, 409, 422)
    )
    async def post_plan(body: PlanIn) -> ChangedOut:
        return ChangedOut(changes=await engine.plan(_change(body), whole=body.whole))

    @app.post(
        "/v1/apply",
        summary="Bring several things into force as a whole; answered when they are, or nothing has changed",
        responses=described(404, 409, 422),
    )
    async def post_apply(body: ChangeIn) -> ChangedOut:
        change = _change(body)
        named = ", ".join(f"{kind} {name}" for kind, items in change.items() for name in items)
        return ChangedOut(changes=(await engine.apply(change, named or "nothing")).changes)

    @app.put(
        "/v1/code/{sha256}",
        summary="Upload the code of a function; its hash is checked",
        responses=described(409, 422),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def put_code(sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], request: Request) -> CodeOut:
        code = await request.body()
        found = hashlib.sha256(code).hexdigest()
        if found != sha256:
            raise HTTPException(409, f"what came has the SHA-256 {found}, not {sha256}: nothing was kept")
        engine.store.add_code(code)
        return CodeOut(sha256=sha256, bytes=len(code))


def _add_kind(app: FastAPI, kind: str, engine: Engine, documents: Documents) -> None:
    @app.get(f"/v1/{kind}s", summary=f"Every {kind}, in order", responses=described())
    async def get_all() -> list[dict[str, Any]]:
        return documents.items(kind)

    @app.get(f"/v1/{kind}s/{{name}}", summary=f"One {kind}", responses=described(404, 422))
    async def get_one(name: Name) -> dict[str, Any]:
        try:
            return await documents.workflow(name) if kind == "workflow" else documents.item(kind, name)
        except KeyError:
            raise HTTPException(404, f"there is no {kind} {name!r}") from None

    @app.put(
        f"/v1/{kind}s/{{name}}",
        summary=f"Have a {kind}; answered when it is in force, or nothing has changed",
        responses=described(409, 422),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _schema(kind)}}}
        },
    )
    async def put_one(name: Name, body: Documented) -> ChangedOut:
        if body.get("name", name) != name:
            raise HTTPException(422, f"the document is of {body['name']!r}, the address of {name!r}")
        change = {kind: {name: {"name": name, **_plain(body)}}}
        return ChangedOut(changes=(await engine.apply(change, f"{kind} {name}")).changes)

    @app.delete(
        f"/v1/{kind}s/{{name}}",
        summary=f"Have a {kind} no longer; what is on its way through it arrives",
        responses=described(404, 409, 422),
    )
    async def delete_one(name: Name) -> ChangedOut:
        if name not in engine.desired.items.get(kind, {}):
            raise HTTPException(404, f"there is no {kind} {name!r}")
        done = await engine.apply({kind: {name: None}}, f"{kind} {name} removed")
        return ChangedOut(changes=done.changes)


def _schema(kind: str) -> dict[str, Any]:
    """The table of a kind as JSON Schema; its name is in the address."""
    found = json_schema(_TABLES[kind], {"name"})
    # A trigger has the keys of its kind besides.
    return {**found, "additionalProperties": True} if kind == "trigger" else found


def _change(body: ChangeIn) -> dict[str, dict[str, Any]]:
    """By kind and name; raises :class:`ConfigError`."""
    faults = [
        f"{join('remove', kind)} is no kind; allowed: {', '.join(KINDS)}"
        for kind in body.remove
        if kind not in KINDS
    ]
    change: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        named = change.setdefault(kind, {})
        for index, document in enumerate(getattr(body, kind)):
            name = document.get("name")
            if not isinstance(name, str):
                faults.append(f"{kind}[{index}].name is missing; allowed: the name of the {kind}")
            elif name in named:
                faults.append(f"{kind}[{index}].name is {name!r} once more; allowed: each once")
            else:
                named[name] = _plain(document)
        for name in body.remove.get(kind, ()):
            if named.get(name) is not None:
                faults.append(f"remove.{kind} names {name!r}, which is given as well; allowed: one of both")
            named[name] = None
    if faults:
        raise ConfigError(faults)
    return {kind: named for kind, named in change.items() if named}


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ConfigError)
    return problem(422, f"the change has faults: {'; '.join(error.problems)}", error.problems)


async def _on_not_done(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotDone)
    return problem(409, str(error), error.problems)
