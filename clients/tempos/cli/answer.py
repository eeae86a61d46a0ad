"""Prints what the control API answers: as JSON, or in words for people."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from tempos.errors import RemoteError


@contextlib.contextmanager
def understood(where: str) -> Iterator[None]:
    """Around whatever reads an answer: raises :class:`RemoteError` where it is not as this version has it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RemoteError(f"the answer of {where} is not of this version: {error!r}") from error


def show_answer(options: argparse.Namespace, answer: Any, show: Callable[[Any], str]) -> None:
    """Print it; raises :class:`RemoteError` where ``show`` does not understand it."""
    if getattr(options, "json", False):
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    with understood(options.api):
        text = show(answer)
    print(text)
