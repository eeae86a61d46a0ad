"""Reads a configuration file: either format, one error type, all faults at once.

Rules kept here: whatever a file holds, only :class:`tempos.ConfigError` comes out; nothing of the
machine is looked at, so a file is judged alike on every machine. Needs nothing beyond the standard
library (on Python 3.10: tomli).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from tempos import ConfigError
from tempos_broker.config import layout, thesis
from tempos_broker.config.completing import completed
from tempos_broker.config.model import BrokerConfig
from tempos_daemon import toml
from tempos_daemon.schema import Faults, read_table


class Format(Enum):
    """Which of the two formats a text is in."""

    OWN = "own"
    THESIS = "thesis"


def load(path: str | os.PathLike[str], read: Callable[[Path], bytes] | None = None) -> BrokerConfig:
    """Read and check a file of either format; raises :class:`tempos.ConfigError` with every fault.

    ``read``: what gives its bytes; None: opening it does.
    """
    return parse(toml.read_text(path, read), os.fspath(path))


def parse(text: str, name: str = "configuration") -> BrokerConfig:
    """Check the text of a file; ``name`` stands for the file in the faults.

    Raises :class:`tempos.ConfigError` with every fault, :class:`tempos.Unavailable` where Python is
    too old to read TOML by itself and tomli is not installed.
    """
    document = toml.document(text, name, shared=True)
    faults = Faults(name)
    if _format(document, name) is Format.THESIS:
        config = layout.finish(thesis.read(document, faults), faults)
    else:
        whole = completed(document)
        config = layout.finish(read_table(whole, "", layout.FILE, faults, shared=True), faults)
        if config is None:
            # Again, for now it matters where each thing stands.
            faults = Faults(name)
            config = layout.finish(read_table(whole, "", layout.FILE, faults), faults)
    if config is None:
        raise ConfigError(faults.problems)
    return config


def format_of(text: str, name: str = "configuration") -> Format:
    """Which format a text is in; raises as :func:`parse` where it is no TOML or a mixture."""
    return _format(toml.document(text, name), name)


def _format(document: dict[str, Any], name: str) -> Format:
    ours, theirs = thesis.marks(document)
    if ours and theirs:
        raise ConfigError(
            [
                f"{name}: mixes two formats: {ours} is of the thesis's, {theirs} of the broker's own; "
                "allowed: one of them (`tempos config import` turns the first into the second)"
            ]
        )
    return Format.THESIS if ours else Format.OWN
