"""Makes the values of a platform from its tables, once all are sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempos import Quality, names
from tempos_controller.config.drafts import StepDraft, WorkflowDraft, class_of_trigger, home
from tempos_controller.config.layout import LIMITS, QUALITY
from tempos_controller.config.model import (
    LOCAL,
    BrokerPlace,
    ControllerPlace,
    Function,
    Node,
    Platform,
    Step,
    Topic,
    Trigger,
    Workflow,
)
from tempos_controller.config.rules import tables
from tempos_daemon.kinds import ANY_ADDRESS
from tempos_daemon.schema import Table


def build(root: Table, workflows: list[WorkflowDraft], own: Mapping[str, Any]) -> Platform:
    """The platform; all of ``root`` is sound. ``own``: what the broker's own file says of its places."""
    nodes = tuple(_node(each) for each in tables(root, "node")) or (Node(LOCAL),)
    places = list(tables(root, "node"))
    return Platform(
        controller=_controller(root.get("controller")),
        broker=_broker(root.get("broker"), own),
        nodes=nodes,
        functions=tuple(_function(each) for each in tables(root, "function")),
        triggers=tuple(
            _trigger(each, home(places, class_of_trigger(each.get("name"), workflows)) or LOCAL)
            for each in tables(root, "trigger")
        ),
        workflows=tuple(_workflow(each, home(places, each.quality) or LOCAL) for each in workflows),
        topics=_topics(workflows),
    )


def _controller(table: Table) -> ControllerPlace:
    host, port = table.get("api")
    return ControllerPlace(
        table.get("name"), host, port, table.get("api_token"), table.get("api_token_file"), table.get("state")
    )


#: Keys of the file whose values have another name inside.
_FIELDS = {"api_token": "token", "api_token_file": "token_file"}


def _broker(table: Table, own: Mapping[str, Any]) -> BrokerPlace:
    given = {key: value for key, value in table.values.items() if value not in (None, "")}
    values = {**own, **given}
    if api := values.pop("api", None):
        values["api_host"], values["api_port"] = api
    fields = {_FIELDS.get(key, key): value for key, value in values.items()}
    listen = fields.get("listen", BrokerPlace().listen)
    fields.setdefault("address", "127.0.0.1" if ANY_ADDRESS in listen else listen[0])
    return BrokerPlace(running="address" in given, **fields)


def _node(table: Table) -> Node:
    return Node(
        table.get("name"), table.get("start"), table.get("invoker"), table.get("trigger"),
        table.get("invoker_token_file"), table.get("trigger_token_file"), table.get("broker") or "",
        table.get("class"), table.get("priority"),
    )  # fmt: skip


def _function(table: Table) -> Function:
    options = {key: _json(value) for key, value in table.values.items() if value is not None}
    return Function(table.get("name"), options)


def _trigger(table: Table, first: str) -> Trigger:
    return Trigger(table.get("name"), table.get("kind"), table.get("node") or first, table.values["options"])


def _workflow(draft: WorkflowDraft, first: str) -> Workflow:
    assert draft.name is not None, "sound"
    assert draft.topic is not None, "sound"
    quality = draft.quality or Quality.BQ
    steps = tuple(_step(each, draft.name, quality, first) for each in draft.steps)
    return Workflow(draft.name, quality, draft.topic, draft.table.get("trigger"), steps)


def _step(draft: StepDraft, workflow: str, quality: Quality, first: str) -> Step:
    table = draft.table
    assert draft.name is not None, "sound"
    assert draft.topic is not None, "sound"
    return Step(
        workflow, draft.name, table.get("function"), quality, draft.topic, draft.group or "",
        draft.result or "", draft.error or "", draft.nodes or (first,), draft.reply,
        {key: table.get(key) for key in LIMITS if table.get(key) is not None},
    )  # fmt: skip


def _topics(workflows: list[WorkflowDraft]) -> tuple[Topic, ...]:
    """Every topic that has a name, with what is said of it; errors are best effort where nobody says."""
    options: dict[str, dict[str, Any]] = {}
    by: dict[str, str] = {}
    for draft in workflows:
        quality = (draft.quality or Quality.BQ).value
        for name in sorted(draft.topics):
            options.setdefault(name, {})["class"] = quality
            by.setdefault(name, draft.table.path)
        if draft.topic and not names.is_filter(draft.topic):
            stated = {key: draft.table.get(key) for key in QUALITY if key != "class"}
            options[draft.topic].update(
                {key: _json(each) for key, each in stated.items() if each is not None}
            )
    for step in (step for draft in workflows for step in draft.steps):
        if step.error and step.error not in options:
            options[step.error] = {"class": Quality.BQ.value}
            by[step.error] = step.table.path
    return tuple(Topic(name, options[name], by[name]) for name in sorted(options))


def _json(value: Any) -> Any:
    return [_json(each) for each in value] if isinstance(value, tuple) else getattr(value, "value", value)
