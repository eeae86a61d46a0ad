"""What every API answers, as types for its OpenAPI document; nothing of it is needed to serve."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    """The event loop turns."""

    health: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether the daemon does all that it is there for."""

    ready: bool


class Problem(BaseModel):
    """An error (RFC 9457). ``detail`` says what happened and what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    problems: list[str] = Field(default_factory=list, description="every fault, where there are several")
