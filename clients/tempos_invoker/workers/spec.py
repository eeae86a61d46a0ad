"""What a worker is told at its start: the keys that `tempos_invoker/worker/__main__.py` names."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tempos import Quality
from tempos_invoker.deploy.model import Function


def specification(
    function: Function, quality: Quality, index: int, scheduling: Mapping[str, Any], cache: str
) -> dict[str, Any]:
    """For the worker ``index`` of a team; ``scheduling``: what it is to ask the kernel for."""
    code = function.code
    warm = None if function.warm is None else base64.b64encode(function.warm.encode()).decode()
    return {
        "function": function.name,
        "class": quality.value,
        "index": index,
        "mode": function.mode,
        "code": code.path if code else "",
        "folder": code.folder if code else "",
        "entry": function.entry,
        "args": list(function.args),
        "env": dict(function.env),
        "cwd": function.cwd,
        "user": function.user,
        "timeout": function.timeout,
        "load": function.load,
        "memory": function.memory,
        "output": function.output,
        "ahead": function.ahead,
        "processes": function.processes,
        "grants": list(function.grants),
        "warm": warm,
        "version": function.version,
        "scheduling": dict(scheduling),
        "cache": cache,
    }
