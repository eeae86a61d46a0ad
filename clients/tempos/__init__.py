"""tempos: publish and subscribe through a broker whose common case runs inside the Linux kernel."""

from __future__ import annotations

from tempos._abi import API_PORT, CONTROL_PORT, DATA_PORT, REASON_TEXTS, Reason
from tempos.errors import (
    BodyError,
    ConfigError,
    ControlRefused,
    EventTooBig,
    LocalError,
    NoAnswer,
    RemoteError,
    TemposError,
    Unavailable,
    WireError,
)
from tempos.model import (
    FastPathStatus,
    Framing,
    Group,
    InterfaceStatus,
    Member,
    Path,
    PathChoice,
    PathPolicy,
    Quality,
    Route,
    Topic,
)

__version__ = "0.1.0"

__all__ = [
    "API_PORT",
    "CONTROL_PORT",
    "DATA_PORT",
    "REASON_TEXTS",
    "BodyError",
    "ConfigError",
    "ControlRefused",
    "EventTooBig",
    "FastPathStatus",
    "Framing",
    "Group",
    "InterfaceStatus",
    "LocalError",
    "Member",
    "NoAnswer",
    "Path",
    "PathChoice",
    "PathPolicy",
    "Quality",
    "Reason",
    "RemoteError",
    "Route",
    "TemposError",
    "Topic",
    "Unavailable",
    "WireError",
    "__version__",
]
