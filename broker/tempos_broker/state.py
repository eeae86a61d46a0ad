"""What holds of a topic now: its route, the membership it was made of, the path that serves it."""

from __future__ import annotations

from dataclasses import dataclass

from tempos import PathChoice, PathPolicy, Route


@dataclass(slots=True)
class TopicState:
    """A topic's route in force, the version of its membership, and which path serves it.

    ``moved``: what a command said of the path; None: what the configuration says holds. ``moves``: how often
    it went from one path to the other. ``due``: see :class:`.account.pace.Pace`. ``rested``: when the
    next swap may be, monotonic seconds.
    """

    route: Route
    version: int = 0
    choice: PathChoice | None = None
    moved: PathPolicy | None = None
    moves: int = 0
    due: float = 0.0
    rested: float = 0.0

    @property
    def policy(self) -> PathPolicy:
        return self.moved or self.route.topic.policy

    def __str__(self) -> str:
        return f"{self.route.topic.name} ({self.route.topic.id})"
