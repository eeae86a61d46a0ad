"""Why a worker cannot do what it was started for."""

from __future__ import annotations


class Unfit(Exception):
    """A function cannot be had here. The text says what is wrong and what is needed."""
