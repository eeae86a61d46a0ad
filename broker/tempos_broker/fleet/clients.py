"""Clients made at run time, which a fleet has together, keys and all; :mod:`.shared` says by which rules.

Whoever reads the store reads the keys: a signature is an HMAC, and what verifies one makes one. That somebody
was removed is never forgotten: no broker, however long it was away, brings a key back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tempos_broker.account.changes import Changes
from tempos_broker.clients.catalogue import Clients
from tempos_broker.clients.orders import ClientOrders
from tempos_broker.config.clients import document_of
from tempos_broker.config.model import ClientConfig, Origin
from tempos_broker.fleet import rows
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import Registry
from tempos_broker.fleet.shared import Shared


class SharedClients(Shared):
    """The orders of a broker in a fleet; raises as :class:`ClientOrders` does."""

    kind, word, forgotten = rows.CLIENTS, "client", math.inf

    def __init__(
        self,
        orders: ClientOrders,
        clients: Clients,
        fleet: Fleet,
        store: Registry,
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(fleet, store, changes, clock)
        self._orders = orders
        self._clients = clients

    async def add(self, document: Mapping[str, Any]) -> ClientConfig:
        """See :meth:`ClientOrders.add`."""
        return await self._adding(document.get("id"), lambda: self._orders.add(document), self._take_out)

    async def set(self, name: str, changes: Mapping[str, Any]) -> ClientConfig:
        """See :meth:`ClientOrders.set`."""
        return await self._changing(name, lambda: self._orders.set(name, changes))

    async def remove(self, name: str) -> ClientConfig:
        """See :meth:`ClientOrders.remove`."""
        return await self._removing(
            name, lambda: self._orders.check_removal(name), lambda: self._orders.remove(name)
        )

    async def demand(self, *, signatures: bool) -> None:
        """See :meth:`ClientOrders.demand`; a matter of this broker."""
        await self._orders.demand(signatures=signatures)

    # --- what there is here -----------------------------------------------------------------

    def _made(self) -> Iterable[str]:
        return [client.id for client in self._clients.made()]

    def _is_made(self, name: str) -> bool:
        client = self._clients.named(name)
        return client is not None and client.origin is Origin.RUN_TIME

    def _document(self, name: str) -> dict[str, Any] | None:
        client = self._clients.named(name)
        return None if client is None else document_of(client)

    async def _make(self, document: dict[str, Any]) -> object:
        return await self._orders.add(document)

    async def _become(self, name: str, document: dict[str, Any]) -> object:
        # Null sets rights back.
        return await self._orders.set(name, {**dict.fromkeys(self._document(name) or {}), **document})

    async def _take_out(self, name: str) -> object:
        return await self._orders.remove(name)
