"""What stands in the memory of a program's parts, counted in objects: bytes depend on who else was there."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import types
from collections.abc import Iterable
from typing import Any

#: What belongs to everybody, and whose referents are everything.
_EVERYBODYS = (
    type, types.ModuleType, types.FunctionType, types.FrameType, types.CoroutineType, logging.Logger,
    asyncio.AbstractEventLoop, asyncio.Future, asyncio.Handle, socket.socket,
)  # fmt: skip


def entries(*parts: object, apart: Iterable[type] = ()) -> int:
    """All that is in the lists, sets and maps behind these parts; what is of the types ``apart`` is not."""
    left_out = (*_EVERYBODYS, *apart)
    seen: set[int] = set()
    waiting: list[Any] = list(parts)
    found = 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, left_out):
            continue
        seen.add(id(each))
        if isinstance(each, (dict, list, set, frozenset, tuple)):
            found += len(each)
        waiting += gc.get_referents(each)
    return found
