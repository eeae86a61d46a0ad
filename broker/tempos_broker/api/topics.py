"""Topics made, changed and removed through the control API; what they may be, the file's own tables say.

A body is an object with the keys of a ``[[topic]]`` of the file, judged by the same tables and rules; the
OpenAPI document is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from tempos.names import MAX_BYTES
from tempos_broker.api import models
from tempos_broker.api.names import in_address
from tempos_broker.api.stream import listed
from tempos_broker.config.model import Origin
from tempos_broker.config.topics import TOPIC, BadTopic
from tempos_broker.documents import Documents
from tempos_broker.topics.orders import Removed
from tempos_daemon.problems import described, problem
from tempos_daemon.schema import json_schema

TopicName = Annotated[str, Path(description="name of the topic", min_length=1, max_length=MAX_BYTES)]


class TopicCommands(Protocol):
    """What this part of the API does to a broker; :class:`Refused` and :class:`BadTopic` say why not."""

    @property
    def documents(self) -> Documents: ...

    async def add_topic(self, document: Mapping[str, Any]) -> dict[str, Any]: ...

    async def set_topic(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...

    async def remove_topic(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed: ...


def add_topic_orders(app: FastAPI, broker: TopicCommands) -> None:
    """Add the operations."""
    app.add_exception_handler(BadTopic, _on_bad_topic)

    @app.get(
        "/v1/options",
        summary="The options of every topic, as they stand in a configuration file",
        response_model=list[models.OptionsOut],
        responses=described(422),
    )
    async def get_all_options(
        origin: Annotated[Origin | None, Query(description="only of those that this made")] = None,
    ) -> Response:
        return listed(broker.documents.options(origin))

    @app.get(
        "/v1/topics/{topic:name}/options",
        summary="The options of a topic, as they stand in a configuration file",
        responses=described(404, 422),
    )
    async def get_options(topic: TopicName) -> models.OptionsOut:
        return models.OptionsOut.model_validate(broker.documents.topic_options(topic))

    @app.post(
        "/v1/topics",
        summary="Make a topic: it is served when this is answered, and survives a broker that keeps state",
        status_code=201,
        responses=described(409, 422),
        openapi_extra=_body(json_schema(TOPIC, optional={"id"})),
    )
    async def post_topic(body: Annotated[dict[str, Any], Body()], response: Response) -> models.TopicOut:
        made = await broker.add_topic(body)
        response.headers["Location"] = f"/v1/topics/{in_address(made['name'])}"
        return models.TopicOut.model_validate(made)

    @app.patch(
        "/v1/topics/{topic:name}",
        summary="Change options of a topic that was made at run time; null: back to the default",
        responses=described(404, 409, 422),
        openapi_extra=_body(json_schema(TOPIC, optional=set(TOPIC))),
    )
    async def patch_topic(topic: TopicName, body: Annotated[dict[str, Any], Body()]) -> models.TopicOut:
        return models.TopicOut.model_validate(await broker.set_topic(topic, body))

    @app.delete(
        "/v1/topics/{topic:name}",
        summary="Remove a topic that was made at run time, and tell its account",
        responses=described(404, 409, 422),
    )
    async def delete_topic(
        topic: TopicName,
        drain: Annotated[
            bool, Query(description="also if it has members: they get what is on its way, and are told")
        ] = False,
        patience_s: Annotated[
            float, Query(ge=0, le=60, description="seconds that a drain waits for what they confirm")
        ] = models.DRAIN_PATIENCE,
    ) -> models.TopicRemoved:
        done = await broker.remove_topic(topic, drain=drain, patience=patience_s)
        return models.TopicRemoved(
            removed=done.topic.name,
            id=done.topic.id,
            members=done.members,
            ticketed=done.ticketed,
            delivered=done.confirmed,
            confirmed=done.ticketed == done.confirmed,
            account=models.LedgerTopic.model_validate(done.account),
        )


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _on_bad_topic(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadTopic)
    return problem(422, f"the topic is not as it must be: {'; '.join(error.problems)}", error.problems)
