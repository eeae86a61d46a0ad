"""What a platform asks of its parts: topics of the broker, a document for each invoker and each trigger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos_controller.config.model import BrokerPlace, Function, Node, Platform, Step, Trigger, Workflow

#: Of a revision: enough of a hash that no two documents share it.
_DIGITS = 16

#: A step as the invoker's document has it; its name is (workflow, name).
StepDocument = Mapping[str, Any]
#: An endpoint as the trigger's document has it.
Endpoint = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Calls:
    """What one invoker does: its functions by name, and its steps by (workflow, name)."""

    broker: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: Mapping[tuple[str, str], StepDocument] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As the invoker takes it, with its revision."""
        body: dict[str, Any] = {
            "broker": dict(self.broker),
            "function": [dict(self.functions[name]) for name in sorted(self.functions)],
            "step": [dict(self.steps[key]) for key in sorted(self.steps)],
        }
        return {"revision": revision(body), **body}


@dataclass(frozen=True, slots=True)
class Signals:
    """What one trigger does: its endpoints by name."""

    broker: Mapping[str, Any] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As the trigger takes it, with its revision."""
        body: dict[str, Any] = {
            "broker": dict(self.broker),
            "endpoint": [dict(self.endpoints[name]) for name in sorted(self.endpoints)],
        }
        return {"revision": revision(body), **body}


@dataclass(frozen=True, slots=True)
class Parts:
    """What all parts do. Topics: name -> options as the broker's API takes them, those that matter."""

    topics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    invokers: Mapping[str, Calls] = field(default_factory=dict)
    triggers: Mapping[str, Signals] = field(default_factory=dict)


def revision(body: Mapping[str, Any]) -> str:
    """Equal documents have equal revisions, and no others."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def compile_platform(platform: Platform) -> Parts:
    """What the platform asks for. A function or trigger that no workflow names is nowhere in force."""
    functions = {each.name: each for each in platform.functions}
    triggers = {each.name: each for each in platform.triggers}
    return Parts(
        topics={topic.name: topic.options for topic in platform.topics},
        invokers={node.name: _calls(node, platform, functions) for node in platform.nodes if node.invoker[1]},
        triggers={
            node.name: _signals(node, platform, triggers) for node in platform.nodes if node.trigger[1]
        },
    )


def broker_of(place: BrokerPlace, node: Node) -> dict[str, Any]:
    """The broker as a deployment names it."""
    found: dict[str, Any] = {
        "address": node.broker or place.address,
        "control_port": place.control_port,
        "data_port": place.data_port,
    }
    if place.client:
        found |= {"client": place.client, "key": place.key.hex()}
    if place.keys_file:
        found["keys_file"] = place.keys_file
    return found


def _calls(node: Node, platform: Platform, functions: Mapping[str, Function]) -> Calls:
    steps = [step for each in platform.workflows for step in each.steps if node.name in step.nodes]
    return Calls(
        broker_of(platform.broker, node),
        {step.function: functions[step.function].options for step in steps},
        {(step.workflow, step.name): _step(step) for step in steps},
    )


def _step(step: Step) -> StepDocument:
    return {
        "workflow": step.workflow,
        "name": step.name,
        "function": step.function,
        "class": step.quality.value,
        "topic": step.topic,
        "group": step.group,
        "result": step.result,
        "error": step.error,
        "reply": step.reply,
        **step.limits,
    }


def _signals(node: Node, platform: Platform, triggers: Mapping[str, Trigger]) -> Signals:
    endpoints: dict[str, Endpoint] = {}
    for workflow in platform.workflows:
        for name in workflow.triggers:
            if triggers[name].node == node.name:
                endpoints[name] = _endpoint(triggers[name], workflow)
    return Signals(broker_of(platform.broker, node), endpoints)


def _endpoint(trigger: Trigger, workflow: Workflow) -> Endpoint:
    return {"name": trigger.name, "kind": trigger.kind, "topic": workflow.topic, **trigger.options}
