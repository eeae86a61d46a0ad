"""Configuration of the broker: read and checked as a whole, then handed on as immutable values."""

from __future__ import annotations

from tempos_broker.config.dump import dump
from tempos_broker.config.load import load, parse
from tempos_broker.config.model import (
    BrokerConfig,
    ClientConfig,
    ControlConfig,
    FastPathConfig,
    FleetConfig,
    Limits,
    Origin,
    QualityConfig,
    StateConfig,
    StaticMember,
    TopicConfig,
)

__all__ = [
    "BrokerConfig",
    "ClientConfig",
    "ControlConfig",
    "FastPathConfig",
    "FleetConfig",
    "Limits",
    "Origin",
    "QualityConfig",
    "StateConfig",
    "StaticMember",
    "TopicConfig",
    "dump",
    "load",
    "parse",
]
