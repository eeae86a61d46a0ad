"""Going by another configuration while all runs, whole or not at all; what differs, :mod:`.reload` says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tempos import ConfigError, Framing, Topic, Unavailable
from tempos._rows import Rows
from tempos_broker.account.changes import NAMED, Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.clients.catalogue import Clients
from tempos_broker.clients.catalogue import merged as merged_clients
from tempos_broker.clients.former import MADE as MADE_CLIENT
from tempos_broker.config.model import BrokerConfig, ClientConfig, TopicConfig
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

#: What is told where nobody can ask.
SHUT = (
    "there is no client, and everybody has to sign: only control.open_networks are served until one is made; "
    "`tempos ctl client open` lets others in"
)


class Reloader:
    """``config`` is what the file says that holds now.

    ``catalogue`` and ``clients`` have what was made at run time, too. Nobody else changes these while a
    reload goes through the ``gate``.
    """

    def __init__(
        self,
        config: BrokerConfig,
        catalogue: Catalogue,
        clients: Clients,
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
        self._clients = clients
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
            # Of thousands of topics it takes as long as it takes, while the loop goes on.
            plan = await asyncio.get_running_loop().run_in_executor(None, self._compare, config)
            found = plan.found
            async with self._routes.held(found.concerned):
                await self._put_known(plan)
                await self._apply(plan)
            self.config = plan.config
            await self.adopt([entry.topic for entry in plan.adopted], plan.adopted_clients)
            await self._routes.swap_all(sorted(found.touched))
            self._expiry.schedule()
            words = (
                *found.words,
                *(f"topic {each.topic.name} ({each.topic.id}) is the file's now" for each in plan.adopted),
                *(f"client {each.id} is the file's now" for each in plan.adopted_clients),
                *((SHUT,) if self._clients.shut else ()),
            )
            for line in words:
                log.info("reload: %s", line)
            more = f"; and {len(words) - NAMED:,} more" if len(words) > NAMED else ""
            text = f"reloaded: {'; '.join(words[:NAMED]) or 'nothing changed'}{more}"
            self._routes.changes.note(Kind.RELOAD, logging.INFO, text)
            return words

    async def adopt(self, topics: Sequence[Topic], clients: Sequence[ClientConfig]) -> None:
        """These were made at run time, and stand in the file now: once they go from there, they are gone."""
        if topics:
            await self._past.keeper.put(MADE, dict.fromkeys(topic.name for topic in topics))
        if clients:
            await self._past.keeper.put(MADE_CLIENT, dict.fromkeys(client.id for client in clients))

    def _compare(self, config: BrokerConfig) -> _Plan:
        """On a thread of its own; nobody changes topics meanwhile."""
        known = self._catalogue.numbered
        # A topic that is as it was is the very one that it was: two of each would be kept.
        topics = tuple(
            was if (was := known(entry.topic.id)) == entry and was.origin is entry.origin else entry
            for entry in config.topics
        )
        config = replace(config, topics=topics)
        made = self._catalogue.made()
        whole = replace(config, topics=merged(config, made))
        found = difference(replace(self.config, topics=tuple(self._catalogue)), whole)
        self._registry.check(config.topics)
        check_count(whole)
        by_id = {entry.topic.id: entry for entry in whole.topics}
        clients = merged_clients(config.control.clients, keys := self._clients.made())
        by_name = {client.id: client for client in clients}
        return _Plan(
            config,
            clients,
            tuple(client for client in keys if by_name[client.id] is not client),
            found,
            tuple(by_id[topic] for topic in sorted(found.touched)),
            tuple(by_id[entry.topic.id] for entry in made if by_id[entry.topic.id] is not entry),
        )

    async def _put_known(self, plan: _Plan) -> None:
        """Have all ports, and let the fast path know other options of topics that stay; or none of it."""
        known = [(was, entry) for entry in plan.changed if entry.topic.id not in plan.found.gone
                 and (was := self._catalogue.numbered(entry.topic.id)) is not None]  # fmt: skip
        put: list[Topic] = []
        wanted = [entry.topic for entry in plan.changed]
        try:
            self._slow.listen(wanted)
        except Unavailable as error:
            raise ConfigError([str(error)]) from error
        try:
            for was, entry in known:
                put.append(was.topic)
                await self._fast.put(entry.topic)
        except Unavailable as error:
            for topic in put[:-1]:
                await self._fast.put(topic)
            self._slow.let_go(wanted)
            raise ConfigError([f"the fast path refuses: {error}"]) from error

    async def _apply(self, plan: _Plan) -> None:
        """All topics concerned are held."""
        routes, states = self._routes, self._routes.states
        config, gone = plan.config, plan.found.gone
        changed = {entry.topic.id: entry.topic for entry in plan.changed}
        ending = [states[topic] for topic in sorted(gone)]
        now = time.monotonic()
        self._clients.replace(plan.clients)
        control = self._clients.whole(config.control)
        self._registry.configure(replace(config, control=control), gone, plan.changed, now)
        self._control.reconfigure(control)
        self._catalogue.replace(gone, (*plan.changed, *plan.adopted), now)
        routes.lease = config.control.lease
        routes.pace.heartbeat = config.control.heartbeat
        begun = [topic for id_, topic in changed.items() if id_ in gone or id_ not in states]
        for topic in begun:
            if topic.id not in states:
                routes.begin(topic)
        for state in ending:
            await routes.clear(state)
        for topic_id in gone:
            await self._fast.drop(topic_id)
        # What waits of those that end is counted before their accounts end.
        staying = [topic for topic in changed.values() if topic not in begun]
        await self._slow.change(gone, staying)
        for state in ending:
            routes.end(state.route, changed.get(state.route.topic.id))
        # Topics that are new have their rows once those that end have given theirs back.
        for topic_id in gone - changed.keys():
            self._rows.free(topic_id)
        await self._begin(begun)
        for topic in staying:
            routes.redescribe(topic)
        await self._past.keeper.save_ended([state.route for state in ending])

    async def _begin(self, topics: Sequence[Topic]) -> None:
        """Have rows for these, and let both paths know them; what was counted there is another's."""
        for topic in topics:
            self._rows.give(topic.id)
            await self._fast.put(topic)
            self._ledger.begin(topic.id, topic.name, stamped=topic.framing is Framing.EVENT)
        await self._slow.change(put=topics)
        self._past.begin_anew(*(topic.id for topic in topics))


@dataclass(frozen=True, slots=True)
class _Plan:
    """``config``: what the file says. ``changed``: topics that are new or other than they were.

    ``clients``: all there are then. ``adopted``, ``adopted_clients``: topics and clients that were made at
    run time and stand in the file now.
    """

    config: BrokerConfig
    clients: tuple[ClientConfig, ...]
    adopted_clients: tuple[ClientConfig, ...]
    found: Difference
    changed: tuple[TopicConfig, ...]
    adopted: tuple[TopicConfig, ...]


def unstamped(config: BrokerConfig) -> set[int]:
    """The topics whose datagrams carry no epoch."""
    return {entry.topic.id for entry in config.topics if entry.topic.framing is not Framing.EVENT}
