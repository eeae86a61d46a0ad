"""A session with a broker that is not this client's home: it learns there what the home has seen to.

Nothing is asked for here but what is in force; a lease that the fleet keeps needs no renewal. Should the home
be gone, this broker becomes it as soon as it is subscribed to.
"""

from __future__ import annotations

from tempos.session.core import ControlSession


class FollowingSession(ControlSession):
    """As :class:`ControlSession`, of a client that is a member there by its home."""

    def follow(self, now: float) -> None:
        """Tell what comes, and ask what is in force, from now on."""
        self._heartbeat_at = now
