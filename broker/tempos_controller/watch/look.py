"""What the parts of a platform say just now; one that does not answer holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tempos_controller.force.engine import Engine
from tempos_controller.parts.http import Away, Refused

#: Seconds that a look waits for answers; without one after which a part is away; between two looks at paths.
PATIENCE, SILENT, PATHS_EVERY = 0.5, 2.5, 3.0


@dataclass(slots=True)
class _Known:
    """What a part said last, and why it says nothing now, if so."""

    answer: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    question: asyncio.Task[Any] | None = None
    asked: float = 0.0


class Looking:
    """Remembers what each part said last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, _Known] = {}
        self._paths_at = 0.0
        #: By topic, which path and why; as of a few seconds ago.
        self.paths: dict[str, tuple[str | None, str]] = {}

    async def look(self, *, paths: bool) -> None:
        """Ask all; whose answer comes later is known at the next look. ``paths``: of topics, too."""
        fleet = self._engine.fleet
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            each.remote.what: each.status for each in (*fleet.invokers.values(), *fleet.triggers.values())
        }
        if fleet.broker is not None:
            remote = fleet.broker.remote
            of_paths = paths and time.monotonic() - self._paths_at >= PATHS_EVERY
            path = "/v1/paths" if of_paths else "/v1/health"
            asked[remote.what] = lambda: remote.ask("GET", path)
        for what in self._known.keys() - asked.keys():
            self._forget(what)
        for what, question in asked.items():
            known = self._known.setdefault(what, _Known())
            if known.question is None:
                known.question, known.asked = asyncio.ensure_future(question()), time.monotonic()
        waited = {what: known.question for what, known in self._known.items() if known.question is not None}
        if waited:
            await asyncio.wait(waited.values(), timeout=PATIENCE)
        for what, task in waited.items():
            self._take(what, task)

    def _take(self, what: str, task: asyncio.Task[Any]) -> None:
        known = self._known[what]
        if not task.done():
            if time.monotonic() - known.asked >= SILENT:
                known.why = known.why or f"no answer within {SILENT} s"
            return
        known.question, known.why = None, ""
        try:
            answer = task.result()
        except Away as error:
            known.why = error.why
        except Refused as error:
            known.why = error.detail
        else:
            if isinstance(answer, list):
                self._paths_at = time.monotonic()
                self.paths = {each["topic"]: (each["path"], each["reason"]) for each in answer}
            elif isinstance(answer, dict):
                known.answer = answer

    def _forget(self, what: str) -> None:
        known = self._known.pop(what)
        if known.question is not None:
            known.question.cancel()

    def why_away(self, what: str) -> str:
        """Why a part says nothing now; "" if it does, or was not asked yet."""
        known = self._known.get(what)
        return known.why if known else ""

    def said(self, what: str) -> dict[str, Any]:
        """What it said last."""
        known = self._known.get(what)
        return known.answer if known else {}

    async def close(self) -> None:
        """Wait for nothing any more."""
        tasks = [known.question for known in self._known.values() if known.question is not None]
        for what in list(self._known):
            self._forget(what)
        await asyncio.gather(*tasks, return_exceptions=True)
