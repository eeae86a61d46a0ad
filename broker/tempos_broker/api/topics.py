"""Topics made, changed and removed through the control API; what they may be, the file's own tables say.

A body is an object with the keys of a ``[[topic]]`` of the file, judged by the same tables and rules; the
OpenAPI document is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from tempos_broker.api.arguments import DRAIN, DRAIN_SECONDS, TOPIC_NAME
from tempos_broker.api.names import in_address
from tempos_broker.api.stream import listed
from tempos_broker.config.model import Origin
from tempos_broker.config.topics import TOPIC
from tempos_broker.documents import Documents
from tempos_broker.topics.orders import Removed
from tempos_daemon.operations import Body, Choice, Operations
from tempos_daemon.schema import json_schema

_ORIGIN = Choice(tuple(each.value for each in Origin), "only of those that this made")


class TopicCommands(Protocol):
    """What this part of the API does to a broker; :class:`Refused` and :class:`BadTopic` say why not."""

    @property
    def documents(self) -> Documents: ...

    async def add_topic(self, document: Mapping[str, Any]) -> dict[str, Any]: ...

    async def set_topic(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...

    async def remove_topic(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed: ...


def add_topic_orders(api: Operations, broker: TopicCommands) -> None:
    """Add the operations."""

    @api.add(
        "GET",
        "/v1/options",
        "The options of every topic, as they stand in a configuration file",
        "[OptionsOut]",
        (422,),
        origin=_ORIGIN,
    )
    async def get_all_options(origin: str | None) -> Response:
        return listed(broker.documents.options(None if origin is None else Origin(origin)))

    @api.add(
        "GET",
        "/v1/topics/{topic:name}/options",
        "The options of a topic, as they stand in a configuration file",
        "OptionsOut",
        (404, 422),
        topic=TOPIC_NAME,
    )
    async def get_options(topic: str) -> dict[str, Any]:
        return broker.documents.topic_options(topic)

    @api.add(
        "POST",
        "/v1/topics",
        "Make a topic: it is served when this is answered, and survives a broker that keeps state",
        "TopicOut",
        (409, 422),
        status=201,
        body=Body(schema=json_schema(TOPIC, optional={"id"})),
    )
    async def post_topic(body: dict[str, Any]) -> Response:
        made = await broker.add_topic(body)
        return JSONResponse(made, 201, {"Location": f"/v1/topics/{in_address(made['name'])}"})

    @api.add(
        "PATCH",
        "/v1/topics/{topic:name}",
        "Change options of a topic that was made at run time; null: back to the default",
        "TopicOut",
        (404, 409, 422),
        body=Body(schema=json_schema(TOPIC, optional=set(TOPIC))),
        topic=TOPIC_NAME,
    )
    async def patch_topic(topic: str, body: dict[str, Any]) -> dict[str, Any]:
        return await broker.set_topic(topic, body)

    @api.add(
        "DELETE",
        "/v1/topics/{topic:name}",
        "Remove a topic that was made at run time, and tell its account",
        "TopicRemoved",
        (404, 409, 422),
        topic=TOPIC_NAME,
        drain=DRAIN,
        patience_s=DRAIN_SECONDS,
    )
    async def delete_topic(topic: str, drain: bool, patience_s: float) -> dict[str, Any]:
        done = await broker.remove_topic(topic, drain=drain, patience=patience_s)
        return {
            "removed": done.topic.name,
            "id": done.topic.id,
            "members": done.members,
            "ticketed": done.ticketed,
            "delivered": done.confirmed,
            "confirmed": done.ticketed == done.confirmed,
            "account": done.account,
        }
