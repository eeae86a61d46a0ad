"""Topics made at run time, which a fleet has together; :mod:`.shared` says by which rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tempos import Topic
from tempos_broker.account.changes import Changes
from tempos_broker.config.model import Origin
from tempos_broker.config.topics import document_of
from tempos_broker.fleet import rows
from tempos_broker.fleet.claims import Taken
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import Registry
from tempos_broker.fleet.shared import Shared
from tempos_broker.topics.catalogue import Catalogue
from tempos_broker.topics.orders import Removed, TopicOrders

#: Seconds that members of a topic have for what is on its way, where another broker removed it.
DRAINED_BY = 1.0
#: What makes a topic another one than it was.
_IDENTITY = ("id", "name", "framing")


class SharedTopics(Shared):
    """The orders of a broker in a fleet; raises as :class:`TopicOrders` does."""

    kind, word, forgotten = rows.TOPICS, "topic", 30 * 86400.0

    def __init__(
        self,
        orders: TopicOrders,
        catalogue: Catalogue,
        fleet: Fleet,
        store: Registry,
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(fleet, store, changes, clock)
        self._orders = orders
        self._catalogue = catalogue

    async def add(self, document: Mapping[str, Any]) -> Topic:
        """See :meth:`TopicOrders.add`."""
        while True:
            try:
                return await self._adding(
                    document.get("name"),
                    lambda: self._orders.add(document),
                    lambda name: self._orders.remove(name, drain=True, patience=0),
                )
            except Taken as taken:
                # An id that was given here: the next is another, for what was released rests. Whenever one is
                # taken another topic has been made, so that this ends.
                if document.get("id") is not None or not all(key.startswith(rows.IDS) for key in taken.keys):
                    raise

    async def set(self, name: str, changes: Mapping[str, Any]) -> Topic:
        """See :meth:`TopicOrders.set`."""
        return await self._changing(name, lambda: self._orders.set(name, changes))

    async def remove(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed:
        """See :meth:`TopicOrders.remove`; the others drain it, too."""
        return await self._removing(
            name,
            lambda: self._orders.check_removal(name, drain=drain),
            lambda: self._orders.remove(name, drain=True, patience=patience),
        )

    @property
    def durable(self) -> bool:
        """See :attr:`TopicOrders.durable`."""
        return self._orders.durable

    def stop_waiting(self) -> None:
        """See :meth:`TopicOrders.stop_waiting`."""
        self._orders.stop_waiting()

    # --- what there is here -----------------------------------------------------------------

    def _made(self) -> Iterable[str]:
        return [entry.topic.name for entry in self._catalogue.made()]

    def _is_made(self, name: str) -> bool:
        entry = self._catalogue.named(name)
        return entry is not None and entry.origin is Origin.RUN_TIME

    def _document(self, name: str) -> dict[str, Any] | None:
        entry = self._catalogue.named(name)
        return None if entry is None else document_of(entry)

    async def _make(self, document: dict[str, Any]) -> object:
        return await self._orders.add(document)

    async def _become(self, name: str, document: dict[str, Any]) -> object:
        known = self._document(name) or {}
        if any(known.get(key) != document.get(key) for key in _IDENTITY):
            await self._orders.remove(name, drain=True, patience=DRAINED_BY)
            return await self._orders.add(document)
        # Null sets an option back.
        return await self._orders.set(name, {**dict.fromkeys(known), **document})

    async def _take_out(self, name: str) -> object:
        return await self._orders.remove(name, drain=True, patience=DRAINED_BY)
