"""The kinds of endpoints that are installed, by name; each is loaded when it is first asked for."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from tempos import ConfigError
from tempos.errors import one_line
from tempos_trigger.kind import GROUP, Kind

#: The extra that brings what a kind of our own needs.
EXTRAS = {
    "mqtt": "trigger-mqtt",
    "nats": "trigger-nats",
    "timer": "trigger-timer",
    "file": "trigger-file",
    "opcua": "trigger-opcua",
    "modbus": "trigger-modbus",
}
_MEMBERS = ("keys", "check", "claims", "make")


@functools.cache
def _points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """The kinds there are."""
    return sorted(_points())


@functools.cache
def kind(name: str) -> Kind:
    """The kind of this name; raises :class:`tempos.ConfigError` if it cannot be loaded, and says why."""
    try:
        made: Any = _points()[name].load()()
    except ModuleNotFoundError as error:
        hint = f": pip install 'tempos[{EXTRAS[name]}]'" if name in EXTRAS else ""
        raise ConfigError([f"which needs {error.name}, and that is not installed{hint}"]) from error
    except Exception as error:
        raise ConfigError([f"which cannot be loaded: {one_line(error)}"]) from error
    if missing := [member for member in _MEMBERS if not hasattr(made, member)]:
        raise ConfigError([f"which is no kind of trigger: it lacks {', '.join(missing)}"])
    loaded: Kind = made
    return loaded
