"""The broker's life: brings the sans-IO parts, the sockets and the fast path together, starts and stops them.

What it does while it lives is done by its parts: :mod:`.routes` swaps, :mod:`.control.port` hears members,
:mod:`.orders` an operator, :mod:`.reloader` another configuration, :mod:`.expiry` the clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tempos import PathPolicy, Route, __version__
from tempos._rows import Rows
from tempos.control import RETRY_AFTER, Code
from tempos.requests.probe import since_start
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.account.pace import Pace
from tempos_broker.addresses import is_local_address, source_of
from tempos_broker.awaited import Awaited, missing
from tempos_broker.clients.catalogue import Clients
from tempos_broker.clients.catalogue import merged as merged_clients
from tempos_broker.clients.former import former_clients
from tempos_broker.clients.orders import ClientOrders
from tempos_broker.config.model import BrokerConfig
from tempos_broker.control.hearing import Hearing
from tempos_broker.control.port import ControlPort
from tempos_broker.control.proofs import Proofs
from tempos_broker.control.server import ControlServer
from tempos_broker.documents import Documents
from tempos_broker.expiry import Expiry
from tempos_broker.fleet.clients import SharedClients
from tempos_broker.fleet.desk import Desk as FleetDesk
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import Registry as FleetRegistry
from tempos_broker.fleet.stores import row_of
from tempos_broker.fleet.topics import SharedTopics
from tempos_broker.journal.journals import Journals
from tempos_broker.journal.replay import Replays
from tempos_broker.lives.continuity import Continuity
from tempos_broker.lives.store import Store
from tempos_broker.members.departures import KeptOut
from tempos_broker.members.health import Health
from tempos_broker.members.narrow import Narrowest
from tempos_broker.members.watch import Neighbours, Watch
from tempos_broker.membership import Refused, Registry
from tempos_broker.orders import Drained, KeepOut, Orders
from tempos_broker.paths import Elsewhere, FastPath, NoFastPath
from tempos_broker.redelivery.desk import OWED, Redelivery
from tempos_broker.reloader import SHUT, Reloader, unstamped
from tempos_broker.repair.desk import Desk
from tempos_broker.resend.desk import Desk as Resends
from tempos_broker.routes import Routes
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.measures import Measures
from tempos_broker.slowpath.returns import Returns
from tempos_broker.slowpath.sockets import absent
from tempos_broker.state import TopicState
from tempos_broker.tasks import Tasks
from tempos_broker.tickets import CountedTickets
from tempos_broker.topics.catalogue import Catalogue, check_count, merged
from tempos_broker.topics.former import former_topics
from tempos_broker.topics.locks import Gate
from tempos_broker.topics.orders import Removed, TopicOrders
from tempos_broker.worker.slowpaths import SlowPaths
from tempos_daemon.schema import count

#: Seconds that changes of membership under way have to be in force when the broker is closed, and accounts
#: to be written.
FINISH, SAVE = 0.5, 1.5


class Broker:
    """A running broker. ``fast`` is a prepared fast path or a stand-in; the broker closes it.

    ``portable`` keeps the slow path to asyncio's own datagram transport. ``store`` keeps what is to
    survive this process; ``drawn`` counts what the slow path draws, where it does. The broker closes both.
    ``elsewhere``: where else the counters of the former life may be. ``rows``: where topics stand in all of
    these; None: in none that outlives the broker. ``neighbours``: knows who is next on the way to members.
    ``registry``: of the fleet, if it is in one.
    """

    def __init__(
        self,
        config: BrokerConfig,
        fast: FastPath,
        *,
        portable: bool = False,
        store: Store | None = None,
        drawn: CountedTickets | None = None,
        elsewhere: Sequence[Elsewhere] = (),
        rows: Rows | None = None,
        neighbours: Neighbours | None = None,
        registry: FleetRegistry | None = None,
    ) -> None:
        self._fast = fast
        #: What the log tells of changes, kept.
        self.changes = Changes()
        self._saver: asyncio.Task[None] | None = None
        made = former_topics(store, config)
        catalogue = Catalogue(merged(config, made))
        keys, demanded = former_clients(store)
        self._clients = Clients(
            merged_clients(config.control.clients, keys),
            demanded=demanded,
            shared="keys" in config.fleet.share,
        )
        control = self._clients.whole(config.control)
        of_file, config = config, replace(config, topics=tuple(catalogue), control=control)
        check_count(config)
        source = source_of(config.listen)
        self._awaited = Awaited(self._missing, self.changes)
        self._registry = Registry(config, is_local_address, source)
        self._ledger = Ledger(unstamped(config))
        self._rows = Rows(config.limits.topics) if rows is None else rows
        states = {entry.topic.id: TopicState(Route(entry.topic, 0, ())) for entry in config.topics}
        self._past = Continuity(
            store, fast, drawn, self._registry, self._ledger, states, elsewhere,
            rows=self._rows, data_port=config.data_port,
        )  # fmt: skip
        topics = [entry.topic for entry in config.topics]
        returns = Returns(self._past.return_key, config.data_port)
        journals = Journals(fast.journals)
        server = SlowPathServer(
            topics=topics,
            listen=config.listen,
            port=config.data_port,
            limits=config.limits,
            tickets=self._past.tickets,
            portable=portable,
            quality=config.quality,
            rates=fast.limits,
            select=fast.select,
            adapter=config.adapter,
            returns=returns,
            journals=journals,
            measures=Measures(self._rows, timed=config.quality.latency),
        )
        self._slow = SlowPaths(
            server,
            topics=topics,
            quality=config.quality,
            limits=config.limits,
            tickets=self._past.tickets,
            rates=fast.limits,
            returns=returns,
            rows=self._rows,
            changes=self.changes,
            journals=journals,
        )
        self._past.counting.slow_counters = self._slow.counters
        self._past.counting.slow_lost = self._slow.lost
        self._past.counting.slow_under_way = self._slow.under_way
        self._repairs = Desk(self._registry, journals, self._past.counting.drawn_of, self._slow.say)
        self._resends = Resends(
            self._registry,
            journals,
            self._past.counting.drawn_of,
            route=lambda topic: states[topic].route if topic in states else None,
            forward=self._slow.send_now,
            is_waiting=self._slow.is_waiting,
            when=lambda since: self._control.when(since),
            book=lambda publisher, topic, repaired, given_up, now: self._ledger.resent(
                publisher, topic, repaired=repaired, given_up=given_up, now=now
            ),
        )
        self._repairs.publishers = self._resends
        life = random.getrandbits(32)
        self._redelivery = Redelivery(
            self._registry,
            self._ledger,
            journals,
            self._past.counting.drawn_of,
            self._slow.say,
            self._past.keeper.put,
            instance=self._past.instance,
            life=life,
            changes=self.changes,
            is_off=registry is not None,
        )
        self._routes = Routes(
            states,
            self._registry,
            self._ledger,
            self._past,
            fast,
            self._slow,
            config.control.lease,
            Pace(config.control.heartbeat),
            self.changes,
            self._repairs,
            self._redelivery,
        )
        self.fleet = (
            None
            if registry is None
            else Fleet(
                config.fleet, row_of(config, self._past.instance), registry, self._registry, self._routes,
                self.changes, self._past.counting.total,
            )
        )  # fmt: skip
        narrowest = Narrowest(config.limits.datagram)
        self._control = ControlServer(
            self._registry,
            self._ledger,
            config.control,
            name=f"tempos {__version__} on {socket.gethostname()}",
            instance=self._past.instance,
            life=life,
            epoch=self._routes.epoch,
            largest=lambda topic: narrowest.largest(
                (one for group in states[topic].route.groups for one in group.members if not one.is_nobody),
                self._watch.absent,
            ),
            single=lambda: fast.status().mode == "generic",
            proofs=Proofs(data_port=config.data_port),
            returns=lambda ip, port, asked: returns.grant(ip, port, source(ip, asked), since_start()),
            changes=self.changes,
            more={
                "replay": Replays(self._registry, journals, self._past.instance).request,
                "repair": self._repairs.request,
                "confirm": self._resends.request,
                "redeliver": self._redelivery.request,
            },
            fleet=FleetDesk(self._registry, self.fleet),
        )
        self._control.reports.on_repairs = self._repairs.heard
        self._ledger.orphans = self._redelivery.accounts
        journals.aside = self._redelivery.aside
        self._tasks = Tasks()
        self._expiry = Expiry(self._registry, self._ledger, self._routes, self._tasks)
        self._port = ControlPort(
            self._control, self._routes, self._expiry, self._tasks, self._slow.say, self.fleet, self._resends
        )
        self._expiry.hearing = Hearing(self._port.has_heard)
        self._redelivery.hearing = Hearing(self._port.has_heard)
        self._watch = Watch(
            neighbours,
            self._routes,
            self._slow,
            fast,
            lambda: self._routes.renew_all(self._tasks),
            self.changes,
        )
        self._health = Health(
            self._registry,
            self._routes,
            self._tasks,
            lambda: self._watch.absent,
            self.changes,
            config.data_port,
        )
        self._watch.also = self._health.towards
        self._orders = Orders(self._registry, self._ledger, self._routes, self._expiry, self._past)
        gate = Gate()
        self._topic_orders: TopicOrders | SharedTopics = TopicOrders(
            catalogue,
            gate,
            lambda: self.config,
            registry=self._registry,
            ledger=self._ledger,
            routes=self._routes,
            past=self._past,
            fast=fast,
            slow=self._slow,
            rows=self._rows,
            account=self.topic_ledger,
        )
        if self.fleet is not None and registry is not None and "topics" in config.fleet.share:
            self._topic_orders = SharedTopics(
                self._topic_orders, catalogue, self.fleet, registry, self.changes
            )
        self._client_orders: ClientOrders | SharedClients = ClientOrders(
            self._clients,
            gate,
            registry=self._registry,
            control=self._control,
            past=self._past,
            changes=self.changes,
        )
        if self.fleet is not None and registry is not None and "keys" in config.fleet.share:
            self._client_orders = SharedClients(
                self._client_orders, self._clients, self.fleet, registry, self.changes
            )
        #: What this broker tells of itself.
        self.documents = Documents(
            config=lambda: self.config,
            ready=lambda: self._ready,
            states=states,
            catalogue=catalogue,
            registry=self._registry,
            ledger=self._ledger,
            control=self._control,
            past=self._past,
            fast=fast,
            slow=self._slow,
            watch=self._watch,
            health=self._health,
            awaited=self._awaited,
            changes=self.changes,
            clients=self._clients,
            fleet=self.fleet,
        )
        self._reloader = Reloader(
            of_file,
            catalogue,
            self._clients,
            gate,
            registry=self._registry,
            ledger=self._ledger,
            control=self._control,
            routes=self._routes,
            past=self._past,
            fast=fast,
            slow=self._slow,
            expiry=self._expiry,
            rows=self._rows,
        )
        self._adopted = [entry.topic for entry in made if catalogue.named(entry.topic.name) is not entry]
        self._adopted_keys = [each for each in keys if self._clients.named(each.id) is not each]
        self._ready = self._stands = False
        #: What a signal said about the fast path, over what the configuration says.
        self._keep: bool | None = None

    @property
    def config(self) -> BrokerConfig:
        """What the file says that the broker goes by now; beside it stand topics made at run time."""
        return self._reloader.config

    @property
    def instance(self) -> int:
        """What tells this broker from others; a broker that goes on with a former life has its number."""
        return self._past.instance

    @property
    def ready(self) -> bool:
        """Whether every socket is bound and every topic has a route."""
        return self._ready

    @property
    def has_fast_path(self) -> bool:
        """Whether there is one, whatever it carries."""
        return not isinstance(self._fast, NoFastPath)

    async def __aenter__(self) -> Broker:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        self.stand()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind every socket and put every topic's first route in place; raises :class:`Unavailable`.

        First all that may fail; only then what an earlier broker left is taken over, for it forwards on as
        long as there is nobody in its place.
        """
        states = self._routes.states
        await self._slow.open()
        self._awaited.look()
        self._port.open(self.config.listen, self.config.control_port)
        await self._fast.take_over()
        self._past.take_up()
        await self._past.take_rows(self._fast.rows())
        await self._fast.configure([state.route.topic for state in states.values()])
        self._slow.journals.change((), [state.route.topic for state in states.values()])
        await self._slow.journals.settle()
        self._redelivery.restore(self._past.stored(OWED), [state.route.topic for state in states.values()])
        await self._routes.resume_all()
        self._tell_start()
        self._fast.on_change(lambda: self._routes.renew_all(self._tasks))
        self._fast.on_change(self._watch.look_anew)
        self._past.resume_drains()
        # Also in what is stored: the next life may begin before this one hears anybody.
        self._spare()
        await self._past.begin()
        await self._reloader.adopt(self._adopted, self._adopted_keys)
        saving = self._past.keeper.keep_saving()
        self._saver = asyncio.get_running_loop().create_task(saving, name="save the state")
        await self._slow.start()
        self._port.serve()
        self._spare()
        # Last, for it takes as long as starting Python does, and all is served meanwhile.
        await self._slow.start_worker()
        self._expiry.schedule()
        self._watch.begin()
        self._health.begin()
        self._awaited.look()
        self._awaited.begin()
        self._redelivery.begin()
        self._ready = True
        if self.fleet is not None:
            self.fleet.begin()

    def _tell_start(self) -> None:
        states = self._routes.states.values()
        members = sum(len(group.members) for state in states for group in state.route.groups)
        how = "goes on with the former one's" if self._past.continued else "begins anew"
        what = f"{count(len(states), 'topic')}, {count(members, 'member')}"
        self.changes.tell(Kind.START, f"broker {self.config.name!r} started, {what}; its account {how}")
        self._routes.telling = True
        if self._clients.shut:
            self.changes.tell(Kind.CLIENT, SHUT, level=logging.WARNING)

    def _spare(self) -> None:
        """Let nobody be late only because we were away.

        Who got no answer meanwhile asks again after a while of its own.
        """
        interval = max(self.config.control.heartbeat, RETRY_AFTER[-1])
        self._registry.spare(time.monotonic() + interval * 1.5)

    async def close(self) -> None:
        """Stop serving and release everything; safe after a start that failed half-way.

        What the kernel forwards it forwards on, as after a kill, if it is to be kept for the next broker, or
        if it is an earlier one's and this one never stood. Otherwise it is withdrawn first, so that what
        comes until nothing is let in any more comes up and is served, too.
        """
        keep = self._keeps
        self._ready = False
        self._expiry.cancel()
        self._control.stopping = True
        self._repairs.close()
        self._resends.close()
        if self.fleet is not None:
            await self.fleet.close()
        self._redelivery.close()
        await self._health.close()
        await self._watch.close()
        await self._awaited.close()
        await self._tasks.close(FINISH)
        # What has just ended may have waited for the next lease.
        self._expiry.cancel()
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.gather(self._saver, return_exceptions=True)
            if not keep:
                await self._fast.withdraw_all()
        await self._slow.close()
        self._port.close()
        if self._saver is not None:
            await self._redelivery.save_rest()
            await self._past.keeper.save_rest(SAVE)
        await self._fast.close(keep=keep)
        await self._past.keeper.close()

    @property
    def _keeps(self) -> bool:
        if not self._stands:
            return self._fast.inherited
        wanted = self._keep
        if wanted is None:
            # Where nobody is a member of anything there is nothing to hand over, and nothing to be in the way
            # of brokers of other names.
            has_members = any(state.route.groups for state in self._routes.states.values())
            wanted = self.config.fastpath.on_stop == "keep" and has_members
        return wanted and self._fast.outlives

    def kept(self) -> tuple[str, ...] | None:
        """The topics that the kernel forwards on when the broker is closed now, by name.

        None: nothing stays there. The fast path may as well stay without carrying any.
        """
        if not self._keeps:
            return None
        return self.documents.on_fast_path()

    def describe(self) -> str:
        """One line for the log: what serves where, and why no faster path does."""
        fast, slow = self._fast.status(), self._slow.status()
        interfaces = ", ".join(entry.name for entry in fast.interfaces if entry.mode != "none")
        where = f"{fast.mode} on {interfaces}" if interfaces else f"none ({fast.reason})"
        listen = ", ".join(f"{ip}:{self.config.data_port}" for ip in self.config.listen)
        worker = self._slow.worker()
        io = f"{slow.io} ({slow.reason})" if slow.io == "portable" else slow.io
        beside = f", SQ worker {worker['state']}" if self.config.quality.worker_sq else ""
        control = f"control {self.config.control_port}{self._awaited.words()}"
        return f"data {listen}; slow path {io}{beside}; fast path {where}; {control}"

    def _missing(self) -> dict[str, str]:
        """What the configuration names and this machine does not have."""
        listen, fast = self.config.listen, self.config.fastpath
        interfaces = fast.interfaces if fast.mode != "off" else ()
        here = [name for _, name in socket.if_nameindex()] if interfaces else []
        api = (self.config.api_host,) if self.config.api_port else ()

        def hint(address: str) -> str:
            return absent(address, "listen" if address in listen else "api")

        return missing(dict.fromkeys((*listen, *api)), interfaces, here, hint)

    def status(self) -> dict[str, Any]:
        """See :meth:`Documents.status`."""
        return self.documents.status()

    def topic(self, name: str) -> dict[str, Any]:
        """See :meth:`Documents.topic`."""
        return self.documents.topic(name)

    def topic_ledger(self, name: str) -> dict[str, Any]:
        """See :meth:`Documents.topic_ledger`."""
        return self.documents.topic_ledger(name)

    def ledger(self) -> dict[str, Any]:
        """See :meth:`Documents.ledger`."""
        return self.documents.ledger()

    def stand(self) -> None:
        """All that belongs to it is in place: until then whatever ends it takes no fast path down."""
        self._stands = True

    def about_to_close(self, *, keep: bool | None = None) -> None:
        """Let go of those who wait for others.

        ``keep``: whether what the kernel forwards is to go on without this broker; None: as it is configured.
        """
        self._keep = keep
        self._orders.stop_waiting()
        self._topic_orders.stop_waiting()

    # --- commands ---------------------------------------------------------------------------

    async def move(self, name: str, policy: PathPolicy) -> None:
        """See :meth:`Orders.move`."""
        await self._orders.move(name, policy)

    async def remove(
        self, name: str, group: str, endpoint: tuple[str, int], keep_out: KeepOut | None = None
    ) -> KeptOut | None:
        """See :meth:`Orders.remove`."""
        return await self._orders.remove(name, group, endpoint, keep_out)

    async def fleet_drain(self, name: str, *, on: bool) -> None:
        """Take a broker of the fleet out of service, or back in; raises :class:`Refused`."""
        if self.fleet is None:
            raise Refused(Code.UNKNOWN_MEMBER, "this broker is in no fleet", "[fleet] in its configuration")
        await self.fleet.drains.order(name, on=on)

    async def let_in(self, name: str, group: str, endpoint: tuple[str, int]) -> None:
        """See :meth:`Orders.let_in`."""
        await self._orders.let_in(name, group, endpoint)

    async def drain(
        self,
        name: str,
        group: str,
        endpoint: tuple[str, int],
        patience: float,
        keep_out: KeepOut | None = None,
    ) -> Drained:
        """See :meth:`Orders.drain`."""
        return await self._orders.drain(name, group, endpoint, patience, keep_out)

    async def add_topic(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`TopicOrders.add`; gives the topic as :meth:`topic` does."""
        return self.topic((await self._topic_orders.add(document)).name)

    async def set_topic(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`TopicOrders.set`; gives the topic as :meth:`topic` does."""
        return self.topic((await self._topic_orders.set(name, changes)).name)

    async def remove_topic(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed:
        """See :meth:`TopicOrders.remove`."""
        return await self._topic_orders.remove(name, drain=drain, patience=patience)

    async def add_client(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`ClientOrders.add`; gives the client as :meth:`Documents.client` does."""
        return self.documents.client(await self._client_orders.add(document))

    async def set_client(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`ClientOrders.set`; gives the client as :meth:`Documents.client` does."""
        return self.documents.client(await self._client_orders.set(name, changes))

    async def remove_client(self, name: str) -> int:
        """See :meth:`ClientOrders.remove`; how many are left."""
        await self._client_orders.remove(name)
        return len(self._clients)

    async def demand_signatures(self, *, signatures: bool) -> None:
        """See :meth:`ClientOrders.demand`."""
        await self._client_orders.demand(signatures=signatures)

    async def reload(self, config: BrokerConfig) -> tuple[str, ...]:
        """See :meth:`Reloader.apply`."""
        words = await self._reloader.apply(config)
        if self.fleet is not None:
            self.fleet.look_over()
        return words
