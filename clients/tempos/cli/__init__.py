"""The command ``tempos``."""

from __future__ import annotations

from tempos.cli.main import main

__all__ = ["main"]
