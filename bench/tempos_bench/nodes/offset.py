"""How far two clocks are apart, from datagrams with time stamps of both ends.

An exchange leaves here, arrives there, leaves there, arrives here. The shortest of many says the most (RFC
5905, section 10, chooses likewise): its way took no longer than its round trip, however that is shared
between the two directions, so the truth is within half of it around the middle. Pure: what sends and
receives is :mod:`.stamps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offset:
    """How much the other clock is ahead of ours (behind if negative), give or take; seconds."""

    ahead: float
    uncertainty: float

    @property
    def bound(self) -> float:
        """The most that the clocks can be apart."""
        return abs(self.ahead) + self.uncertainty

    def then(self, further: Offset) -> Offset:
        """That of a third clock to ours, where ``further`` is of the third to the second."""
        return Offset(self.ahead + further.ahead, self.uncertainty + further.uncertainty)

    def __str__(self) -> str:
        where = "ahead" if self.ahead >= 0 else "behind"
        return f"{abs(self.ahead) * 1e6:,.0f} us {where} (±{self.uncertainty * 1e6:,.0f} us)"


def estimate(exchanges: Iterable[Sequence[int]]) -> Offset:
    """From exchanges of (sent here, arrived there, sent there, arrived here), nanoseconds, each by its clock.

    Raises :class:`ValueError` for none.
    """

    def way(exchange: Sequence[int]) -> int:
        sent, heard, answered, came = exchange
        return (came - sent) - (answered - heard)

    best = min(exchanges, key=way, default=None)
    if best is None:
        raise ValueError("no exchange of time stamps, so nothing is known of the clocks")
    sent, heard, answered, came = best
    # A negative way is a step of one clock in between, which the uncertainty must cover as well.
    return Offset(((heard - sent) + (answered - came)) / 2e9, abs(way(best)) / 2e9)
