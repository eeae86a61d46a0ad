"""Going by another configuration while all runs, whole or not at all; what differs, :mod:`.reload` says."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from tempos import ConfigError, Framing, Topic, Unavailable
from tempos._rows import Rows
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.expiry import Expiry
from tempos_broker.lives.continuity import Continuity
from tempos_broker.membership import Registry
from tempos_broker.paths import FastPath
from tempos_broker.reload import Difference, difference
from tempos_broker.routes import Routes
from tempos_broker.topics.catalogue import Catalogue, check_count, merged
from tempos_broker.topics.former import MADE
from tempos_broker.topics.locks import Gate
from tempos_broker.worker.slowpaths import SlowPaths

log = logging.getLogger("tempos.broker")


class Reloader:
    """``config`` is what the file says that holds now; ``catalogue`` has the topics made at run time, too.

    Nobody else changes topics while a reload goes through the ``gate``.
    """

    def __init__(
        self,
        config: BrokerConfig,
        catalogue: Catalogue,
        gate: Gate,
        *,
        registry: Registry,
        ledger: Ledger,
        control: ControlServer,
        routes: Routes,
        past: Continuity,
        fast: FastPath,
        slow: SlowPaths,
        expiry: Expiry,
        rows: Rows,
    ) -> None:
        self.config = config
        self._catalogue = catalogue
        self._gate = gate
        self._registry = registry
        self._ledger = ledger
        self._control = control
        self._routes = routes
        self._past = past
        self._fast = fast
        self._slow = slow
        self._expiry = expiry
        self._rows = rows

    async def apply(self, config: BrokerConfig) -> tuple[str, ...]:
        """Go by ``config``; says what changed, a line each.

        Raises :class:`ConfigError`, and changes nothing, where it would need a restart, contradicts what was
        made at run time, or the fast path refuses.
        """
        async with self._gate.alone():
            made = self._catalogue.made()
            whole = replace(config, topics=merged(config, made))
            of_file = {entry.topic.name for entry in config.topics}
            adopted = [entry.topic for entry in made if entry.topic.name in of_file]
            found = difference(replace(self.config, topics=tuple(self._catalogue)), whole)
            self._registry.check(config.topics)
            check_count(whole)
            # Topics that are new have their rows once those that end have given theirs back.
            go_on = self._routes.states.keys() - found.gone
            staying = [entry.topic for entry in whole.topics if entry.topic.id in go_on]
            async with self._routes.held(found.gone | found.touched):
                try:
                    await self._fast.configure(staying)
                except Unavailable as error:
                    raise ConfigError([f"the fast path refuses: {error}"]) from error
                await self._apply(whole, found, staying)
            self.config = config
            await self.adopt(adopted)
            await self._routes.swap_all(sorted(found.touched))
            self._expiry.schedule()
            now_of_file = (f"topic {topic.name} ({topic.id}) is the file's now" for topic in adopted)
            words = (*found.words, *now_of_file)
            for line in words:
                log.info("reload: %s", line)
            return words

    async def adopt(self, topics: Sequence[Topic]) -> None:
        """These were made at run time, and stand in the file now: once they go from there, they are gone."""
        if topics:
            await self._past.keeper.put(MADE, dict.fromkeys(topic.name for topic in topics))

    async def _apply(self, config: BrokerConfig, found: Difference, staying: Sequence[Topic]) -> None:
        """All topics concerned are held."""
        routes, states = self._routes, self._routes.states
        described = {entry.topic.id: entry.topic for entry in config.topics}
        ending = [states[topic] for topic in sorted(found.gone)]
        self._registry.configure(config, found.gone, time.monotonic())
        self._control.reconfigure(config.control)
        self._catalogue.replace(config.topics, time.monotonic())
        routes.lease = config.control.lease
        for topic in found.touched - states.keys():
            routes.begin(described[topic])
        for state in ending:
            await routes.clear(state)
        # What waits of these is counted before their accounts end.
        await self._slow.configure(staying)
        for state in ending:
            routes.end(state.route, described.get(state.route.topic.id))
        for topic in found.gone - described.keys():
            self._rows.free(topic)
        if len(staying) < len(described):
            await self._begin(list(described.values()))
        self._ledger.configure(unstamped(config))
        for topic in found.touched - found.gone:
            routes.redescribe(described[topic])
        await self._past.keeper.save_ended([state.route for state in ending])

    async def _begin(self, topics: Sequence[Topic]) -> None:
        """Have rows for all these, and let both paths know them; what was counted there is another's."""
        begun = [topic.id for topic in topics if topic.id not in self._rows]
        for topic in begun:
            self._rows.give(topic)
        await self._fast.configure(topics)
        await self._slow.configure(topics)
        for topic in begun:
            self._past.begin_anew(topic)


def unstamped(config: BrokerConfig) -> set[int]:
    """The topics whose datagrams carry no epoch."""
    return {entry.topic.id for entry in config.topics if entry.topic.framing is Framing.RAW}
