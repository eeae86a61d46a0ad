"""What a publisher has sent, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """What a publisher has sent. ``bytes`` are UDP payload.

    ``refused`` counts the ICMP refusals that came back: most often nobody listens at the broker's data
    port. ``failed`` counts events that nobody could be told of by an exception: a linger timer could not send
    them, or several of a burst could not be sent; each was logged.
    ``resent``: datagrams that were sent again out of the window.
    """

    datagrams: int
    events: int
    bytes: int
    refused: int
    failed: int
    resent: int = 0
