"""A session with a broker that is not this client's home: it learns there what the home has seen to.

Nothing is asked for here but what is in force; a lease that the fleet keeps needs no renewal. Should the home
be gone, this broker becomes it as soon as it is subscribed to.
"""

from __future__ import annotations

from collections.abc import Mapping

from tempos.session.core import ControlSession


class FollowingSession(ControlSession):
    """As :class:`ControlSession`, of a client that is a member there by its home."""

    def resign(self) -> None:
        """Ask for nothing more here: another broker is the home."""
        self._wanted.clear()
        self._again.clear()
        self._lost.clear()
        self._renew_at, self.hears = None, None
        for request in [request for request, pending in self._pending.items() if pending.wanted]:
            del self._pending[request]

    @property
    def wanted(self) -> Mapping[str, str | None]:
        """What is subscribed to here, names and filters, each with its group."""
        return dict(self._wanted)

    @property
    def is_known(self) -> bool:
        """Whether the broker, when it answered last, had this member, be it of no topic yet."""
        return self._roll.since != (0, 0)

    def follow(self, now: float) -> None:
        """Tell what comes, and ask what is in force, from now on."""
        self._heartbeat_at = now
