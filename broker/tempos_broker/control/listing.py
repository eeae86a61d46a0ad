"""What a member is told of its memberships: what is new since the version that it knows, page by page.

Who is out of a topic, and has not heard that it was in it, is told that first: it has what came meanwhile.
An answer has as many rows as there is room for, the oldest news first, so that whoever names the version up
to which it was told gets the next ones, and in the end all. Where the life of the broker is another one, all
is new. ``count``, of how many topics it is a member in all, lets a member find out that it believes too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tempos.control import Out, encode_ok, packb
from tempos.session.rows import about
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.control.decisions import Way
from tempos_broker.members.departures import Place
from tempos_broker.members.known import Lease
from tempos_broker.membership import Registry

#: Bytes of a field that is added: its name, and the head of a list or a number of any size.
_FIELD = 12


class Listing:
    """Of one broker. ``epoch`` tells the epoch in force of a topic; ``fleet`` what a member is told of it."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        epoch: Callable[[int], int],
        life: int,
        now: Callable[[], float],
        fleet: Callable[[Holder], tuple[int, ...] | None] = lambda holder: None,
        instance: int = 0,
    ) -> None:
        self._instance = instance
        self._registry = registry
        self._ledger = ledger
        self._epoch = epoch
        self._life = life
        self._now = now
        self._fleet = fleet

    def fields(
        self, way: Way, holder: Holder, since: Sequence[int], fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The fields of an answer, and what is to be told beside them in the room that there is."""
        lease = self._registry.lease_of(holder)
        base = version = since[1] if since[0] == self._life else 0
        group: str | None = fields.get("group")
        if (fleet := self._fleet(holder)) is not None:
            fields = {**fields, "fleet": fleet, "instance": self._instance}
        room = way.room - len(encode_ok(way.request_id, **fields)) - 11 * _FIELD
        rows: list[tuple[Any, ...]] = []
        repaired: list[int] = []
        redelivered: list[int] = []
        gone: list[tuple[Any, ...]] = []
        journals: list[int] = []
        retained: list[int] = []
        more = False
        for topic, at in lease.since(base) if lease is not None else ():
            known = self._registry.numbered(topic)
            state = lease.topics.get(topic) if lease is not None else None
            own = state.name if state is not None else None
            is_out = lease is not None and topic in lease.gone
            if is_out and lease is not None and known is not None and lease.has_not_heard_of(known):
                own = wanted.group if (wanted := lease.wants(known.name)) is not None else None
                is_out = own is None
            if is_out and lease is not None:
                name, why = lease.gone[topic]
                out = (topic, name, *self._why(lease, name, why))
                room -= len(packb(out))
                if room >= 0:
                    gone.append(out)
            elif known is not None and own is not None and lease is not None:
                if group is None:
                    group = own
                    room -= len(packb(group))
                epoch = self._epoch(topic)
                members = self._ledger.members(topic, epoch, holder)
                row: tuple[Any, ...] = (topic, known.name, about(known), epoch, members)
                row = row if own == group else (*row, own)
                named = (known.journal > 0) + known.retain + known.is_repaired + known.redeliver
                room -= len(packb(row)) + len(packb(topic)) * named
                if room >= 0:
                    rows.append(row)
                    lease.untold.pop(topic, None)
                    if known.journal:
                        journals.append(topic)
                    if known.retain:
                        retained.append(topic)
                    if known.is_repaired:
                        repaired.append(topic)
                    if known.redeliver:
                        redelivered.append(topic)
            if room < 0 or (state is None and own is not None):
                more = True
                break
            version = at
        told: dict[str, Any] = {
            **fields,
            "base": base,
            "version": version if more else max(version, self._registry.holdings.news),
            "count": len(lease.topics) + lease.joining if lease is not None else 0,
            "more": more,
        }
        if group is not None:
            told["group"] = group
        if rows:
            told["rows"] = rows
        if journals:
            told["journals"] = journals
        if retained:
            told["retained"] = retained
        if gone:
            told["gone"] = gone
        if repaired:
            told["repaired"] = repaired
        if redelivered:
            told["redelivered"] = redelivered
        return told

    def has_news(self, holder: Holder, since: Sequence[int]) -> bool:
        """Whether who knows all up to a version has come into a topic since, or went out of one.

        That others did is no reason to tell it at once: of a crowd each would hear of each other's coming.
        """
        lease = self._registry.lease_of(holder)
        if lease is None or not since or since[0] != self._life:
            return True
        return lease.turned > since[1]

    def _why(self, lease: Lease, name: str, why: str) -> tuple[str, ...]:
        """Why a lease is out of a topic; for how long, where it is kept out."""
        wanted = lease.wants(name)
        if why not in (Out.OPERATOR, Out.KEPT_OUT, Out.UNHEARD) or wanted is None:
            return (why,)
        place = Place(name, wanted.group, *lease.endpoint)
        kept = self._registry.departures.kept_out(place, self._now())
        return (why,) if kept is None else (kept.why, str(kept))
