"""The control API for people and scripts: HTTP, described by OpenAPI at ``/openapi.json``.

Runs on the broker's own event loop and touches no data. Rule: whatever comes in, the answer is a document
of :mod:`tempos_broker.api.models` or a problem (RFC 9457), never a 5xx but for "not ready yet". Who is let
in at all is the business of :mod:`tempos_daemon.door`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from tempos import PathPolicy
from tempos.control import Code
from tempos_broker.api import models
from tempos_broker.api.feed import VIEWERS, Feed, Full
from tempos_broker.api.names import WholeNames
from tempos_broker.api.page import Page
from tempos_broker.api.snapshot import Snapshot, Snapshots
from tempos_broker.api.stream import listed
from tempos_broker.api.telling import Told
from tempos_broker.api.topics import TopicCommands, TopicName, add_topic_orders
from tempos_broker.documents import Documents
from tempos_broker.members.departures import KeptOut
from tempos_broker.membership import Refused
from tempos_broker.orders import Drained, KeepOut
from tempos_broker.status import kept_out_fields
from tempos_daemon.door import Door
from tempos_daemon.metrics import MEDIA_TYPE
from tempos_daemon.problems import described, problem
from tempos_daemon.web import new_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_STATUS = {Code.UNKNOWN_TOPIC: 404, Code.UNKNOWN_MEMBER: 404, Code.NOT_ALLOWED: 403, Code.LIMIT: 409}
_ENDPOINT = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}$"

log = logging.getLogger("tempos.broker")

GroupName = Annotated[str, Path(description="name of the group", min_length=1, max_length=64)]
Endpoint = Annotated[str, Path(description="ip:port", pattern=_ENDPOINT, examples=["10.0.2.2:5000"])]

MaxAge = Annotated[
    float,
    Query(
        ge=0,
        le=60,
        description="seconds: so old it may be if it is there already, instead of being made anew; Age says "
        "how old it is, Tempos-Told-At when it began to be made",
    ),
]
#: Events in one answer: some milliseconds of work.
TAP_PAGE = 100
_T = TypeVar("_T")


class Commands(TopicCommands, Protocol):
    """What the API does to a broker. What names a topic raises :class:`Refused`."""

    @property
    def ready(self) -> bool: ...

    async def move(self, name: str, policy: PathPolicy) -> None: ...

    async def remove(
        self, name: str, group: str, endpoint: tuple[str, int], keep_out: KeepOut | None = None
    ) -> KeptOut | None: ...

    async def let_in(self, name: str, group: str, endpoint: tuple[str, int]) -> None: ...

    async def drain(
        self,
        name: str,
        group: str,
        endpoint: tuple[str, int],
        patience: float,
        keep_out: KeepOut | None = None,
    ) -> Drained: ...


#: Reads the configuration again and applies it: what changed; raises :class:`ConfigError`.
Reload = Callable[[], Awaitable[Sequence[str]]]


def application(broker: Commands, reload: Reload, token: str = "", feed: Feed | None = None) -> ASGIApp:
    """The web application over a broker; with a ``token``, every request but for the page must bring it."""
    app = new_app(
        "tempos control API",
        lambda: broker.ready,
        "Every socket is bound and every topic has a route",
    )
    _add_reading(app, broker.documents, Snapshots(broker.documents))
    _add_feed(app, Feed(broker.documents) if feed is None else feed)
    _add_commands(app, broker, reload)
    add_topic_orders(app, broker)
    app.add_exception_handler(Refused, _on_refused)
    door = Door(
        WholeNames(app),
        token,
        broker.documents.api_refused,
        daemon="broker",
        set_by="broker.api_token",
        logger=log,
    )
    return Page(door)


def _add_reading(app: FastAPI, told: Documents, snapshots: Snapshots) -> None:
    @app.get("/v1/status", summary="Everything a person looks for first", responses=described(422))
    async def get_status(max_age_s: MaxAge = 0.0) -> dict[str, Any]:
        return _sent(await snapshots.status.ask(max_age_s), Snapshot.pieces)  # type: ignore[return-value]

    @app.get(
        "/metrics",
        summary="The same for Prometheus",
        response_class=StreamingResponse,
        responses=described(422),
    )
    async def get_metrics(max_age_s: MaxAge = 0.0) -> Response:
        return _sent(await snapshots.metrics.ask(max_age_s), iter, MEDIA_TYPE)

    @app.get(
        "/v1/ledger",
        summary="Where every event went, and whether it adds up",
        response_model=models.LedgerOut,
        responses=described(422),
    )
    async def get_ledger(max_age_s: MaxAge = 0.0) -> Response:
        return _sent(await snapshots.ledger.ask(max_age_s), Snapshot.pieces)

    @app.get("/v1/ledger/{topic:name}", summary="The same of one topic", responses=described(404, 422))
    async def get_topic_ledger(topic: TopicName) -> models.LedgerTopic:
        return models.LedgerTopic.model_validate(told.topic_ledger(topic))

    @app.get("/v1/changes", summary="What changed last, the oldest first", responses=described(422))
    async def get_changes(
        since: Annotated[int, Query(ge=0, description="only what came after the one of this number")] = 0,
    ) -> models.ChangesOut:
        return models.ChangesOut.model_validate(told.changed(since))

    @app.get("/v1/kept-out", summary="Whom an operator keeps out", responses=described())
    async def get_kept_out() -> list[models.KeptOutOut]:
        return [models.KeptOutOut.model_validate(each) for each in told.kept_out()]

    @app.get(
        "/v1/paths",
        summary="Which path serves each topic, and why",
        response_model=list[models.PathOut],
        responses=described(),
    )
    async def get_paths() -> Response:
        return listed(told.paths())

    @app.get(
        "/v1/routes",
        summary="Every route in force",
        response_model=list[models.RouteOut],
        responses=described(),
    )
    async def get_routes() -> Response:
        return listed(told.routes(iter))

    @app.get(
        "/v1/topics",
        summary="Every topic",
        response_model=list[models.TopicOut],
        responses=described(422),
    )
    async def get_topics(max_age_s: MaxAge = 0.0) -> Response:
        return _sent(await snapshots.status.ask(max_age_s), Snapshot.array)

    @app.get("/v1/topics/{topic:name}", summary="One topic", responses=described(404, 422))
    async def get_topic(topic: TopicName) -> models.TopicOut:
        return models.TopicOut.model_validate(told.topic(topic))

    @app.get(
        "/v1/topics/{topic:name}/journal",
        summary="The latest events of a topic that keeps some, by pages",
        responses=described(404, 409, 422),
    )
    async def get_journal(
        topic: TopicName,
        after: Annotated[int, Query(ge=0, description="only those after the one of this position")] = 0,
        most: Annotated[int, Query(ge=1, le=TAP_PAGE, description="so many of them")] = TAP_PAGE,
        last: Annotated[int | None, Query(ge=0, description="no others than the last so many")] = None,
    ) -> models.TapOut:
        return models.TapOut.model_validate(await told.tap(topic, after, most, last))

    @app.get("/v1/topics/{topic:name}/path", summary="Which path, and why", responses=described(404, 422))
    async def get_path(topic: TopicName) -> models.PathOut:
        return models.PathOut(**told.topic_path(topic))

    @app.get("/v1/topics/{topic:name}/route", summary="The route in force", responses=described(404, 422))
    async def get_route(topic: TopicName) -> models.RouteOut:
        return models.RouteOut.model_validate(told.topic_route(topic))

    @app.get("/v1/topics/{topic:name}/groups", summary="Its groups", responses=described(404, 422))
    async def get_groups(topic: TopicName) -> list[models.GroupOut]:
        return [models.GroupOut.model_validate(group) for group in told.topic(topic)["groups"]]

    # A group may have any printable name, so a slash, too.
    @app.get(
        "/v1/topics/{topic:name}/groups/{group:names}/members",
        summary="Its members",
        responses=described(404, 422),
    )
    async def get_members(topic: TopicName, group: GroupName) -> list[models.MemberOut]:
        for entry in told.topic(topic)["groups"]:
            if entry["name"] == group:
                return [models.MemberOut.model_validate(member) for member in entry["members"]]
        raise HTTPException(404, f"topic {topic!r} has no group {group!r}")


def _add_feed(app: FastAPI, feed: Feed) -> None:
    # A stream without an end is not what OpenAPI describes.
    @app.get("/v1/events", include_in_schema=False)
    async def get_events(steps: Annotated[int | None, Query(ge=1)] = None) -> Response:
        try:
            stream = feed.look(steps)
        except Full:
            raise HTTPException(503, f"{VIEWERS} are looking already: close one of the pages") from None
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


def _add_commands(app: FastAPI, broker: Commands, reload: Reload) -> None:
    @app.post(
        "/v1/topics/{topic:name}/path",
        summary="Let a topic take another path; nothing is lost or doubled",
        responses=described(404, 422),
    )
    async def post_path(topic: TopicName, body: models.MoveIn) -> models.PathOut:
        await broker.move(topic, PathPolicy(body.policy))
        return models.PathOut(**broker.documents.topic_path(topic))

    @app.post(
        "/v1/topics/{topic:name}/groups/{group:names}/members/{member}/drain",
        summary="Take a member out, losing nothing; answered when it has confirmed everything, or too late",
        responses=described(404, 422),
    )
    async def post_drain(
        topic: TopicName, group: GroupName, member: Endpoint, body: models.DrainIn | None = None
    ) -> models.DrainOut:
        body = body or models.DrainIn(patience_s=models.DRAIN_PATIENCE)
        keep_out = _keep_out(body.keep_out_s, until_let_in=body.until_let_in)
        done = await broker.drain(topic, group, _endpoint(member), body.patience_s, keep_out)
        return models.DrainOut(
            ticketed=done.ticketed,
            delivered=done.confirmed,
            confirmed=done.ticketed == done.confirmed,
            kept_out=_kept_out(done.kept_out),
        )

    @app.delete(
        "/v1/topics/{topic:name}/groups/{group:names}/members/{member}",
        summary="Take a member out at once",
        responses=described(404, 409, 422),
    )
    async def delete_member(
        topic: TopicName,
        group: GroupName,
        member: Endpoint,
        keep_out_s: Annotated[models.KeepOutSeconds, Query()] = None,
        until_let_in: Annotated[models.UntilLetIn, Query()] = False,
    ) -> models.Removed:
        keep_out = _keep_out(keep_out_s, until_let_in=until_let_in)
        kept = await broker.remove(topic, group, _endpoint(member), keep_out)
        return models.Removed(removed=member, kept_out=_kept_out(kept))

    @app.post(
        "/v1/topics/{topic:name}/groups/{group:names}/members/{member}/let-in",
        summary="Let somebody come back who is kept out",
        responses=described(404, 422),
    )
    async def post_let_in(topic: TopicName, group: GroupName, member: Endpoint) -> models.LetIn:
        await broker.let_in(topic, group, _endpoint(member))
        return models.LetIn(let_in=member)

    @app.post(
        "/v1/reload",
        summary="Read the configuration again and apply it, whole or not at all",
        responses=described(409),
    )
    async def post_reload() -> models.Reloaded:
        return models.Reloaded(changes=list(await reload()))


def _sent(
    told: Told[_T], pieces: Callable[[_T], Iterator[bytes]], media_type: str = "application/json"
) -> Response:
    """What was told, sent in pieces: the event loop serves between two of them."""

    async def each() -> AsyncIterator[bytes]:
        for piece in pieces(told.value):
            yield piece
            await asyncio.sleep(0)

    at = f"{told.at:.3f}"
    return StreamingResponse(
        each(), media_type=media_type, headers={"Age": str(int(told.age)), "Tempos-Told-At": at}
    )


def _keep_out(seconds: float | None, *, until_let_in: bool) -> KeepOut | None:
    if until_let_in and seconds is not None:
        raise HTTPException(422, "keep_out_s and until_let_in say different things: give one of them")
    return KeepOut(None) if until_let_in else None if seconds is None else KeepOut(seconds)


def _kept_out(kept: KeptOut | None) -> models.KeptOutOut | None:
    if kept is None:
        return None
    return models.KeptOutOut.model_validate(kept_out_fields(kept, time.monotonic()))


def _endpoint(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


async def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return problem(_STATUS.get(error.code, 409), f"{error}; {error.hint}" if error.hint else str(error))
