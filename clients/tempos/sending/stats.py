"""What a publisher has sent, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """What a publisher has sent. ``bytes`` are UDP payload.

    ``refused`` counts the ICMP refusals that came back: most often nobody listens at the broker's data
    port. ``failed`` counts events that a linger timer could not send; each was logged.
    ``resent``: datagrams that were sent again out of the window.
    """

    datagrams: int
    events: int
    bytes: int
    refused: int
    failed: int
    resent: int = 0
