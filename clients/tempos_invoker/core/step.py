"""A step of a workflow, as the core needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

from tempos import Quality


@dataclass(frozen=True, slots=True)
class Step:
    """Events of a topic become invocations of a function, whose result is an event again.

    ``topic``: a name or a filter; ``group``: the one that this is a member of; ``result`` and ``error``:
    topics or "". ``queue``: events that may wait; ``retries`` after a failure, the first one ``backoff``
    seconds later; ``max_age`` in seconds, 0 for any. ``reply``: who waits for an answer gets the output;
    where not, the next step's.
    """

    workflow: str
    name: str
    function: str
    quality: Quality
    topic: str
    group: str
    result: str = ""
    error: str = ""
    queue: int = 1024
    retries: int = 0
    backoff: float = 0.1
    max_age: float = 0.0
    reply: bool = True

    @property
    def path(self) -> tuple[str, str]:
        """What tells it apart: its workflow and its name in it."""
        return self.workflow, self.name
