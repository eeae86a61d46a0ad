"""Members whose home is another broker, as memberships of this one: they hold as long as the fleet says so.

Their leases here do not end by time; whoever is heard here as at home, is at home here.
"""

from __future__ import annotations

import math
import time

from tempos.names import matcher
from tempos_broker.account.accounts import Holder
from tempos_broker.fleet.rows import MemberRow
from tempos_broker.membership import Registry


def adopt(registry: Registry, row: MemberRow, source: str, zone: str = "") -> set[int]:
    """Let a member of another broker be one here, too, of what it wants now; the topics that this changes.

    ``source``: the address of ours that it gets its events from; ``zone``: where its home is.
    """
    holder, now = row.holder, time.monotonic()
    wanted = row.wants_at(source)
    changed: set[int] = set()
    lease, was = registry.lease_of(holder), None
    if lease is not None:
        # It does not come home by what follows.
        was, lease.home = (lease.zone if lease.home else registry.zone), ""
        for name, how in list(lease.wanted.items()):
            if name not in wanted or wanted[name].group != how.group:
                changed |= registry.unsubscribe(name, how.group, lease.endpoint, holder.client or 0)
    registry.restore_wanted(holder, wanted, now + registry.lease)
    lease = registry.lease_of(holder)
    assert lease is not None, "it wants something"
    if was not in (None, zone):
        changed |= registry.moved(lease)
    lease.home, lease.zone, lease.hears, lease.expires = row.home, zone, None, math.inf
    lease.shared, lease.silent = False, 0
    matching = [matcher(name) for name in wanted]
    topics = [topic for topic in registry.topics if any(match(topic.name) for match in matching)]
    return changed | registry.join(holder, topics, now)


def release(registry: Registry, holder: Holder) -> set[int]:
    """A member of another broker is none any more; the topics that this changes."""
    lease = registry.lease_of(holder)
    if lease is None or not lease.home:
        return set()
    return registry.goodbye((holder.ip, holder.port), holder.client or 0)
