"""Whose turn it is to take events in: strict ones at once, best-effort ones while no strict one waits.

What has come but was not taken in waits in its subscriber, bounded and counted. Whoever takes in all that
comes before anything else has no time left for answers: workers wait while queues overflow. Therefore few are
taken in at a time, no more than a worker is handed at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from tempos import Quality
from tempos_invoker.workers.team import Team

#: Events that a source takes in before all else on the loop has its turn.
CHUNK = 16
#: Turns of the loop that a best-effort source leaves to strict events: so it always gets on.
LEFT = 20


class Turns:
    """Shared by the sources of an invoker."""

    def __init__(self) -> None:
        self._strict: tuple[Team, ...] = ()

    def these(self, teams: Iterable[Team]) -> None:
        """The teams that serve from now on."""
        self._strict = tuple(team for team in teams if team.quality is Quality.SQ)

    def gives_way(self, quality: Quality, turns: int) -> bool:
        """Whether a source of this class, which has left so many turns to others, is to leave one more."""
        return quality is not Quality.SQ and turns < LEFT and self._strict_waits()

    def _strict_waits(self) -> bool:
        return any(queue.ready for team in self._strict for queue in team.pool.queues)
