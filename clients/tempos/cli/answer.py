"""Prints what the control API answers: as JSON, or in words for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from tempos.errors import RemoteError


def show_answer(options: argparse.Namespace, answer: Any, show: Callable[[Any], str]) -> None:
    """Print it; raises :class:`RemoteError` where ``show`` does not understand it."""
    if getattr(options, "json", False):
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    try:
        print(show(answer))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RemoteError(f"the answer of {options.api} is not of this version: {error!r}") from error
