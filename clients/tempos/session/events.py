"""What a session tells its owner: answers to what was asked, and what became of the broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """The endpoint is a member of a topic. ``renewed``: again, because the broker did not have it any more.

    ``request``: the one that was answered by it, or 0. ``members``: of the group, in this epoch.
    """

    request: int
    topic: Topic
    group: str
    epoch: int
    renewed: bool
    #: The broker's clock when it said so; None where it does not tell.
    clock: int | None = None
    members: int = 0
    #: Whether what is missed of it can be had again, and whether what members leave behind goes to others.
    repaired: bool = False
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class InForce:
    """A topic that this is a member of, by its id, has another epoch."""

    topic: int
    epoch: int
    members: int
    repaired: bool = False
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """All that a request subscribes to and that there is now is in force; ``topics`` in all."""

    request: int
    topics: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was asked for again, names and filters, the broker has taken."""

    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything is told of what this was a member of when it was ``asked``.

    ``fleet``: the state of the broker's fleet, how many of its brokers have all that in force, and how many
    there are; None: it is in none.
    """

    asked: float
    fleet: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ProofAsked:
    """The broker wants to know whether this receives at its port: a proof is on its way there."""


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A broker that does not have this member any more does not take it back; it will be asked again.

    ``topic``: as it was subscribed to, by name or filter.
    """

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
    """The broker does not have this member in these topics; it will be a member again as soon as it can.

    ``topics``: name -> why, in the broker's words or as :class:`control.Out`; "" where it does not say.
    ``words``: the same in words, where there is more to say.
    """

    topics: Mapping[str, str]
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unheard:
    """The broker says that it has sent so many ``events`` here and heard of none that came; 0: of some."""

    events: int


SessionEvent = (
    Answered
    | Failed
    | Subscribed
    | InForce
    | Joined
    | Accepted
    | Listed
    | ProofAsked
    | RenewalFailed
    | BrokerChanged
    | BrokerSilent
    | BrokerBack
    | Forgotten
    | Unheard
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


def failures_of(fields: Mapping[str, Any], asked: int) -> dict[int, ControlRefused]:
    """What of so many names and filters was refused, by its place; raises :class:`WireError` for nonsense."""
    told = fields.get("failed", [])
    failures: dict[int, ControlRefused] = {}
    for row in told if isinstance(told, list) else (None,):
        if not isinstance(row, list) or len(row) not in (2, 4) or type(row[0]) is not int:
            raise WireError("subscribe: an answer whose failures are none")
        index, *words = row
        if not 0 <= index < asked or not all(isinstance(word, str) for word in words):
            raise WireError("subscribe: an answer with failures of nothing that was asked")
        code, text, hint = words if len(words) == 3 else (*words, "", "")
        failures[index] = ControlRefused(code, text or code, hint)
    return failures
