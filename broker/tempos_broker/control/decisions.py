"""What a control datagram led to, as values: how its answer goes back, and what it will say.

What each request makes several of is a named tuple, which is made in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tempos import DATA_PORT, Topic
from tempos.control import Asked, Code, Request
from tempos_broker.account.accounts import Holder
from tempos_broker.control.auth import Admitted, Caller
from tempos_broker.members.known import Lease
from tempos_broker.membership import Refused


class Way(NamedTuple):
    """How an answer goes back: to which request, of whom, in how many bytes before it is signed.

    ``asked``: the address of ours that the request was sent to; None: that is not known. ``op``: what for.
    """

    admitted: Admitted
    request_id: int
    room: int
    asked: str | None = None
    op: str = ""

    @property
    def caller(self) -> Caller:
        return self.admitted.caller


@dataclass(frozen=True, slots=True)
class Done:
    """An answer that says yes, and these fields; ``member``: to one that is a member."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    member: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """An answer to a member, with the epoch in force when it is rendered."""

    topic: Topic
    group: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An answer to who asked for many topics, or by filters: what it is a member of by now, since a version.

    ``failed``: what of it cannot be, by its place in the request.
    """

    holder: Holder
    group: str
    since: tuple[int, ...]
    failed: tuple[tuple[int, str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Renewed:
    """An answer to a member that goes on: what is in force when it is rendered, of topics that it is in.

    ``since``: it is told what is new from this version on; None: of the topics that it ``asked`` about.
    ``out``: those of which it is no member any more, and why, where that is remembered. ``awaits``: it
    asks for nothing but what is new, and there is nothing that it has to know at once.
    """

    holder: Holder
    asked: tuple[Asked, ...]
    since: tuple[int, ...] | None = None
    out: tuple[tuple[int, str], ...] = ()
    awaits: bool = False


@dataclass(frozen=True, slots=True)
class Drained:
    """An answer to a member that leaves and ``told`` what it got; waits for the rest unless ``late``."""

    holder: Holder
    told: Mapping[str, Any]
    late: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says no, why, and what to do. ``proof``: what is to be repeated.

    ``data_port``: where it will come from that is to be repeated next.
    ``addressee``: what requests are to name.
    """

    code: str
    text: str
    hint: str
    proof: bytes = b""
    data_port: int = DATA_PORT
    addressee: int = 0


Answer = Done | Joined | Listed | Renewed | Drained | Refusal


@dataclass(frozen=True, slots=True)
class Proving:
    """A datagram to be sent from the data port of ``via`` (None: any of ours) to an endpoint, at once."""

    datagram: bytes
    endpoint: tuple[str, int]
    via: str | None


@dataclass(frozen=True, slots=True)
class Copies:
    """Events to be sent again from the data port of ``via`` (None: any of ours) to an endpoint."""

    datagrams: tuple[bytes, ...]
    endpoint: tuple[str, int]
    via: str | None


@dataclass(frozen=True, slots=True)
class Again:
    """What a heartbeat does however often it comes: renews the lease, and says how its program keeps up.

    ``load``: events that wait, of how many, and overruns; None: it does not say. ``complete``: it has told
    all that it has to tell.
    """

    holder: Holder
    lease: Lease
    load: tuple[int, int, int] | None
    complete: bool


class Decision(NamedTuple):
    """What a control datagram led to: swap the routes of the ``changed`` topics, then render the answer.

    ``joining``: topics that match a filter, to be joined some at a time. ``proving``: what is to be repeated
    before anything changes. ``copies``: what is sent before the answer. ``publisher``: who is told by the
    way of the answer what it is to send again. ``again``: what it does again and again, while nothing else
    happens.
    """

    way: Way
    answer: Answer
    changed: frozenset[int] = frozenset()
    joining: tuple[Topic, ...] = ()
    proving: Proving | None = None
    copies: Copies | None = None
    publisher: int | None = None
    again: Again | None = None


def holder_of(request: Request, way: Way) -> Holder:
    """Who asks: the endpoint that it names, and its client."""
    return Holder(way.caller.ip, request.fields["port"], request.client)


def removed(topic: Topic) -> Refusal:
    """For who waited to become a member while a reload took the topic away."""
    return Refusal(
        Code.UNKNOWN_TOPIC, f"topic {topic.name!r} was removed or became another one just now", "ask again"
    )


def too_short(size: int) -> Refused:
    """For who asked with so little that an answer of that size cannot be given."""
    text = f"the answer takes {size} bytes, more than the request"
    return Refused(Code.TOO_SHORT, text, "pad the request: 'pad', zero bytes")


def topic_fields(topic: Topic) -> dict[str, Any]:
    """A topic as control replies show it, and the control API besides other things."""
    return {
        "id": topic.id,
        "name": topic.name,
        "class": topic.quality.value,
        "priority": topic.priority,
        "framing": topic.framing.value,
    }


def limit_fields(topic: Topic) -> dict[str, Any]:
    """A topic's limit as the control API shows it; control replies, for which every byte counts, do not."""
    return {"rate": topic.rate, "burst": topic.bucket, "overflow": topic.overflow.value}
