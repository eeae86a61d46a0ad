"""Topics made at run time, which a fleet has together: what is ordered at one broker is carried out at all.

Rules: an order is carried out here first, so that it is checked against all that holds here, and then written
for the others; where that cannot be written, or another broker was faster, it is undone. A topic that is
removed leaves a mark, so that a broker that was away meanwhile does not bring it back; a topic that the store
has never heard of is told to it. What the others ordered and cannot be had here is told, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tempos import Topic
from tempos.errors import TemposError, one_line
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.config.model import Origin, TopicConfig
from tempos_broker.config.topics import document_of
from tempos_broker.fleet import rows
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import AT_ONCE, Away, Registry, Write
from tempos_broker.tasks import whole
from tempos_broker.topics.catalogue import Catalogue
from tempos_broker.topics.locks import KeyedLocks
from tempos_broker.topics.orders import Conflict, NotKept, Removed, TopicOrders

#: Seconds that an order waits until all brokers have it, and after which what failed is tried again.
SETTLED_BY, AGAIN = 2.0, 5.0
#: Seconds after which the mark of a removed topic goes: a broker that was away for longer tells of it again.
FORGOTTEN = 30 * 86400.0
#: Seconds that members of a topic have for what is on its way, where another broker removed it.
DRAINED_BY = 1.0
#: What makes a topic another one than it was.
_IDENTITY = ("id", "name", "framing")


class SharedTopics:
    """The orders of a broker in a fleet; raises as :class:`TopicOrders` does."""

    def __init__(
        self,
        orders: TopicOrders,
        catalogue: Catalogue,
        fleet: Fleet,
        store: Registry,
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._orders = orders
        self._catalogue = catalogue
        self._fleet = fleet
        self._view = fleet.view
        self._store = store
        self._changes = changes
        self._clock = clock
        self._names: KeyedLocks[str] = KeyedLocks()
        self._again_at = 0.0
        #: Topics of the fleet that are not had here as they are there, and why.
        self.lacking: dict[str, str] = {}
        self._view.topics_changed.update(self._view.topics)
        fleet.catch_up, fleet.lacking = self.catch_up, self.lacking

    # --- orders -----------------------------------------------------------------------------

    async def add(self, document: Mapping[str, Any]) -> Topic:
        """See :meth:`TopicOrders.add`."""
        name = document.get("name")
        async with self._names.one(name if isinstance(name, str) else ""):
            self._require_store()
            topic = await self._orders.add(document)
            try:
                revision = await self._share(topic.name)
            except BaseException:
                await self._orders.remove(topic.name, drain=True, patience=0)
                self._look_again(topic.name)
                raise
        await self._fleet.wait_for(revision, SETTLED_BY)
        return topic

    async def set(self, name: str, changes: Mapping[str, Any]) -> Topic:
        """See :meth:`TopicOrders.set`."""
        async with self._names.one(name):
            self._require_store()
            before = self._catalogue.named(name)
            topic = await self._orders.set(name, changes)
            assert before is not None
            try:
                revision = await self._share(name)
            except BaseException:
                await self._orders.set(name, self._towards(document_of(before)))
                self._look_again(name)
                raise
        await self._fleet.wait_for(revision, SETTLED_BY)
        return topic

    async def remove(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed:
        """See :meth:`TopicOrders.remove`; the others drain it, too."""
        async with self._names.one(name):
            self._require_store()
            self._orders.check_removal(name, drain=drain)
            await self._forget()
            revision = await self._write(name, rows.removed(self._clock()))
            try:
                removed = await self._orders.remove(name, drain=True, patience=patience)
            except BaseException:
                self._look_again(name)
                raise
        await self._fleet.wait_for(revision, SETTLED_BY)
        return removed

    def _require_store(self) -> None:
        if self._fleet.away is not None:
            raise NotKept(
                f"the registry of fleet {self._fleet.name!r} is away: {self._fleet.away}",
                "nothing was changed; ask again when `tempos fleet status` finds it",
            )

    async def _share(self, name: str) -> int:
        """Have a topic written as it is here; the revision of that."""
        entry = self._catalogue.named(name)
        assert entry is not None
        return await self._write(name, rows.topic(document_of(entry)))

    async def _write(self, name: str, value: bytes) -> int:
        key = rows.TOPICS + name
        try:
            written = await self._store.write([Write(key, value, self._view.written.get(key, 0))])
        except Away as error:
            raise NotKept(
                f"the registry of fleet {self._fleet.name!r} is away: {one_line(error)}",
                "whether the others heard of it is not known; look when `tempos fleet status` finds it",
            ) from error
        if written.refused:
            raise Conflict(
                f"topic {name!r} was changed at another broker of the fleet at the same time",
                "nothing was changed here; look what it is now, and ask again",
            )
        self._view.wrote_topic(name, value, written.at[key])
        return written.revision

    async def _forget(self) -> None:
        """Take away marks of topics that were removed long ago."""
        now = self._clock()
        old = [
            Write(key, None, self._view.written.get(key, 0))
            for name, row in self._view.topics.items()
            if row.document is None and row.removed + FORGOTTEN < now and (key := rows.TOPICS + name)
        ]
        if old:
            try:
                await self._store.write(old[:AT_ONCE])
            except Away as error:
                raise NotKept(
                    f"the registry is away: {one_line(error)}", "nothing was changed; ask again"
                ) from error

    # --- what the others ordered ------------------------------------------------------------

    async def catch_up(self, *, anew: bool = False) -> None:
        """Carry out here what the others have ordered. ``anew``: what there is has been listed just now."""
        names, now = self._view.topics_changed, time.monotonic()
        self._view.topics_changed = set()
        if anew:
            names |= {entry.topic.name for entry in self._catalogue.made()}
        if self._again_at <= now:
            names |= self.lacking.keys()
            self._again_at = now + AGAIN
        try:
            await self._go_by(names)
        except BaseException:
            # The store is away: it is news still.
            self._view.topics_changed |= names
            raise

    async def _go_by(self, names: Collection[str]) -> None:
        unheard_of = sorted(name for name in names if name not in self._view.topics and self._made(name))
        for first in range(0, len(unheard_of), AT_ONCE):
            await self._tell_of(unheard_of[first : first + AT_ONCE])
        others = sorted(frozenset(names).difference(unheard_of))
        for first in range(0, len(others), AT_ONCE):
            # Whatever becomes of the store meanwhile.
            await asyncio.gather(*(whole(self._carry_out(name)) for name in others[first : first + AT_ONCE]))

    async def _tell_of(self, names: Sequence[str]) -> None:
        """Of topics that the store has never heard of."""
        async with self._names.held(names):
            values = {name: rows.topic(document_of(entry)) for name in names if (entry := self._made(name))}
            if not values:
                return
            writes = [Write(rows.TOPICS + name, value, 0) for name, value in values.items()]
            written = await self._store.write(writes)
            refused = {each.key for each in written.refused}
            for name, value in values.items():
                if rows.TOPICS + name not in refused:
                    self._view.wrote_topic(name, value, written.at[rows.TOPICS + name])

    def _made(self, name: str) -> TopicConfig | None:
        entry = self._catalogue.named(name)
        return entry if entry is not None and entry.origin is Origin.RUN_TIME else None

    async def _carry_out(self, name: str) -> None:
        async with self._names.one(name):
            row, entry = self._view.topics.get(name), self._catalogue.named(name)
            try:
                if row is None or row.document is None:
                    if row is not None and self._made(name):
                        await self._orders.remove(name, drain=True, patience=DRAINED_BY)
                elif entry is None:
                    await self._orders.add(row.document)
                elif document_of(entry) != row.document:
                    await self._change(entry, row.document)
            except TemposError as error:
                self._lack(name, one_line(error))
            else:
                if self.lacking.pop(name, None) is not None:
                    self._changes.tell(Kind.FLEET, f"topic {name} is here as in the rest of the fleet")

    async def _change(self, entry: TopicConfig, document: dict[str, Any]) -> None:
        name, known = entry.topic.name, document_of(entry)
        if entry.origin is Origin.FILE:
            different = sorted(
                key for key in known.keys() | document.keys() if known.get(key) != document.get(key)
            )
            raise Conflict(
                f"the file has topic {name!r} with another {', '.join(different)}", "make both the same"
            )
        if any(known.get(key) != document.get(key) for key in _IDENTITY):
            await self._orders.remove(name, drain=True, patience=DRAINED_BY)
            await self._orders.add(document)
        else:
            await self._orders.set(name, self._towards(document))

    def _towards(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What changes a topic of this name into that; null sets an option back."""
        entry = self._catalogue.named(document["name"])
        assert entry is not None
        return {**dict.fromkeys(document_of(entry)), **document}

    def _look_again(self, name: str) -> None:
        self._view.topics_changed.add(name)
        self._fleet.look_soon()

    def _lack(self, name: str, why: str) -> None:
        if self.lacking.get(name) != why:
            text = f"topic {name} is not here as in the rest of the fleet: {why}"
            self._changes.tell(Kind.FLEET, text, level=logging.WARNING)
        self.lacking[name] = why

    @property
    def durable(self) -> bool:
        """See :attr:`TopicOrders.durable`."""
        return self._orders.durable

    def stop_waiting(self) -> None:
        """See :meth:`TopicOrders.stop_waiting`."""
        self._orders.stop_waiting()
