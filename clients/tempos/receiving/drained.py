"""What the end of a membership comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to, in datagrams over the whole membership, by the broker's account.

    ``ticketed``: meant for this member; ``delivered``: arrived here; ``lost``: did not.
    """

    ticketed: int
    delivered: int
    lost: int
