"""The compiled helpers of this package (bench/native); each has one façade, which alone talks to it."""

from __future__ import annotations

import importlib
import os
from typing import Any

from tempos import Unavailable


def helper(name: str) -> tuple[Any, Any]:
    """The ``ffi`` and ``lib`` of a helper; raises :class:`Unavailable` saying how to get it."""
    try:
        module = importlib.import_module(f"tempos_bench._{name}")
    except ImportError as error:
        raise Unavailable(
            f"the {name} helper is not compiled: install gcc and python3-dev, then tempos[bench] anew"
        ) from error
    return module.ffi, module.lib


def check(code: int) -> None:
    """Raise :class:`OSError` for what a helper's function returned if it is a negative errno."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
