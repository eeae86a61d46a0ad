"""The account of every endpoint in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempos_trigger.trigger import Trigger

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(trigger: Trigger) -> str:
    """All metrics of a trigger."""
    return "".join(f"{line}\n" for line in _lines(trigger))


def _lines(trigger: Trigger) -> Iterator[str]:
    status = trigger.status()
    yield from _head("tempos_trigger_ready", "gauge", "1 if every endpoint takes in and publishes")
    yield f"tempos_trigger_ready {int(status['ready'])}"
    if status["broker"] is not None:
        yield from _head("tempos_trigger_broker_there", "gauge", "1 if the broker takes events")
        yield f"tempos_trigger_broker_there {int(status['broker']['there'])}"
        yield from _head("tempos_trigger_returned_total", "counter", "events that came back, at least")
        yield f"tempos_trigger_returned_total {status['broker']['returned']}"
    endpoints = status["endpoints"]
    for key, kind, means in (
        ("received", "counter", "signals that came"),
        ("published", "counter", "signals that became events"),
        ("waiting", "gauge", "signals that wait for the broker or for an answer"),
    ):
        name = f"tempos_trigger_{key}{'_total' if kind == 'counter' else ''}"
        yield from _head(name, kind, means)
        for each in endpoints:
            yield f"{name}{_labels(each)} {each[key]}"
    yield from _head("tempos_trigger_dropped_total", "counter", "signals that became no event, by reason")
    for each in endpoints:
        for reason, count in each["dropped"].items():
            yield f"tempos_trigger_dropped_total{_labels(each, reason=reason)} {count}"
    yield from _head("tempos_trigger_up", "gauge", "1 if the endpoint's source is there")
    for each in endpoints:
        yield f"tempos_trigger_up{_labels(each)} {int(each['source']['state'] == 'up')}"
    yield from _head("tempos_trigger_answers_total", "counter", "requests by what came of them")
    for each in endpoints:
        answers = each.get("answers", {})
        for key, count in [("answered", answers.get("answered")), ("timeout", answers.get("timeouts"))]:
            if count is not None:
                yield f"tempos_trigger_answers_total{_labels(each, became=key)} {count}"
        for key, count in answers.get("failed", {}).items():
            yield f"tempos_trigger_answers_total{_labels(each, became=key)} {count}"


def _head(name: str, kind: str, means: str) -> tuple[str, str]:
    return f"# HELP {name} {means}", f"# TYPE {name} {kind}"


def _labels(endpoint: dict[str, object], **more: str) -> str:
    labels = {"endpoint": str(endpoint["name"]), "kind": str(endpoint["kind"]), **more}
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
