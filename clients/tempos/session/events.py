"""What a session tells its owner: answers to what was asked, and what became of the broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tempos._rows import is_topic
from tempos.errors import ControlRefused, NoAnswer, WireError
from tempos.model import Framing, Quality, Topic


@dataclass(frozen=True, slots=True)
class Answered:
    """A request was answered: ``fields`` of the reply, as in the table ``control.OPERATIONS``."""

    request: int
    op: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request was refused, or never answered."""

    request: int
    op: str
    error: ControlRefused | NoAnswer


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The endpoint is a member. ``renewed``: again, because the broker did not have it any more."""

    request: int
    topic: Topic
    group: str
    epoch: int
    renewed: bool
    #: The broker's clock when it said so; None where it does not tell.
    clock: int | None = None


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A broker that does not have this member any more does not take it back; it will be asked again."""

    topic: str
    error: ControlRefused | NoAnswer


@dataclass(frozen=True, slots=True)
class BrokerChanged:
    """Another instance of the broker answers now."""

    instance: int | str


@dataclass(frozen=True, slots=True)
class BrokerSilent:
    """No heartbeat was answered for ``seconds``, longer than the lease."""

    seconds: float


@dataclass(frozen=True, slots=True)
class BrokerBack:
    """A silent broker answers again, after ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The broker does not have this member in these topics any more; it is being subscribed again.

    ``topics``: name -> why, in the broker's words or as :class:`control.Out`; "" where it does not say.
    """

    topics: Mapping[str, str]


SessionEvent = (
    Answered | Failed | Subscribed | RenewalFailed | BrokerChanged | BrokerSilent | BrokerBack | Forgotten
)


def topic_of(fields: Mapping[str, Any]) -> Topic:
    """The topic an answer tells; raises :class:`WireError` if there is none that can be used."""
    told: Any = fields.get("topic")
    try:
        topic = Topic(
            id=told["id"],
            name=told["name"],
            quality=Quality(told["class"]),
            priority=told["priority"],
            framing=Framing(told["framing"]),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise WireError(f"an answer without a usable topic: {error!r}") from error
    if type(topic.id) is not int or not is_topic(topic.id):
        raise WireError("an answer with a topic id that no topic can have")
    if not isinstance(topic.name, str) or type(topic.priority) is not int:
        raise WireError("an answer without a usable topic")
    return topic


def seconds_of(fields: Mapping[str, Any], name: str) -> float:
    """Milliseconds of an answer as seconds; raises :class:`WireError` if they cannot be used."""
    value = fields.get(name)
    if type(value) is not int or value <= 0:
        raise WireError(f"an answer without a usable {name}")
    return value / 1000


def whys_of(fields: Mapping[str, Any]) -> dict[int, str]:
    """Why a member is out of topics, by their ids, as far as an answer says it."""
    told = fields.get("out")
    return {
        row[0]: row[1]
        for row in (told if isinstance(told, list) else ())
        if isinstance(row, list) and len(row) == 2 and type(row[0]) is int and isinstance(row[1], str)
    }
