"""The control API for people and scripts: HTTP, described by OpenAPI at ``/openapi.json``.

Runs on the broker's own event loop and touches no data. Rule: whatever comes in, the answer is a document as
:mod:`tempos_broker.api.models` has it or a problem (RFC 9457), never a 5xx but for "not ready yet". Who is
let in at all is the business of :mod:`tempos_daemon.door`. The description is made beforehand
(:mod:`tempos_broker.api.describe`): what makes it takes as much memory as an idle broker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tempos import PathPolicy
from tempos.control import Code
from tempos_broker.api.arguments import (
    BROKER_NAME,
    GROUP,
    KEEP_OUT,
    MAX_AGE,
    MEMBER,
    PATIENCE,
    POLICY,
    TOPIC_NAME,
    UNTIL_LET_IN,
)
from tempos_broker.api.clients import ClientCommands, add_client_orders
from tempos_broker.api.feed import Feed
from tempos_broker.api.names import WholeNames
from tempos_broker.api.snapshot import Snapshot, Snapshots
from tempos_broker.api.stream import listed
from tempos_broker.api.telling import Told
from tempos_broker.api.topics import TopicCommands, add_topic_orders
from tempos_broker.config.bad import BadDocument
from tempos_broker.documents import Documents
from tempos_broker.members.departures import KeptOut
from tempos_broker.membership import Refused
from tempos_broker.orders import Drained, KeepOut
from tempos_broker.status import kept_out_fields
from tempos_daemon.door import Door
from tempos_daemon.metrics import MEDIA_TYPE
from tempos_daemon.operations import Body, Number, Operations, Streamed
from tempos_daemon.page import Page
from tempos_daemon.problems import problem
from tempos_daemon.viewers import VIEWERS, Full

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

_STATUS = {Code.UNKNOWN_TOPIC: 404, Code.UNKNOWN_MEMBER: 404, Code.NOT_ALLOWED: 403, Code.LIMIT: 409}
_TOPIC, _MEMBERS = "/v1/topics/{topic:name}", "/v1/topics/{topic:name}/groups/{group:names}/members"

log = logging.getLogger("tempos.broker")

#: Events in one answer: some milliseconds of work.
TAP_PAGE = 100
_T = TypeVar("_T")


class Commands(TopicCommands, ClientCommands, Protocol):
    """What the API does to a broker. What names a topic raises :class:`Refused`."""

    @property
    def ready(self) -> bool: ...

    async def move(self, name: str, policy: PathPolicy) -> None: ...

    async def remove(
        self, name: str, group: str, endpoint: tuple[str, int], keep_out: KeepOut | None = None
    ) -> KeptOut | None: ...

    async def let_in(self, name: str, group: str, endpoint: tuple[str, int]) -> None: ...

    async def fleet_drain(self, name: str, *, on: bool) -> None: ...

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
    api = operations(broker, reload, feed, guarded=bool(token))
    app = api.application({Refused: _on_refused, BadDocument: _on_bad})
    door = Door(
        WholeNames(app),
        token,
        broker.documents.api_refused,
        daemon="broker",
        set_by="broker.api_token",
        logger=log,
    )
    return Page(door, "tempos_broker.api", ("page.js", "state.js"))


def operations(
    broker: Commands, reload: Reload, feed: Feed | None = None, *, guarded: bool = True
) -> Operations:
    """All that can be asked of a broker; ``guarded``: by who brings a token."""
    api = Operations()
    _add_state(api, broker)
    _add_reading(api, broker.documents, Snapshots(broker.documents))
    _add_feed(api, Feed(broker.documents) if feed is None else feed)
    _add_commands(api, broker, reload)
    add_topic_orders(api, broker)
    add_client_orders(api, broker, guarded=guarded)
    return api


def _add_state(api: Operations, broker: Commands) -> None:
    @api.add("GET", "/v1/health", "The event loop turns", "Health")
    async def get_health() -> dict[str, Any]:
        return {"health": "ok"}

    @api.add(
        "GET",
        "/v1/ready",
        "Every socket is bound and every topic has a route; 503 until then",
        "Ready",
        also={503: "Ready"},
    )
    async def get_ready() -> Response:
        is_ready = broker.ready
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @api.add("GET", "/openapi.json", "", shown=False)
    async def get_description() -> Response:
        described = resources.files("tempos_broker.api") / "assets" / "openapi.json"
        return Response(described.read_bytes(), media_type="application/json")


def _add_reading(api: Operations, told: Documents, snapshots: Snapshots) -> None:
    @api.add("GET", "/v1/status", "Everything a person looks for first", codes=(422,), max_age_s=MAX_AGE)
    async def get_status(max_age_s: float) -> Response:
        return _sent(await snapshots.status.ask(max_age_s), Snapshot.pieces)

    @api.add(
        "GET", "/metrics", "The same for Prometheus", codes=(422,), media_type=MEDIA_TYPE, max_age_s=MAX_AGE
    )
    async def get_metrics(max_age_s: float) -> Response:
        return _sent(await snapshots.metrics.ask(max_age_s), iter, MEDIA_TYPE)

    @api.add(
        "GET",
        "/v1/ledger",
        "Where every event went, and whether it adds up",
        "LedgerOut",
        (422,),
        max_age_s=MAX_AGE,
    )
    async def get_ledger(max_age_s: float) -> Response:
        return _sent(await snapshots.ledger.ask(max_age_s), Snapshot.pieces)

    @api.add(
        "GET", "/v1/ledger/{topic:name}", "The same of one topic", "LedgerTopic", (404, 422), topic=TOPIC_NAME
    )
    async def get_topic_ledger(topic: str) -> dict[str, Any]:
        return told.topic_ledger(topic)

    @api.add(
        "GET",
        "/v1/changes",
        "What changed last, the oldest first",
        "ChangesOut",
        (422,),
        since=Number("only what came after the one of this number", whole=True, default=0),
    )
    async def get_changes(since: int) -> dict[str, Any]:
        return told.changed(since)

    @api.add("GET", "/v1/fleet", "The fleet that this broker is in: who else is, and how far each has come")
    async def get_fleet() -> dict[str, Any]:
        return told.fleet()

    @api.add("GET", "/v1/fleet/members", "Its members, wherever they are at home", "[FleetMemberOut]")
    async def get_fleet_members() -> list[dict[str, Any]]:
        return told.fleet_members()

    @api.add("GET", "/v1/kept-out", "Whom an operator keeps out", "[KeptOutOut]")
    async def get_kept_out() -> list[dict[str, Any]]:
        return told.kept_out()

    @api.add("GET", "/v1/paths", "Which path serves each topic, and why", "[PathOut]")
    async def get_paths() -> Response:
        return listed(told.paths())

    @api.add("GET", "/v1/routes", "Every route in force", "[RouteOut]")
    async def get_routes() -> Response:
        return listed(told.routes(iter))

    @api.add("GET", "/v1/topics", "Every topic", "[TopicOut]", (422,), max_age_s=MAX_AGE)
    async def get_topics(max_age_s: float) -> Response:
        return _sent(await snapshots.status.ask(max_age_s), Snapshot.array)

    @api.add("GET", _TOPIC, "One topic", "TopicOut", (404, 422), topic=TOPIC_NAME)
    async def get_topic(topic: str) -> dict[str, Any]:
        return told.topic(topic)

    @api.add(
        "GET",
        f"{_TOPIC}/journal",
        "The latest events of a topic that keeps some, by pages",
        "TapOut",
        (404, 409, 422),
        topic=TOPIC_NAME,
        after=Number("only those after the one of this position", whole=True, default=0),
        most=Number("so many of them", least=1, most=TAP_PAGE, whole=True, default=TAP_PAGE),
        last=Number("no others than the last so many", whole=True),
    )
    async def get_journal(topic: str, after: int, most: int, last: int | None) -> dict[str, Any]:
        return await told.tap(topic, after, most, last)

    @api.add("GET", f"{_TOPIC}/path", "Which path, and why", "PathOut", (404, 422), topic=TOPIC_NAME)
    async def get_path(topic: str) -> dict[str, Any]:
        return told.topic_path(topic)

    @api.add("GET", f"{_TOPIC}/route", "The route in force", "RouteOut", (404, 422), topic=TOPIC_NAME)
    async def get_route(topic: str) -> dict[str, Any]:
        return told.topic_route(topic)

    @api.add("GET", f"{_TOPIC}/groups", "Its groups", "[GroupOut]", (404, 422), topic=TOPIC_NAME)
    async def get_groups(topic: str) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = told.topic(topic)["groups"]
        return groups

    # A group may have any printable name, so a slash, too.
    @api.add("GET", _MEMBERS, "Its members", "[MemberOut]", (404, 422), topic=TOPIC_NAME, group=GROUP)
    async def get_members(topic: str, group: str) -> list[dict[str, Any]]:
        for entry in told.topic(topic)["groups"]:
            if entry["name"] == group:
                members: list[dict[str, Any]] = entry["members"]
                return members
        raise HTTPException(404, f"topic {topic!r} has no group {group!r}")


def _add_feed(api: Operations, feed: Feed) -> None:
    @api.add("GET", "/v1/wrong", "What is wrong, or went wrong, since when, and what to do", "WrongOut")
    async def get_wrong() -> dict[str, Any]:
        return await feed.wrong()

    # A stream without an end is not what OpenAPI describes.
    @api.add("GET", "/v1/events", "What changes, as it does", shown=False, steps=Number(least=1, whole=True))
    async def get_events(steps: int | None) -> Response:
        try:
            stream = feed.look(steps)
        except Full:
            raise HTTPException(503, f"{VIEWERS} are looking already: close one of the pages") from None
        return Streamed(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _add_commands(api: Operations, commands: Commands, reload: Reload) -> None:
    @api.add(
        "POST",
        f"{_TOPIC}/path",
        "Let a topic take another path; nothing is lost or doubled",
        "PathOut",
        (404, 422),
        body=Body({"policy": POLICY}, told=("policy",)),
        topic=TOPIC_NAME,
    )
    async def post_path(topic: str, policy: str) -> dict[str, Any]:
        await commands.move(topic, PathPolicy(policy))
        return commands.documents.topic_path(topic)

    @api.add(
        "POST",
        f"{_MEMBERS}/{{member}}/drain",
        "Take a member out, losing nothing; answered when it has confirmed everything, or too late",
        "DrainOut",
        (404, 422),
        body=Body(
            {"patience_s": PATIENCE, "keep_out_s": KEEP_OUT, "until_let_in": UNTIL_LET_IN}, whole=False
        ),
        topic=TOPIC_NAME,
        group=GROUP,
        member=MEMBER,
    )
    async def post_drain(
        topic: str, group: str, member: str, patience_s: float, keep_out_s: float | None, until_let_in: bool
    ) -> dict[str, Any]:
        keep_out = _keep_out(keep_out_s, until_let_in=until_let_in)
        done = await commands.drain(topic, group, _endpoint(member), patience_s, keep_out)
        return {
            "ticketed": done.ticketed,
            "delivered": done.confirmed,
            "confirmed": done.ticketed == done.confirmed,
            "kept_out": _kept_out(done.kept_out),
        }

    @api.add(
        "DELETE",
        f"{_MEMBERS}/{{member}}",
        "Take a member out at once",
        "Removed",
        (404, 409, 422),
        topic=TOPIC_NAME,
        group=GROUP,
        member=MEMBER,
        keep_out_s=KEEP_OUT,
        until_let_in=UNTIL_LET_IN,
    )
    async def delete_member(
        topic: str, group: str, member: str, keep_out_s: float | None, until_let_in: bool
    ) -> dict[str, Any]:
        keep_out = _keep_out(keep_out_s, until_let_in=until_let_in)
        kept = await commands.remove(topic, group, _endpoint(member), keep_out)
        return {"removed": member, "kept_out": _kept_out(kept)}

    @api.add(
        "POST",
        f"{_MEMBERS}/{{member}}/let-in",
        "Let somebody come back who is kept out",
        "LetIn",
        (404, 422),
        topic=TOPIC_NAME,
        group=GROUP,
        member=MEMBER,
    )
    async def post_let_in(topic: str, group: str, member: str) -> dict[str, Any]:
        await commands.let_in(topic, group, _endpoint(member))
        return {"let_in": member}

    @api.add(
        "POST",
        "/v1/fleet/brokers/{broker}/drain",
        "Take a broker of the fleet out of service: publishers and members go to the others",
        "FleetDrain",
        (404, 409, 422),
        broker=BROKER_NAME,
    )
    async def post_fleet_drain(broker: str) -> dict[str, Any]:
        await commands.fleet_drain(broker, on=True)
        return {"broker": broker, "in_service": False}

    @api.add(
        "DELETE",
        "/v1/fleet/brokers/{broker}/drain",
        "Take it back into service",
        "FleetDrain",
        (404, 409, 422),
        broker=BROKER_NAME,
    )
    async def delete_fleet_drain(broker: str) -> dict[str, Any]:
        await commands.fleet_drain(broker, on=False)
        return {"broker": broker, "in_service": True}

    @api.add(
        "POST",
        "/v1/reload",
        "Read the configuration again and apply it, whole or not at all",
        "Reloaded",
        (409,),
    )
    async def post_reload() -> dict[str, Any]:
        return {"changes": list(await reload())}


def _sent(
    told: Told[_T], pieces: Callable[[_T], Iterator[bytes]], media_type: str = "application/json"
) -> Response:
    """What was told, sent in pieces: the event loop serves between two of them."""

    async def each() -> AsyncIterator[bytes]:
        for piece in pieces(told.value):
            yield piece
            await asyncio.sleep(0)

    at = f"{told.at:.3f}"
    return Streamed(each(), media_type=media_type, headers={"Age": str(int(told.age)), "Tempos-Told-At": at})


def _keep_out(seconds: float | None, *, until_let_in: bool) -> KeepOut | None:
    if until_let_in and seconds is not None:
        raise HTTPException(422, "keep_out_s and until_let_in say different things: give one of them")
    return KeepOut(None) if until_let_in else None if seconds is None else KeepOut(seconds)


def _kept_out(kept: KeptOut | None) -> dict[str, Any] | None:
    return None if kept is None else kept_out_fields(kept, time.monotonic())


def _endpoint(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


async def _on_bad(request: Request, error: Exception) -> JSONResponse:
    """What was told is not as it must be, and all that is wrong with it."""
    assert isinstance(error, BadDocument)
    text = f"the {error.what} is not as it must be: {'; '.join(error.problems)}"
    return problem(422, text, error.problems)


async def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return problem(_STATUS.get(error.code, 409), f"{error}; {error.hint}" if error.hint else str(error))
