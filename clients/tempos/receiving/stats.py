"""What a subscriber counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SubscriberStats:
    """What a subscriber has received and lost, in datagrams but for ``events``.

    ``missed``: sent to this member and not here so far; ``repaired``: was missed, and came when the broker
    was asked for it; ``given_up``: is missed, and not asked for any more; ``late``: came out of order, so
    what had been counted as missed for it was taken back; ``duplicates``: came twice, handed out or not;
    ``unstamped``: came past the broker; ``malformed``: by reason, strangers' datagrams as
    ``foreign_source``, and, of encrypted topics, ``not_encrypted``, ``unknown_key``, ``forged``, ``stale``
    and ``replayed``, of which no other count knows; ``queue_full``: dropped because the consumer was slow;
    ``discarded``: thrown away unread when it left, ``discarded_events`` so many events; ``overruns``: lost
    by the kernel because the socket buffer was full, as far as it has told; ``receive_buffer``: bytes of
    socket buffer that the kernel gave; ``requests`` among the events, ``replies`` sent to them, errors
    included, and ``replies_failed``: those that raised, or could not leave with others; ``traced``: probes
    (:meth:`tempos.Publisher.trace`), datagrams that nobody is handed; ``replayed``:
    datagrams from before this was a member, out of journals, and ``replay_gone`` such that could not be had;
    ``redelivered``: datagrams that members which are gone left behind: these are in no other count.

    ``missed`` is final once the subscriber has drained or is closed: what was on its way has come by
    then, and what was lost at the very end the broker has told.
    """

    datagrams: int
    events: int
    bytes: int
    missed: int
    late: int
    duplicates: int
    unstamped: int
    malformed: Mapping[str, int]
    queue_full: int
    discarded: int
    discarded_events: int
    overruns: int
    receive_buffer: int
    requests: int = 0
    replies: int = 0
    replies_failed: int = 0
    traced: int = 0
    replayed: int = 0
    replay_gone: int = 0
    repaired: int = 0
    given_up: int = 0
    redelivered: int = 0
