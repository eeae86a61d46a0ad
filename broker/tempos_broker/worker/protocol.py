"""What broker and worker say to each other: requests down, one answer each up, over one stream.

Descriptors of journals come by a socket of their own (:mod:`.descriptors`), before what names them.
Frames are a length of 4 bytes, network byte order, and a msgpack map. Requests are carried out in order, and
the answer comes once what was asked holds. Both ends are of one version and one start, so a frame that makes
no sense is a fault of this program: it raises :class:`LocalError`, and the worker is replaced.

=============  ==========================================================  ==========================
request        brings                                                      answered when
=============  ==========================================================  ==========================
``set_up``     :class:`SetUp`                                              ready to serve
``serve``                                                                  it reads the sockets
``change``     drop: ids of topics; topics, rows and journals of these     it goes by them
``swap``       route                                                       it has let go of the old one
``leave_out``  towards: addresses of members, and of ours                  it sends nothing there
``ping``                                                                   at once
``close``                                                                  nothing waits any more
=============  ==========================================================  ==========================
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import msgpack

from tempos import (
    Framing,
    Group,
    GroupOptions,
    LocalError,
    Member,
    Overflow,
    PathPolicy,
    Pick,
    Quality,
    Route,
    Topic,
)
from tempos._slots import JournalLayout
from tempos_broker.addresses import Towards
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.shared import Share

_LENGTH = struct.Struct("!I")
#: Bytes of a frame; every route of every topic with all the members there can be is a quarter of it.
LARGEST = 64 << 20

_ENUMS: Mapping[str, type[enum.Enum]] = {
    "quality": Quality,
    "framing": Framing,
    "policy": PathPolicy,
    "overflow": Overflow,
    "pick": Pick,
}


class Op(str, enum.Enum):
    """What may be asked of a worker."""

    SET_UP = "set_up"
    SERVE = "serve"
    CHANGE = "change"
    SWAP = "swap"
    LEAVE_OUT = "leave_out"
    PING = "ping"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Request:
    """``id`` comes back in the answer; ``fields`` as the table above says."""

    id: int
    op: Op
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """``error``: what kept it from being done; empty: it is done. ``fields``: what the worker tells."""

    id: int
    error: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetUp:
    """What a worker needs. ``sockets``: descriptors of the strict and the best-effort one, by listen address.

    ``estate``: of the memory it leaves its account in. ``share``: of what it draws and takes from; ``rows``:
    where each topic stands in all of that.
    ``returns``: the key of return addresses, and the port that replies come to. ``left_out``: where members
    are that nothing is sent to. ``journals``: of which topics there are some; their descriptors come apart.
    """

    adapter: str
    sockets: tuple[tuple[int, int], ...]
    estate: int
    share: Share
    quality: QualityConfig
    limits: Limits
    topics: tuple[Topic, ...]
    rows: Mapping[int, int]
    routes: tuple[Route, ...]
    returns: tuple[bytes, int] | None = None
    left_out: tuple[Towards, ...] = ()
    journals: Mapping[int, JournalLayout | None] = field(default_factory=dict)

    def to_fields(self) -> dict[str, Any]:
        return {
            "adapter": self.adapter,
            "sockets": self.sockets,
            "estate": self.estate,
            "share": asdict(self.share),
            "quality": asdict(self.quality),
            "limits": asdict(self.limits),
            "topics": topics_out(self.topics),
            "rows": rows_out(self.rows),
            "routes": [route_out(route) for route in self.routes],
            "returns": self.returns,
            "left_out": self.left_out,
            "journals": journals_out(self.journals),
        }

    @classmethod
    def of_fields(cls, told: Mapping[str, Any]) -> SetUp:
        return cls(
            told["adapter"],
            tuple((strict, best_effort) for strict, best_effort in told["sockets"]),
            told["estate"],
            Share(**told["share"]),
            QualityConfig(**{key: _tuple(value) for key, value in told["quality"].items()}),
            Limits(**told["limits"]),
            topics_in(told["topics"]),
            rows_in(told["rows"]),
            tuple(route_in(route) for route in told["routes"]),
            _tuple(told["returns"]),
            tuple((ip, source) for ip, source in told["left_out"]),
            journals_in(told["journals"]),
        )


def encode(message: Request | Answer) -> bytes:
    """As a frame."""
    packed: bytes = msgpack.packb({each.name: getattr(message, each.name) for each in fields(message)})
    return _LENGTH.pack(len(packed)) + packed


class Frames:
    """Puts a stream back together."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """Every message that is complete with these bytes; raises :class:`LocalError` for what is none."""
        self._waiting += data
        while len(self._waiting) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._waiting)
            if size > LARGEST:
                raise LocalError(f"a frame of {size} bytes between broker and worker; at most {LARGEST}")
            end = _LENGTH.size + size
            if len(self._waiting) < end:
                return
            body = bytes(self._waiting[_LENGTH.size : end])
            del self._waiting[:end]
            try:
                message = msgpack.unpackb(body)
            except ValueError as error:
                raise LocalError(f"a frame between broker and worker is no msgpack: {error}") from error
            if not isinstance(message, dict) or not isinstance(message.get("id"), int):
                raise LocalError(
                    f"a frame between broker and worker is neither request nor answer: {message!r}"
                )
            yield message


def request_in(message: Mapping[str, Any]) -> Request:
    """Raises :class:`LocalError` for an unknown operation."""
    try:
        return Request(message["id"], Op(message.get("op")), message.get("fields", {}))
    except ValueError as error:
        raise LocalError(f"the worker was asked what it does not know: {error}") from error


def answer_in(message: Mapping[str, Any]) -> Answer:
    """A message as the answer that it is."""
    return Answer(message["id"], message.get("error", ""), message.get("fields", {}))


def topics_out(topics: Sequence[Topic]) -> list[dict[str, Any]]:
    """Every field of every topic, whatever fields there are."""
    return [{each.name: getattr(topic, each.name) for each in fields(topic)} for topic in topics]


def topics_in(told: Sequence[Mapping[str, Any]]) -> tuple[Topic, ...]:
    """What :func:`topics_out` gave."""
    return tuple(_topic(each) for each in told)


def rows_out(rows: Mapping[int, int]) -> list[tuple[int, int]]:
    """The row of each topic."""
    return list(rows.items())


def rows_in(told: Sequence[tuple[int, int]]) -> dict[int, int]:
    """What :func:`rows_out` gave."""
    return dict(told)


def journals_out(
    journals: Mapping[int, JournalLayout | None],
) -> list[tuple[int, tuple[int, int, int] | None]]:
    """By topic, how large its journal is; None: it has none any more."""
    return [(topic, _sizes(layout)) for topic, layout in journals.items()]


def journals_in(told: Sequence[tuple[int, Sequence[int] | None]]) -> dict[int, JournalLayout | None]:
    """What :func:`journals_out` gave."""
    return {topic: JournalLayout(*sizes) if sizes else None for topic, sizes in told}


def _sizes(layout: JournalLayout | None) -> tuple[int, int, int] | None:
    return None if layout is None else (layout.slots, layout.cells, layout.bytes)


def route_out(route: Route) -> dict[str, Any]:
    """A route as msgpack takes it."""
    groups = [[g.name, [[m.ip, m.port, m.mac, m.source, m.weight] for m in g.members]] for g in route.groups]
    return {"topic": topics_out([route.topic])[0], "epoch": route.epoch, "groups": groups}


def route_in(told: Mapping[str, Any]) -> Route:
    """What :func:`route_out` gave."""
    groups = tuple(Group(name, tuple(Member(*each) for each in members)) for name, members in told["groups"])
    return Route(_topic(told["topic"]), told["epoch"], groups)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _topic(told: Mapping[str, Any]) -> Topic:
    values: dict[str, Any] = {key: _tuple(value) for key, value in told.items()}
    for name, kind in _ENUMS.items():
        values[name] = kind(values[name])
    values["groups"] = tuple(
        GroupOptions(**{key: _tuple(value) for key, value in each.items()}) for each in values["groups"]
    )
    return Topic(**values)
