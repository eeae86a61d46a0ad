"""The account of every endpoint, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tempos_daemon.metrics import Sample, counter, gauge, sample

if TYPE_CHECKING:
    from tempos_trigger.trigger import Trigger

_ENDPOINT = ("endpoint", "kind")
READY = gauge("tempos_trigger_ready", "1 if every endpoint takes in and publishes")
BROKER = gauge("tempos_trigger_broker_there", "1 if the broker takes events")
RETURNED = counter("tempos_trigger_returned_total", "events that came back, at least")
RECEIVED = counter("tempos_trigger_received_total", "signals that came", *_ENDPOINT)
PUBLISHED = counter("tempos_trigger_published_total", "signals that became events", *_ENDPOINT)
WAITING = gauge("tempos_trigger_waiting", "signals that wait for the broker or for an answer", *_ENDPOINT)
DRIFT = gauge("tempos_trigger_drift", "signals that the account does not explain; must be 0", *_ENDPOINT)
DROPPED = counter("tempos_trigger_dropped_total", "signals that became no event", *_ENDPOINT, "reason")
UP = gauge("tempos_trigger_up", "1 if the endpoint's source is there", *_ENDPOINT)
ANSWERS = counter("tempos_trigger_answers_total", "requests by what came of them", *_ENDPOINT, "became")
API_REFUSED = counter("tempos_trigger_api_refused_total", "API requests that were turned away", "reason")


def samples(trigger: Trigger) -> Iterator[Sample]:
    """All metrics of a trigger."""
    status = trigger.status()
    yield sample(READY, status["ready"])
    if status["broker"] is not None:
        yield sample(BROKER, status["broker"]["there"])
        yield sample(RETURNED, status["broker"]["returned"])
    for each in status["endpoints"]:
        labels = (each["name"], each["kind"])
        dropped = each["dropped"]
        yield sample(RECEIVED, each["received"], *labels)
        yield sample(PUBLISHED, each["published"], *labels)
        yield sample(WAITING, each["waiting"], *labels)
        open_ = each["received"] - each["published"] - each["waiting"] - sum(dropped.values())
        yield sample(DRIFT, abs(open_) or not each["balanced"], *labels)
        yield sample(UP, each["source"]["state"] == "up", *labels)
        for reason, count in dropped.items():
            yield sample(DROPPED, count, *labels, reason)
        answers = each.get("answers", {})
        if answers:
            yield sample(ANSWERS, answers["answered"], *labels, "answered")
            yield sample(ANSWERS, answers["timeouts"], *labels, "timeout")
        for reason, count in answers.get("failed", {}).items():
            yield sample(ANSWERS, count, *labels, reason)
    for reason, count in status["api_refused"].items():
        yield sample(API_REFUSED, count, reason)
