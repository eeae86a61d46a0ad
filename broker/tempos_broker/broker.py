"""The broker: brings the sans-IO parts, the sockets and the fast path together.

Every change of membership becomes one new route of the next epoch, swapped first in the kernel, then
in the slow path; only then is the one who asked answered. Swaps of one topic happen one after the
other; swapping in the kernel waits for a grace period and never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from tempos import (
    ConfigError,
    Framing,
    Group,
    Path,
    PathChoice,
    PathPolicy,
    Route,
    Topic,
    Unavailable,
    __version__,
)
from tempos.control import Code
from tempos_broker.config.model import BrokerConfig
from tempos_broker.continuity import Continuity
from tempos_broker.control import ControlServer, Decision
from tempos_broker.ledger import Holder, Ledger
from tempos_broker.membership import Refused, Registry
from tempos_broker.paths import FastPath
from tempos_broker.reload import Difference, difference
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.state import TopicState
from tempos_broker.status import ledger_document, status_document
from tempos_broker.store import CountedTickets, Store
from tempos_broker.worker.slowpaths import SlowPaths

log = logging.getLogger("tempos.broker")

#: Bytes asked of the kernel for control datagrams that wait: what a thousand members send at once.
CONTROL_BUFFER = 1 << 20
#: Seconds between two looks at what a draining member has confirmed.
DRAIN_LOOK = 0.02


class Broker:
    """A running broker. ``fast`` is a started fast path or a stand-in; the broker closes it.

    ``portable`` keeps the slow path to asyncio's own datagram transport. ``store`` keeps what is to
    survive this process; ``drawn`` counts what the slow path draws, where it does. The broker closes both.
    """

    def __init__(
        self,
        config: BrokerConfig,
        fast: FastPath,
        *,
        portable: bool = False,
        store: Store | None = None,
        drawn: CountedTickets | None = None,
    ) -> None:
        self.config = config
        self._fast = fast
        self._saver: asyncio.Task[None] | None = None
        self._registry = Registry(config, is_local_address)
        self._ledger = Ledger(_unstamped(config))
        self._states = {entry.topic.id: TopicState(Route(entry.topic, 0, ())) for entry in config.topics}
        self._locks = {topic: asyncio.Lock() for topic in self._states}
        self._reloading = asyncio.Lock()
        self._past = Continuity(store, fast, drawn, self._registry, self._ledger, self._states)
        topics = [entry.topic for entry in config.topics]
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
        )
        self._slow = SlowPaths(
            server,
            topics=topics,
            quality=config.quality,
            limits=config.limits,
            tickets=self._past.tickets,
            rates=fast.limits,
        )
        self._past.slow_counters = self._slow.counters
        self._past.slow_lost = self._slow.lost
        self._control = ControlServer(
            self._registry,
            self._ledger,
            config.control,
            name=f"tempos {__version__} on {socket.gethostname()}",
            instance=self._past.instance,
            epoch=lambda topic: self._states[topic].route.epoch,
        )
        #: Requests that the control API turned away at the door, by reason.
        self.api_refused: Counter[str] = Counter()
        self._sockets: list[asyncio.DatagramTransport] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        self._ready = False

    @property
    def instance(self) -> int:
        """What tells this broker from others; a broker that goes on with a former life has its number."""
        return self._past.instance

    async def __aenter__(self) -> Broker:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind every socket and put every topic's first route in place; raises :class:`Unavailable`."""
        loop = asyncio.get_running_loop()
        await self._fast.configure([state.route.topic for state in self._states.values()])
        for topic in self._states:
            await self._resume(topic)
        self._fast.on_change(self._facts_changed)
        self._past.resume_drains()
        await self._past.begin()
        self._saver = loop.create_task(self._past.keep_saving(), name="save the state")
        await self._slow.start()
        for ip in self.config.listen:
            where = (ip, self.config.control_port)
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _ControlSocket(self._control_datagram), local_addr=where
                )
            except OSError as error:
                raise Unavailable(
                    f"cannot listen on {ip}:{where[1]}/udp for control: {error.strerror or error}; "
                    "set broker.control_port to a free one"
                ) from error
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CONTROL_BUFFER)
            self._sockets.append(transport)
        # An interval and a half from now on: who sends in time must not be late only because we were away.
        self._registry.spare(time.monotonic() + self.config.control.heartbeat * 1.5)
        # Last, for it takes as long as starting Python does, and all is served meanwhile.
        await self._slow.start_worker()
        self._schedule_expiry()
        self._ready = True

    async def close(self) -> None:
        """Stop serving and release everything; safe after a start that failed half-way."""
        self._ready = False
        if self._expiry is not None:
            self._expiry.cancel()
        for transport in self._sockets:
            transport.close()
        for task in self._tasks:
            task.cancel()
        if self._saver is not None:
            self._saver.cancel()
            self._tasks.add(self._saver)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._slow.close()
        if self._saver is not None:
            # What the kernel's program still counts after this would be in no account.
            await asyncio.gather(*(self._fast.withdraw(topic) for topic in self._states))
            await self._past.save(list(self._states))
        await self._fast.close()
        await self._past.close()

    def describe(self) -> str:
        """One line for the log: what serves where, and why no faster path does."""
        fast, slow = self._fast.status(), self._slow.status()
        interfaces = ", ".join(entry.name for entry in fast.interfaces if entry.mode != "none")
        where = f"{fast.mode} on {interfaces}" if interfaces else f"none ({fast.reason})"
        listen = ", ".join(f"{ip}:{self.config.data_port}" for ip in self.config.listen)
        worker = self._slow.worker()
        beside = f", SQ worker {worker['state']}" if self.config.quality.worker_sq else ""
        return (
            f"data {listen}; slow path {slow.io}{beside}; fast path {where}; "
            f"control {self.config.control_port}"
        )

    def status(self) -> dict[str, Any]:
        """Everything a person looks for first, as JSON values; the control API serves it as it is."""
        return status_document(
            broker={
                "version": __version__,
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 1),
                "name": self.config.name,
                "instance": self._past.instance,
                "ready": self._ready,
                "state": self._past.where,
            },
            slow=self._slow.status(),
            worker=self._slow.worker(),
            fast=self._fast.status(),
            control=self._control,
            api_refused=self.api_refused,
            registry=self._registry,
            ledger=self._ledger,
            drops=self._fast.drops(),
            latency=self._fast.latency([topic.id for topic in self._registry.topics]),
            states=self._states,
            counted=self._past.counted(),
            now=time.monotonic(),
        )

    def ledger(self) -> dict[str, Any]:
        """The account of every topic, as JSON values: :mod:`tempos_broker.ledger` says what adds up."""
        return ledger_document(
            registry=self._registry,
            ledger=self._ledger,
            states=self._states,
            counted=self._past.counted(),
            drops=self._fast.drops(),
        )

    # --- commands ---------------------------------------------------------------------------

    async def move(self, name: str, policy: PathPolicy) -> None:
        """Let a topic take another path, until the next start or reload says otherwise.

        Its epoch and tickets stay, so nothing is lost or doubled. What waits in the slow path when the
        fast one takes over is sent after what comes then: at most a queue's length out of order. Raises
        :class:`Refused` for an unknown topic.
        """
        topic = self._registry.topic(name)
        async with self._locks[topic.id]:
            state = self._states[topic.id]
            state.moved = None if policy is state.route.topic.policy else policy
            self._chosen(state, await self._install(state, state.route))

    async def remove(self, name: str, group: str, endpoint: tuple[str, int]) -> None:
        """Take a member with a lease out at once; raises :class:`Refused` if there is none."""
        topic = self._registry.topic(name)
        self._evict(topic, group, endpoint)
        await self._swap(topic.id)
        self._schedule_expiry()

    async def drain(
        self, name: str, group: str, endpoint: tuple[str, int], patience: float
    ) -> tuple[int, int]:
        """Take a member with a lease out, and wait until it has confirmed what was ticketed for it.

        At most ``patience`` seconds. Gives what was ticketed and what of it is confirmed; raises as
        :meth:`remove`.
        """
        topic = self._registry.topic(name)
        holder = self._evict(topic, group, endpoint)
        deadline = time.monotonic() + patience
        self._registry.drain_one(holder, topic.id, deadline)
        await self._swap(topic.id)
        self._schedule_expiry()
        account = self._ledger.account(topic.id, group, holder)
        while account is not None and account.outstanding and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_LOOK)
        ticketed = account.ticketed if account is not None else 0
        return ticketed, ticketed - (account.outstanding if account is not None else 0)

    def _evict(self, topic: Topic, group: str, endpoint: tuple[str, int]) -> Holder:
        holder = self._registry.evict(topic.id, group, endpoint)
        if holder is None:
            where = f"{endpoint[0]}:{endpoint[1]}"
            raise Refused(
                Code.UNKNOWN_MEMBER,
                f"{where} is no member with a lease in group {group!r} of {topic.name!r}",
                "static members are taken out of the configuration",
            )
        return holder

    async def reload(self, config: BrokerConfig) -> tuple[str, ...]:
        """Go by another configuration, whole or not at all; says what changed, a line each.

        Raises :class:`ConfigError`, and changes nothing, where it would need a restart or the fast path
        refuses.
        """
        async with self._reloading:
            found = difference(self.config, config)
            self._registry.check(config)
            concerned = sorted(found.gone | found.touched)
            for topic in concerned:
                self._locks.setdefault(topic, asyncio.Lock())
            async with contextlib.AsyncExitStack() as stack:
                for topic in concerned:
                    await stack.enter_async_context(self._locks[topic])
                try:
                    await self._fast.configure([entry.topic for entry in config.topics])
                except Unavailable as error:
                    raise ConfigError([f"the fast path refuses: {error}"]) from error
                await self._apply_config(config, found)
            for topic in sorted(found.touched):
                await self._swap(topic)
            self._schedule_expiry()
            for line in found.words:
                log.info("reload: %s", line)
            return found.words

    async def _apply_config(self, config: BrokerConfig, found: Difference) -> None:
        """The locks of all topics concerned are held."""
        described = {entry.topic.id: entry.topic for entry in config.topics}
        ending = [self._states[topic] for topic in sorted(found.gone)]
        self._registry.configure(config, found.gone)
        self._control.reconfigure(config.control)
        self.config = config
        for topic in found.touched - self._states.keys():
            self._states[topic] = self._begun(described[topic])
        for state in ending:
            # Off both paths before its id can mean something else.
            await self._replace(state, (), [])
            self._end(state.route, described.get(state.route.topic.id))
        await self._slow.configure(list(described.values()))
        self._ledger.configure(_unstamped(config))
        for topic in found.touched - found.gone:
            known = self._states[topic]
            if known.route.topic.policy is not described[topic].policy:
                known.moved = None
            known.route = replace(known.route, topic=described[topic])
            self._registry.touch(topic)
        await self._past.save_ended([state.route for state in ending])

    def _begun(self, topic: Topic) -> TopicState:
        """A topic that a reload brings; its id may have had epochs before."""
        return TopicState(Route(topic, self._past.epoch(topic.id), ()))

    def _end(self, route: Route, successor: Topic | None) -> None:
        """Forget a topic, but for its epoch: account and counters begin anew, should its id come back."""
        topic = route.topic.id
        self._past.ended(route)
        if successor is None:
            del self._states[topic]
            self._registry.forget(topic)
        else:
            self._states[topic] = self._begun(successor)

    # --- the former life --------------------------------------------------------------------

    async def _resume(self, topic: int) -> None:
        """Take up a topic where the former life left it, as far as that is known, and give it its route."""
        state, past = self._states[topic], self._past
        epoch = past.epoch(topic)
        adopted = self._fast.adopted().get(topic, 0)
        memory = past.recall(state.route.topic)
        if memory is not None:
            past.restore_members(topic, memory)
        known = self._ledger.open_epochs(topic)
        if memory is not None and past.continued and known and (not adopted or adopted in known):
            route, same = past.former_route(state.route.topic)
            self._chosen(state, await self._install(state, route))
            await self._slow.swap(route)
            state.route = route
            # A swap that was under way is finished by this.
            past.close_old(topic, route.epoch)
            past.recount(topic, memory)
            state.version = self._registry.version(topic) if same else 0
        else:
            if adopted:
                log.warning(
                    "topic %s: what the kernel's route rests on is lost; it is replaced", _name(state)
                )
                await self._fast.withdraw(topic)
            if memory is None:
                past.begin_anew(topic)
            else:
                past.cut(topic, memory)
                past.recount(topic, memory)
            state.route = Route(state.route.topic, epoch, ())
        await self._swap(topic)

    # --- routes -----------------------------------------------------------------------------

    async def _swap(self, topic: int, *, renew: bool = False) -> None:
        """Give the topic a route of its present groups, if they changed; ``renew`` installs it anyway."""
        lock = self._locks.get(topic)
        if lock is None:
            # Removed by a reload while this waited for its turn.
            return
        async with lock:
            state = self._states.get(topic)
            if state is None:
                return
            version = self._registry.version(topic)
            if version != state.version:
                await self._replace(state, self._registry.groups(topic), self._registry.holders(topic))
                state.version = version
            elif renew:
                self._chosen(state, await self._install(state, state.route))

    async def _replace(
        self,
        state: TopicState,
        groups: tuple[Group, ...],
        holders: Sequence[tuple[str, Sequence[Holder]]],
    ) -> None:
        """Swap the next epoch's route in on both paths; the topic's lock is held."""
        topic = state.route.topic.id
        route = Route(state.route.topic, state.route.epoch + 1, groups)
        self._past.tickets.reset(topic, route.epoch)
        now = time.monotonic()
        self._ledger.opened(topic, route.epoch, holders, now)
        # Known to the store before any packet can carry the new epoch: it never goes back.
        await self._past.save([topic])
        choice = await self._install(state, route)
        await self._slow.swap(route)
        # Both paths have let go of the old route: its tickets are final.
        self._past.close_old(topic, route.epoch)
        self._ledger.settle(now - self.config.control.lease)
        state.route = route
        self._chosen(state, choice)
        # The slot of the epoch after this one may be reset only once its old tickets are stored.
        await self._past.save([topic])
        log.info(
            "topic %s: epoch %d, %d groups, %d members",
            _name(state), route.epoch, len(groups), sum(len(group.members) for group in groups),
        )  # fmt: skip

    async def _install(self, state: TopicState, route: Route) -> PathChoice:
        if state.policy is PathPolicy.SLOW:
            # A route that was there before a move or a reload, or that a former life left.
            if (state.choice and state.choice.path is Path.FAST) or route.topic.id in self._fast.adopted():
                await self._fast.withdraw(route.topic.id)
            who = "a command" if state.moved else "the configuration"
            return PathChoice(Path.SLOW, f"{who} says path = slow")
        if not route.groups:
            await self._fast.withdraw(route.topic.id)
            return PathChoice(Path.SLOW, "the topic has no member")
        if state.moved is not None:
            route = replace(route, topic=replace(route.topic, policy=state.moved))
        return await self._fast.install(route)

    def _chosen(self, state: TopicState, choice: PathChoice) -> None:
        if choice != state.choice:
            wanted = state.policy is PathPolicy.FAST and state.route.groups
            level = logging.WARNING if wanted and choice.path is Path.SLOW else logging.INFO
            log.log(level, "topic %s: %s path: %s", _name(state), choice.path.value, choice.reason)
        state.choice = choice

    def _facts_changed(self) -> None:
        """The network changed: install every route anew, which may change the path."""
        for topic in list(self._states):
            self._spawn(self._swap(topic, renew=True), f"renew topic {topic}")

    # --- control ----------------------------------------------------------------------------

    def _control_datagram(
        self, datagram: bytes, address: tuple[str, int], reply: Callable[[bytes], None]
    ) -> None:
        decision = self._control.receive_datagram(datagram, address[0], time.monotonic())
        if decision is None:
            return
        if decision.changed:
            self._spawn(self._apply(decision, reply), "apply a control request")
        elif (answer := self._control.render(decision)) is not None:
            reply(answer)

    async def _apply(self, decision: Decision, reply: Callable[[bytes], None]) -> None:
        for topic in decision.changed:
            await self._swap(topic)
        self._schedule_expiry()
        if (answer := self._control.render(decision)) is not None:
            reply(answer)

    def _schedule_expiry(self) -> None:
        """Wake up when the earliest lease ends. Renewals only move it on, so waking early is harmless."""
        expiry = self._registry.next_expiry()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if expiry is not None:
            delay = max(0.0, expiry - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        for topic, members in self._registry.expire(time.monotonic()).items():
            for member in members:
                log.warning("topic %s: the lease of %s ended", _name(self._states[topic]), member)
            self._spawn(self._swap(topic), f"expire members of topic {topic}")
        self._schedule_expiry()

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("could not %s", task.get_name(), exc_info=error)


def _unstamped(config: BrokerConfig) -> set[int]:
    """The topics whose datagrams carry no epoch."""
    return {entry.topic.id for entry in config.topics if entry.topic.framing is Framing.RAW}


def is_local_address(ip: str) -> bool:
    """Whether a socket of this node can have this address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
        return True


class _ControlSocket(asyncio.DatagramProtocol):
    """Hands control datagrams on, with a way to answer them."""

    def __init__(self, receive: Callable[[bytes, tuple[str, int], Callable[[bytes], None]], None]) -> None:
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        def reply(datagram: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(datagram, addr)

        self._receive(data, addr, reply)

    def error_received(self, exc: Exception) -> None:
        # An ICMP error about an earlier reply: the client is gone, its lease will end.
        log.debug("control socket: %s", exc)


def _name(state: TopicState) -> str:
    topic: Topic = state.route.topic
    return f"{topic.name} ({topic.id})"
