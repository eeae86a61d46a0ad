"""What a trigger is told to do, as values: which broker, and which endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos import _abi, names
from tempos.auth import Key
from tempos.encryption import TopicKeys


@dataclass(frozen=True, slots=True)
class BrokerAt:
    """The broker that events are published to; ``auth`` signs what is asked of it, ``keys`` encrypt."""

    address: str = "127.0.0.1"
    data_port: int = _abi.DATA_PORT
    control_port: int = _abi.CONTROL_PORT
    auth: Key | None = None
    keys: TopicKeys | None = None


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint. ``options``: the keys of its kind, checked; ``max_age`` in seconds."""

    name: str
    kind: str
    topic: str
    buffer: int
    max_age: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """All that a trigger does. ``document``: as it was given, to be given back."""

    revision: str
    broker: BrokerAt
    endpoints: tuple[EndpointSpec, ...]
    document: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def topics(self) -> set[str]:
        """Those that are known before any signal comes."""
        return {spec.topic for spec in self.endpoints if not names.is_filter(spec.topic)}
