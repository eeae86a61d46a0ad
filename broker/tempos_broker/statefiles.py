"""The files in which a broker keeps what survives it, had all together or not at all.

The database of :mod:`.lives.store`, and beside it two files of counters (:mod:`.tickets`): the tickets, where
no fast path has them, and what the slow path drew of those that a fast path has.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from tempos import Unavailable
from tempos._rows import Rows
from tempos_broker.belongings import usual_state
from tempos_broker.config.model import BrokerConfig
from tempos_broker.lives.store import Store
from tempos_broker.tickets import FileTickets

log = logging.getLogger("tempos.broker.state")


class StateFiles:
    """The files, open; made by :meth:`open`."""

    def __init__(self, store: Store, tickets: FileTickets, slow: FileTickets) -> None:
        self.store = store
        self.tickets = tickets
        self.slow = slow

    @classmethod
    async def open(cls, path: Path, rows: Rows) -> StateFiles:
        """Open or begin them, the database at ``path``, the counters with these ``rows``.

        Raises :class:`Unavailable`; then none is held.
        """
        store = Store.open(path)
        with contextlib.ExitStack() as undo:
            counters = []
            try:
                for name in ("tickets", "slow"):
                    counters.append(FileTickets(Path(f"{path}-{name}"), rows))
                    undo.callback(counters[-1].close)
            except OSError as error:
                await store.close()
                raise Unavailable(
                    f"the counters beside the state file {path} cannot be had: {error.strerror}; "
                    'set state.file to another, or to "off"'
                ) from error
            undo.pop_all()
        return cls(store, *counters)

    def rest(self) -> None:
        """Keep no memory for counters of topics that nothing happens to."""
        self.tickets.rest()
        self.slow.rest()

    async def close(self) -> None:
        """Let go of them; safe to call twice."""
        await self.store.close()
        self.tickets.close()
        self.slow.close()


async def open_state(config: BrokerConfig, rows: Rows) -> StateFiles | None:
    """What the broker remembers by; None where it is to remember nothing, or cannot at the usual place.

    Raises :class:`Unavailable` only where the configuration names the file.
    """
    if config.state.file == "off":
        return None
    path = state_file(config)
    try:
        if path is None:
            raise Unavailable("there is no usual place for the state of this user; set state.file")
        return await StateFiles.open(path, rows)
    except Unavailable as error:
        if config.state.file:
            raise
        log.warning("members and counts will not survive a restart: %s", error)
        return None


def state_file(config: BrokerConfig) -> Path | None:
    """Where the state of a broker belongs; None where there is no usual place."""
    return Path(config.state.file) if config.state.file else usual_state(config.name)
