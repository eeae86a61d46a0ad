"""tempos: publish and subscribe through a broker whose common case runs inside the Linux kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tempos._abi import API_PORT, CONTROL_PORT, DATA_PORT, REASON_TEXTS, Reason
from tempos.errors import (
    ApiRefused,
    BodyError,
    ConfigError,
    ControlRefused,
    EventTooBig,
    LocalError,
    NoAnswer,
    NoMember,
    NoReply,
    NoWay,
    RemoteError,
    TemposError,
    Unavailable,
    Unconfirmed,
    WireError,
)
from tempos.model import (
    Fanout,
    FastPathStatus,
    Framing,
    Group,
    GroupOptions,
    InterfaceStatus,
    Member,
    Overflow,
    Path,
    PathChoice,
    PathPolicy,
    Pick,
    Prefer,
    Quality,
    Route,
    Topic,
    Unheard,
)

if TYPE_CHECKING:
    from tempos.admin import Admin, TopicInfo, TopicRemoved
    from tempos.auth import Key
    from tempos.encryption import TopicKeys
    from tempos.publisher import Publisher, PublisherStats, Reply, ReplyError, RequestStats
    from tempos.requests.tracing import Report, Trace
    from tempos.subscriber import Drained, Event, PublisherAccount, Request, Subscriber, SubscriberStats

__version__ = "0.2.0"

# These bring asyncio with them, which those who only want the words need not wait for.
_LATE = {
    "Admin": "tempos.admin",
    "Drained": "tempos.subscriber",
    "Event": "tempos.subscriber",
    "Key": "tempos.auth",
    "TopicKeys": "tempos.encryption",
    "Publisher": "tempos.publisher",
    "PublisherAccount": "tempos.subscriber",
    "PublisherStats": "tempos.publisher",
    "Reply": "tempos.publisher",
    "ReplyError": "tempos.publisher",
    "Report": "tempos.requests.tracing",
    "Request": "tempos.subscriber",
    "RequestStats": "tempos.publisher",
    "Subscriber": "tempos.subscriber",
    "SubscriberStats": "tempos.subscriber",
    "TopicInfo": "tempos.admin",
    "TopicRemoved": "tempos.admin",
    "Trace": "tempos.requests.tracing",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


__all__ = [
    "API_PORT",
    "CONTROL_PORT",
    "DATA_PORT",
    "REASON_TEXTS",
    "Admin",
    "ApiRefused",
    "BodyError",
    "ConfigError",
    "ControlRefused",
    "Drained",
    "Event",
    "EventTooBig",
    "Fanout",
    "FastPathStatus",
    "Framing",
    "Group",
    "GroupOptions",
    "InterfaceStatus",
    "Key",
    "LocalError",
    "Member",
    "NoAnswer",
    "NoMember",
    "NoReply",
    "Unconfirmed",
    "NoWay",
    "Overflow",
    "Path",
    "PathChoice",
    "PathPolicy",
    "Pick",
    "Prefer",
    "Publisher",
    "PublisherAccount",
    "PublisherStats",
    "Quality",
    "Reason",
    "RemoteError",
    "Reply",
    "ReplyError",
    "Report",
    "Request",
    "RequestStats",
    "Route",
    "Subscriber",
    "SubscriberStats",
    "TemposError",
    "Topic",
    "TopicInfo",
    "TopicKeys",
    "TopicRemoved",
    "Trace",
    "Unavailable",
    "Unheard",
    "WireError",
    "__version__",
]
