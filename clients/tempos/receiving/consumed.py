"""What is checked before anybody takes events of a subscriber: who would wait for ever is told why."""

from __future__ import annotations

from tempos.errors import LocalError
from tempos.model import Member
from tempos.receiving.intake import Intake
from tempos.session import forks


class Consumed(forks.OfOneProcess):
    """The part of a subscriber that knows whether it can be read, and whether somebody does already."""

    #: How it is entered, for people.
    entering = "async with"
    _forked = False
    _member: Member | None
    _intake: Intake

    def not_open(self) -> LocalError:
        """The error that it was never opened."""
        return LocalError(f"this subscriber is not open: use it inside '{self.entering} Subscriber(...)'")

    def check_open(self) -> None:
        """Raise :class:`LocalError` where nothing ever comes, whoever asks and how often.

        That is in a process that was forked off, and where it was never opened.
        """
        if self._forked:
            raise LocalError(f"this subscriber {forks.WORDS}")
        if self._member is None:
            raise self.not_open()

    def check_sole(self) -> None:
        """The same also where somebody waits for its events already."""
        self.check_open()
        if self._intake.waiter is not None:
            raise LocalError("two consumers read one subscriber: give each a subscriber of the same group")
