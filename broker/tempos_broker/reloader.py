"""Going by another configuration while all runs, whole or not at all; what differs, :mod:`.reload` says."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from tempos import ConfigError, Framing, Unavailable
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.expiry import Expiry
from tempos_broker.lives.continuity import Continuity
from tempos_broker.membership import Registry
from tempos_broker.paths import FastPath
from tempos_broker.reload import Difference, difference
from tempos_broker.routes import Routes
from tempos_broker.worker.slowpaths import SlowPaths

log = logging.getLogger("tempos.broker")


class Reloader:
    """``config`` is what holds now."""

    def __init__(
        self,
        config: BrokerConfig,
        *,
        registry: Registry,
        ledger: Ledger,
        control: ControlServer,
        routes: Routes,
        past: Continuity,
        fast: FastPath,
        slow: SlowPaths,
        expiry: Expiry,
    ) -> None:
        self.config = config
        self._registry = registry
        self._ledger = ledger
        self._control = control
        self._routes = routes
        self._past = past
        self._fast = fast
        self._slow = slow
        self._expiry = expiry
        self._one_at_a_time = asyncio.Lock()

    async def apply(self, config: BrokerConfig) -> tuple[str, ...]:
        """Go by ``config``; says what changed, a line each.

        Raises :class:`ConfigError`, and changes nothing, where it would need a restart or the fast path
        refuses.
        """
        async with self._one_at_a_time:
            found = difference(self.config, config)
            self._registry.check(config)
            async with self._routes.held(found.gone | found.touched):
                try:
                    await self._fast.configure([entry.topic for entry in config.topics])
                except Unavailable as error:
                    raise ConfigError([f"the fast path refuses: {error}"]) from error
                await self._apply(config, found)
            for topic in sorted(found.touched):
                await self._routes.swap(topic)
            self._expiry.schedule()
            for line in found.words:
                log.info("reload: %s", line)
            return found.words

    async def _apply(self, config: BrokerConfig, found: Difference) -> None:
        """All topics concerned are held."""
        routes, states = self._routes, self._routes.states
        described = {entry.topic.id: entry.topic for entry in config.topics}
        ending = [states[topic] for topic in sorted(found.gone)]
        self._registry.configure(config, found.gone, time.monotonic())
        self._control.reconfigure(config.control)
        self.config, routes.lease = config, config.control.lease
        for topic in found.touched - states.keys():
            routes.begin(described[topic])
        for state in ending:
            await routes.clear(state)
        # What waits of these is counted before their accounts end.
        await self._slow.configure(list(described.values()))
        for state in ending:
            routes.end(state.route, described.get(state.route.topic.id))
        self._ledger.configure(unstamped(config))
        for topic in found.touched - found.gone:
            known = states[topic]
            if known.route.topic.policy is not described[topic].policy:
                known.moved = None
            known.route = replace(known.route, topic=described[topic])
            self._registry.touch(topic)
        await self._past.keeper.save_ended([state.route for state in ending])


def unstamped(config: BrokerConfig) -> set[int]:
    """The topics whose datagrams carry no epoch."""
    return {entry.topic.id for entry in config.topics if entry.topic.framing is Framing.RAW}
