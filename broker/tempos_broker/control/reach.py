"""Whether events reach members, by what these tell with their heartbeats; who is unheard may be taken out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Teller
from tempos_broker.account.ledger import Ledger
from tempos_broker.members.known import Lease
from tempos_broker.members.unheard import BEATS, LOOKED_AT, Progress
from tempos_broker.membership import Registry


class Reach:
    """``teller``: hears what changes. ``wall``: Unix time in seconds."""

    def __init__(self, registry: Registry, ledger: Ledger, teller: Teller, wall: Callable[[], float]) -> None:
        self._registry = registry
        self._ledger = ledger
        self._tell = teller
        self._wall = wall
        #: Heartbeats after which a member that tells of nothing is unheard.
        self.needed = BEATS

    def listen_for(self, holder: Holder, now: float) -> frozenset[int]:
        """Notice whether events reach a member; its counts are booked. Topics that it is taken out of."""
        lease = self._registry.lease_of(holder)
        if lease is None:
            return frozenset()
        places = [(topic, state.name) for topic, state in islice(lease.topics.items(), LOOKED_AT)]
        lease.progress.needed = self.needed
        changed = lease.progress.beat(*self._ledger.progress(holder, places))
        if changed:
            self._tell_progress(holder, lease.progress)
        if lease.progress.heard:
            lease.put_out = 0
        return self._put_out(lease, now) if lease.progress.is_silent else frozenset()

    def _put_out(self, lease: Lease, now: float) -> frozenset[int]:
        gone = self._registry.evict_unheard(lease, now, self._wall())
        for kept in gone:
            self._tell.warning("%s", kept)
        return frozenset(self._registry.topic(kept.place.topic).id for kept in gone)

    def _tell_progress(self, holder: Holder, progress: Progress) -> None:
        if progress.lost:
            self._tell.warning(
                "member %s:%d tells of none of %d events that it was sent over %d heartbeats: is there a "
                "firewall or a NAT between that lets nothing from our data port through to it, or has it "
                "another key?",
                holder.ip, holder.port, progress.lost, progress.needed,
            )  # fmt: skip
        else:
            self._tell.warning("member %s:%d gets events again", holder.ip, holder.port)
