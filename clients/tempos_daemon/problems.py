"""Errors of an HTTP API as documents (RFC 9457): what happened, and what to do."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class _Answer(JSONResponse):
    """What is told of a text that UTF-8 does not have is told escaped."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")


def document(status: int, detail: str, problems: Sequence[str] = ()) -> dict[str, Any]:
    """The problem itself."""
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "problems": list(problems),
    }


def problem(
    status: int, detail: str, problems: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer that says so."""
    return _Answer(document(status, detail, problems), status, headers)


def described(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document of an operation: the problems with these codes, and those of the door."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        code: {"description": http.HTTPStatus(code).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for code in (400, 401, 403, 413, *codes)
    }
