"""What a caller is told of a function that failed: a status and a problem, by what came in place of a reply.

An invoker answers a request that failed with a map of msgpack: ``condition``, ``reason``, ``id``,
``workflow``, ``step``, ``function``; these become members of the problem, and the condition the status.
Anything else is the text of whoever answered, and a 502. Foreign bytes: nothing here raises for them.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import Response

from tempos import ReplyError, WireError
from tempos.errors import one_line
from tempos_daemon.problems import MEDIA_TYPE, problem

_MEMBERS = ("condition", "reason", "id", "workflow", "step", "function")
#: The caller's body (422), time (504), too much at once or nobody there (503); else it is the function.
_STATUS = {
    "refused": 422,
    "timeout": 504,
    "queue_full": 503,
    "too_old": 503,
    "no_worker": 503,
    "stopped": 503,
}
RETRY = {"Retry-After": "1"}


def failed(error: ReplyError) -> Response:
    """The answer to the caller."""
    told = _told(error)
    if told is None:
        return problem(502, one_line(str(error)))
    condition = told["condition"]
    status = _STATUS.get(condition, 502)
    who = f"the function {told['function']}" if told.get("function") else "the function"
    said = f"{who} failed: {condition}"
    if told.get("reason"):
        said += f": {told['reason']}"
    answer = problem(status, said, (), RETRY if status == 503 else None)
    document = {**json.loads(bytes(answer.body)), **told}
    return Response(json.dumps(document), status, RETRY if status == 503 else None, MEDIA_TYPE)


def _told(error: ReplyError) -> dict[str, str] | None:
    """What an invoker says; None if this is none."""
    try:
        found: Any = error.unpack()
    except WireError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("condition"), str):
        return None
    values = {name: found[name] for name in _MEMBERS if found.get(name) is not None}
    return {
        name: one_line(value.hex() if isinstance(value, bytes) else str(value))
        for name, value in values.items()
    }
