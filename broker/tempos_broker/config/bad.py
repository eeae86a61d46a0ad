"""What orders raise whose document is not as it must be."""

from __future__ import annotations

from tempos import ConfigError


class BadDocument(ConfigError):
    """``what`` an order told of is not as it must be. ``problems`` holds every fault found."""

    what = "document"
