"""What everybody who asks the broker's control API knows of it: where it is, and what its refusals say."""

from __future__ import annotations

import json

from tempos._abi import API_PORT
from tempos.errors import ApiRefused

DEFAULT = f"http://127.0.0.1:{API_PORT}"


def refusal(url: str, status: int, reason: str, body: bytes) -> ApiRefused:
    """An error answer: the words of a problem document (RFC 9457) where it is one."""
    try:
        document = json.loads(body)
        detail, problems = document["detail"], document.get("problems", ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        detail, problems = None, ()
    if not isinstance(detail, str):
        return ApiRefused(status, f"{url} answers {status} {reason}")
    return ApiRefused(status, detail, [each for each in problems if isinstance(each, str)])
