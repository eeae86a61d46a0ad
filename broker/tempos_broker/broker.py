"""The broker: brings the sans-IO parts, the sockets and the fast path together.

Every change of membership becomes one new route of the next epoch, swapped first in the kernel, then
in the slow path; only then is the one who asked answered. Swaps of one topic happen one after the
other; swapping in the kernel waits for a grace period and never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from tempos import Path, PathChoice, PathPolicy, Reason, Route, Topic, Unavailable, __version__
from tempos_broker.config.model import BrokerConfig
from tempos_broker.control import ControlServer, new_instance
from tempos_broker.ledger import Ledger
from tempos_broker.membership import Registry
from tempos_broker.paths import FastPath
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.status import Drawn, TopicState, status_document

log = logging.getLogger("tempos.broker")

#: Bytes asked of the kernel for control datagrams that wait: what a thousand members send at once.
CONTROL_BUFFER = 1 << 20


class Broker:
    """A running broker. ``fast`` is a started fast path or a stand-in; the broker closes it.

    ``portable`` keeps the slow path to asyncio's own datagram transport.
    """

    def __init__(self, config: BrokerConfig, fast: FastPath, *, portable: bool = False) -> None:
        self.config = config
        self.instance = new_instance()
        self._fast = fast
        self._registry = Registry(config, is_local_address)
        self._ledger = Ledger()
        self._states = {entry.topic.id: TopicState(Route(entry.topic, 0, ())) for entry in config.topics}
        self._locks = {topic: asyncio.Lock() for topic in self._states}
        self._slow = SlowPathServer(
            topics=[entry.topic for entry in config.topics],
            listen=config.listen,
            port=config.data_port,
            limits=config.limits,
            tickets=fast.tickets,
            portable=portable,
        )
        self._control = ControlServer(
            self._registry,
            self._ledger,
            config.control,
            name=f"tempos {__version__} on {socket.gethostname()}",
            instance=self.instance,
            epoch=lambda topic: self._states[topic].route.epoch,
        )
        self._sockets: list[asyncio.DatagramTransport] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        self._ready = False

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
        self._fast.on_change(self._facts_changed)
        for topic in self._states:
            await self._swap(topic)
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
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._slow.close()
        await self._fast.close()

    def describe(self) -> str:
        """One line for the log: what serves where, and why no faster path does."""
        fast, slow = self._fast.status(), self._slow.status()
        interfaces = ", ".join(entry.name for entry in fast.interfaces if entry.mode != "none")
        where = f"{fast.mode} on {interfaces}" if interfaces else f"none ({fast.reason})"
        listen = ", ".join(f"{ip}:{self.config.data_port}" for ip in self.config.listen)
        return f"data {listen}; slow path {slow.io}; fast path {where}; control {self.config.control_port}"

    def status(self) -> dict[str, Any]:
        """Everything a person looks for first, as JSON values; the control API serves it as it is."""
        before = self._fast.counters()
        tickets = {topic: self._drawn(state.route) for topic, state in self._states.items()}
        after = self._fast.counters()
        return status_document(
            broker={
                "version": __version__,
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 1),
                "instance": self.instance,
                "ready": self._ready,
            },
            slow=self._slow.status(),
            slow_counters=self._slow.counters(),
            fast=self._fast.status(),
            fast_counters=after,
            control=self._control,
            registry=self._registry,
            ledger=self._ledger,
            states=self._states,
            drawn={
                topic: Drawn(drawn, _passing(before.get(topic, {}), after.get(topic, {})))
                for topic, drawn in tickets.items()
            },
            now=time.monotonic(),
        )

    # --- routes -----------------------------------------------------------------------------

    async def _swap(self, topic: int, *, renew: bool = False) -> None:
        """Give the topic a route of its present groups, if they changed; ``renew`` installs it anyway."""
        async with self._locks[topic]:
            state = self._states[topic]
            version, groups = self._registry.version(topic), self._registry.groups(topic)
            if version == state.version:
                if renew:
                    self._chosen(state, await self._install(state.route))
                return
            holders = self._registry.holders(topic)
            old = state.route
            route = Route(old.topic, old.epoch + 1, groups)
            self._fast.tickets.reset(topic, route.epoch)
            choice = await self._install(route)
            self._slow.swap(route)
            # Both paths have let go of the old route: its tickets are final.
            now = time.monotonic()
            self._ledger.opened(topic, route.epoch, holders, now)
            if old.epoch:
                self._ledger.closed(topic, old.epoch, self._drawn(old))
            self._ledger.settle(now - self.config.control.lease)
            state.route, state.version = route, version
            self._chosen(state, choice)
            log.info(
                "topic %s: epoch %d, %d groups, %d members",
                _name(state), route.epoch, len(groups), sum(len(group.members) for group in groups),
            )  # fmt: skip

    def _drawn(self, route: Route) -> list[int]:
        """Tickets drawn so far from each group of a route."""
        read = self._fast.tickets.read
        return [read(route.topic.id, route.epoch, index) for index in range(len(route.groups))]

    async def _install(self, route: Route) -> PathChoice:
        if route.topic.policy is PathPolicy.SLOW:
            return PathChoice(Path.SLOW, "the configuration says path = slow")
        if not route.groups:
            await self._fast.withdraw(route.topic.id)
            return PathChoice(Path.SLOW, "the topic has no member")
        return await self._fast.install(route)

    def _chosen(self, state: TopicState, choice: PathChoice) -> None:
        if choice != state.choice:
            wanted = state.route.topic.policy is PathPolicy.FAST and state.route.groups
            level = logging.WARNING if wanted and choice.path is Path.SLOW else logging.INFO
            log.log(level, "topic %s: %s path: %s", _name(state), choice.path.value, choice.reason)
        state.choice = choice

    def _facts_changed(self) -> None:
        """The network changed: install every route anew, which may change the path."""
        for topic in self._states:
            self._spawn(self._swap(topic, renew=True), f"renew topic {topic}")

    # --- control ----------------------------------------------------------------------------

    def _control_datagram(
        self, datagram: bytes, address: tuple[str, int], reply: Callable[[bytes], None]
    ) -> None:
        outcome = self._control.receive_datagram(datagram, address[0], time.monotonic())
        if outcome is None:
            return
        if outcome.changed:
            self._spawn(self._apply(outcome.changed, outcome.finish, reply), "apply a control request")
        elif (answer := outcome.finish()) is not None:
            reply(answer)

    async def _apply(
        self, changed: frozenset[int], finish: Callable[[], bytes | None], reply: Callable[[bytes], None]
    ) -> None:
        for topic in changed:
            await self._swap(topic)
        self._schedule_expiry()
        if (answer := finish()) is not None:
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


def _passing(before: Mapping[Reason, int], after: Mapping[Reason, int]) -> int:
    """How many events may have passed between reading counters twice, and tickets in between."""
    passed = sum(after.values()) - sum(before.values())
    # An event in the middle of its way has drawn its ticket and is not counted yet: one per CPU.
    return passed + (os.cpu_count() or 1) if passed else 0


def _name(state: TopicState) -> str:
    topic: Topic = state.route.topic
    return f"{topic.name} ({topic.id})"
