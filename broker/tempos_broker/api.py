"""The control API for people and scripts: HTTP, described by OpenAPI at ``/openapi.json``.

Runs on the broker's own event loop and touches no data. Rules: whatever comes in, the answer is a document
of :mod:`tempos_broker.api_models` or a problem (RFC 9457), never a 5xx but for "not ready yet"; with a
token configured nothing is told without it; what a web page sends is refused, for it is not the operator
who wrote it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import uvicorn
from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tempos import ConfigError, PathPolicy, __version__
from tempos.control import Code
from tempos_broker import api_models as models
from tempos_broker.membership import Refused
from tempos_broker.sparingly import Sparingly

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: The longest body of a request, bytes.
MAX_BODY = 1 << 16
PROBLEM = "application/problem+json"

_STATUS = {Code.UNKNOWN_TOPIC: 404, Code.UNKNOWN_MEMBER: 404, Code.NOT_ALLOWED: 403, Code.LIMIT: 409}
_ENDPOINT = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}$"

log = logging.getLogger("tempos.broker")

TopicName = Annotated[str, Path(description="name of the topic", min_length=1, max_length=64)]
GroupName = Annotated[str, Path(description="name of the group", min_length=1, max_length=64)]
Endpoint = Annotated[str, Path(description="ip:port", pattern=_ENDPOINT, examples=["10.0.2.2:5000"])]


class Commands(Protocol):
    """What the API does to a broker. All but the first two raise :class:`Refused`.

    ``api_refused`` counts the requests that were turned away at the door, by reason; it is in the status.
    """

    api_refused: Counter[str]

    def status(self) -> dict[str, Any]: ...

    def ledger(self) -> dict[str, Any]: ...

    async def move(self, name: str, policy: PathPolicy) -> None: ...

    async def remove(self, name: str, group: str, endpoint: tuple[str, int]) -> None: ...

    async def drain(
        self, name: str, group: str, endpoint: tuple[str, int], patience: float
    ) -> tuple[int, int]: ...


#: Reads the configuration again and applies it: what changed; raises :class:`ConfigError`.
Reload = Callable[[], Awaitable[Sequence[str]]]


def application(broker: Commands, reload: Reload, token: str = "") -> ASGIApp:
    """The web application over a broker; with a ``token``, every request must bring it."""
    app = FastAPI(title="tempos control API", version=__version__, docs_url=None, redoc_url=None)
    _add_reading(app, broker)
    _add_commands(app, broker, reload)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(ConfigError, _on_config)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return _Gate(app, token, broker.api_refused)


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        code: {"description": http.HTTPStatus(code).phrase, "content": {PROBLEM: {"schema": schema}}}
        for code in (400, 401, 403, 413, *codes)
    }


def _add_reading(app: FastAPI, broker: Commands) -> None:
    def topic_of(name: str) -> dict[str, Any]:
        for topic in broker.status()["topics"]:
            if topic["name"] == name:
                found: dict[str, Any] = topic
                return found
        known = ", ".join(topic["name"] for topic in broker.status()["topics"])
        raise HTTPException(404, f"no topic is named {name!r}; known: {known}")

    @app.get("/v1/status", summary="Everything a person looks for first", responses=_problems())
    async def get_status() -> dict[str, Any]:
        return broker.status()

    @app.get("/v1/health", summary="The broker's event loop turns", responses=_problems())
    async def get_health() -> models.Health:
        return models.Health()

    @app.get(
        "/v1/ready",
        summary="Every socket is bound and every topic has a route; 503 until then",
        responses={**_problems(), 503: {"model": models.Ready, "description": "not yet"}},
    )
    async def get_ready(response: Response) -> models.Ready:
        ready = bool(broker.status()["broker"]["ready"])
        if not ready:
            response.status_code = 503
        return models.Ready(ready=ready)

    @app.get("/v1/ledger", summary="Where every event went, and whether it adds up", responses=_problems())
    async def get_ledger() -> models.LedgerOut:
        return models.LedgerOut.model_validate(broker.ledger())

    @app.get("/v1/ledger/{topic}", summary="The same of one topic", responses=_problems(404, 422))
    async def get_topic_ledger(topic: TopicName) -> models.LedgerTopic:
        topic_of(topic)
        entry = next(entry for entry in broker.ledger()["topics"] if entry["name"] == topic)
        return models.LedgerTopic.model_validate(entry)

    @app.get("/v1/paths", summary="Which path serves each topic, and why", responses=_problems())
    async def get_paths() -> list[models.PathOut]:
        return [_path(topic) for topic in broker.status()["topics"]]

    @app.get("/v1/routes", summary="Every route in force", responses=_problems())
    async def get_routes() -> list[models.RouteOut]:
        return [_route(topic) for topic in broker.status()["topics"]]

    @app.get("/v1/topics", summary="Every topic", responses=_problems())
    async def get_topics() -> list[models.TopicOut]:
        return [models.TopicOut.model_validate(topic) for topic in broker.status()["topics"]]

    @app.get("/v1/topics/{topic}", summary="One topic", responses=_problems(404, 422))
    async def get_topic(topic: TopicName) -> models.TopicOut:
        return models.TopicOut.model_validate(topic_of(topic))

    @app.get("/v1/topics/{topic}/path", summary="Which path, and why", responses=_problems(404, 422))
    async def get_path(topic: TopicName) -> models.PathOut:
        return _path(topic_of(topic))

    @app.get("/v1/topics/{topic}/route", summary="The route in force", responses=_problems(404, 422))
    async def get_route(topic: TopicName) -> models.RouteOut:
        return _route(topic_of(topic))

    @app.get("/v1/topics/{topic}/groups", summary="Its groups", responses=_problems(404, 422))
    async def get_groups(topic: TopicName) -> list[models.GroupOut]:
        return [models.GroupOut.model_validate(group) for group in topic_of(topic)["groups"]]

    # A group may have any printable name, so a slash, too.
    @app.get(
        "/v1/topics/{topic}/groups/{group:path}/members", summary="Its members", responses=_problems(404, 422)
    )
    async def get_members(topic: TopicName, group: GroupName) -> list[models.MemberOut]:
        for entry in topic_of(topic)["groups"]:
            if entry["name"] == group:
                return [models.MemberOut.model_validate(member) for member in entry["members"]]
        raise HTTPException(404, f"topic {topic!r} has no group {group!r}")


def _add_commands(app: FastAPI, broker: Commands, reload: Reload) -> None:
    @app.post(
        "/v1/topics/{topic}/path",
        summary="Let a topic take another path; nothing is lost or doubled",
        responses=_problems(404, 422),
    )
    async def post_path(topic: TopicName, body: models.MoveIn) -> models.PathOut:
        await broker.move(topic, PathPolicy(body.policy))
        return next(_path(entry) for entry in broker.status()["topics"] if entry["name"] == topic)

    @app.post(
        "/v1/topics/{topic}/groups/{group:path}/members/{member}/drain",
        summary="Take a member out, losing nothing; answered when it has confirmed everything, or too late",
        responses=_problems(404, 422),
    )
    async def post_drain(
        topic: TopicName, group: GroupName, member: Endpoint, body: models.DrainIn | None = None
    ) -> models.DrainOut:
        patience = body.patience_s if body is not None else models.DRAIN_PATIENCE
        ticketed, delivered = await broker.drain(topic, group, _endpoint(member), patience)
        return models.DrainOut(ticketed=ticketed, delivered=delivered, confirmed=ticketed == delivered)

    @app.delete(
        "/v1/topics/{topic}/groups/{group:path}/members/{member}",
        summary="Take a member out at once",
        responses=_problems(404, 422),
    )
    async def delete_member(topic: TopicName, group: GroupName, member: Endpoint) -> models.Removed:
        await broker.remove(topic, group, _endpoint(member))
        return models.Removed(removed=member)

    @app.post(
        "/v1/reload",
        summary="Read the configuration again and apply it, whole or not at all",
        responses=_problems(409),
    )
    async def post_reload() -> models.Reloaded:
        return models.Reloaded(changes=list(await reload()))


def _path(topic: Mapping[str, Any]) -> models.PathOut:
    return models.PathOut(
        topic=topic["name"], policy=topic["policy"], path=topic["path"], reason=topic["reason"]
    )


def _route(topic: Mapping[str, Any]) -> models.RouteOut:
    groups = [
        models.RouteGroup(name=group["name"], members=[f"{m['ip']}:{m['port']}" for m in group["members"]])
        for group in topic["groups"]
        if group["members"]
    ]
    return models.RouteOut(topic=topic["name"], epoch=topic["epoch"], path=topic["path"], groups=groups)


def _endpoint(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


# --- errors ---------------------------------------------------------------------------------------


def _problem(
    status: int, detail: str, problems: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    problem = models.Problem(
        title=http.HTTPStatus(status).phrase, status=status, detail=detail, problems=list(problems)
    )
    return JSONResponse(problem.model_dump(), status, headers, PROBLEM)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), headers=error.headers)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return _problem(422, "the request is not as the OpenAPI document says: " + "; ".join(problems), problems)


async def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return _problem(_STATUS.get(error.code, 409), f"{error}; {error.hint}" if error.hint else str(error))


async def _on_config(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ConfigError)
    return _problem(409, f"the configuration was not applied: {'; '.join(error.problems)}", error.problems)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = models.Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}, {}]
        app.openapi_schema = schema
    return app.openapi_schema


class _Gate:
    """In front of everything: the token, no web pages, no endless bodies."""

    def __init__(self, app: ASGIApp, token: str, refused: Counter[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._refused = refused
        self._log = Sparingly(log, time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal({name.lower(): value for name, value in scope["headers"]})
        if refusal is None:
            await self._app(scope, receive, send)
            return
        reason, answer = refusal
        self._refused[reason] += 1
        source = scope["client"][0] if scope.get("client") else "nobody"
        self._log.warn(reason, f"control API request from {source} refused: {reason}")
        await answer(scope, receive, send)

    def _refusal(self, headers: Mapping[bytes, bytes]) -> tuple[str, JSONResponse] | None:
        """Why a request is turned away, as counted, and its answer."""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else b""
        if self._token and not hmac.compare_digest(given, self._token):
            reason, said = (
                ("wrong token", "this token is not the one") if given else ("no token", "a token is needed")
            )
            return reason, _problem(
                401,
                f"{said}: send 'Authorization: Bearer ...' with broker.api_token of the configuration",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if b"origin" in headers:
            return "web page", _problem(
                403, "requests of web pages are refused: use `tempos ctl`, or leave Origin away"
            )
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length[:20]) > MAX_BODY:
            return "body", _problem(413, f"a body has a Content-Length of at most {MAX_BODY} bytes")
        return None


# --- serving --------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn inside a loop that belongs to the broker: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
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
            self._server.serve(sockets=[listener]), name="control API"
        )

    async def close(self) -> None:
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
