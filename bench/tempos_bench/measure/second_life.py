"""A world in which one broker follows another: who lives through it, and what each of them got.

Everything that is random about a round comes from its seed, so that a seed tells the round again. What a
round must show is in :mod:`tempos_bench.suite.lives`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tempos
from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Subscriber
from tempos._places import SYSTEM, quote
from tempos.wire import encode_event
from tempos_bench.nodes.disk import SmallDisk
from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Program, ProgramFailed
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology

#: Seconds that anything may take.
LIMIT = 20.0
LOOK_EVERY = 0.02
#: Seconds between two heartbeats, and until a silent member is none any more.
HEARTBEAT, LEASE = 0.25, 1.0
#: Seconds between two events of each topic while one broker follows the other.
BEAT = 0.002
#: Topic by its name: id, class, framing.
TOPICS = {"events": (1, "SQ", "event"), "logs": (2, "BQ", "event"), "plain": (3, "BQ", "raw")}
#: A state without a file's name: in the folder of the broker's name.
USUAL = "usual"
_PUBLISHER = 9
_RECEIVE_BUFFER = 4 << 20


@dataclass(frozen=True, slots=True)
class Life:
    """How a broker is configured: each field is a key of its configuration, or several.

    ``topics``: name to policy. ``state``: a file's name, the usual place, or off. ``api``: a port.
    """

    topics: Mapping[str, str]
    mode: str = "auto"
    pin: bool = True
    one_interface: bool = False
    state: str = USUAL
    api: int = API_PORT
    on_stop: str = "keep"
    user: str = ""

    def __str__(self) -> str:
        plain = Life(self.topics)
        others = (
            f"{each.name} {getattr(self, each.name)}" for each in fields(self)
            if getattr(self, each.name) != getattr(plain, each.name)
        )  # fmt: skip
        return f"{', '.join(f'{name} {policy}' for name, policy in self.topics.items())}; {', '.join(others)}"

    def text(self, name: str, topology: Topology, folder: str) -> str:
        """As the file that a broker reads."""
        interfaces = topology.broker.interfaces[-1:] if self.one_interface else topology.broker.interfaces
        # A file that is named belongs to whoever had it: nobody gives it to another user. The folder of the
        # broker's name, the usual place, is given to whoever comes.
        named = f"{folder}/{self.user or 'root'}-{self.state}"
        state = {"off": "off", USUAL: ""}.get(self.state, named)
        tables: list[tuple[str, dict[str, object]]] = [
            ("[broker]", {
                "name": name, "listen": list(topology.broker.addresses), "api": f"127.0.0.1:{self.api}",
                "user": self.user,
            }),
            ("[state]", {"file": state}),
            ("[control]", {"heartbeat": HEARTBEAT, "lease": LEASE}),
            ("[fastpath]", {
                "mode": self.mode, "pin": self.pin, "interfaces": list(interfaces), "on_stop": self.on_stop,
            }),
        ]  # fmt: skip
        for each, policy in self.topics.items():
            id_, quality, framing = TOPICS[each]
            topic = {"id": id_, "name": each, "class": quality, "framing": framing, "path": policy}
            tables.append(("[[topic]]", topic))
        lines = []
        for head, values in tables:
            lines += [head, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    def goes_on_as(self, after: Life) -> bool:
        """Whether the next life has this one's state."""
        same = after.state == self.state and self.state != "off"
        return same and (self.state == USUAL or after.user == self.user)

    def carries(self, topic: str, end: signal.Signals) -> bool:
        """Whether the kernel may carry this topic from here into the next life, after this end.

        With the members' interface alone it does not: that is not where the publisher's events come in.
        """
        kept = end in (signal.SIGKILL, signal.SIGUSR2) or (end is signal.SIGTERM and self.on_stop == "keep")
        return (
            kept
            and self.mode != "off"
            and self.pin
            and not self.one_interface
            and self.topics.get(topic, "slow") != "slow"
        )


def any_life(rng: random.Random, before: Life | None = None) -> Life:
    """A life as it may come; after another one it often differs in one thing only, as after an edit."""
    if before is not None and rng.random() < 0.7:
        return _edited(rng, before)
    life = Life(dict.fromkeys(TOPICS, "auto"))
    for _ in range(rng.randrange(3)):
        life = _edited(rng, life)
    return life


def _users() -> Sequence[str]:
    """Whom a broker may become: nobody only where Python and tempos can be read by everybody."""
    places = [Path(os.__file__), Path(tempos.__file__), Path(sys.executable)]
    ways = {each for place in places for each in (place, *place.parents)}
    return ("", "nobody") if all(each.stat().st_mode & stat.S_IROTH for each in ways) else ("",)


def _edited(rng: random.Random, life: Life) -> Life:
    what = rng.choice(
        ("nothing", "mode", "pin", "interfaces", "state", "api", "policy", "less", "all", "stop", "user")
    )
    topics = dict(life.topics)
    if what == "mode":
        return replace(life, mode=rng.choice(("auto", "native", "generic", "off")))
    if what == "pin":
        return replace(life, pin=not life.pin)
    if what == "interfaces":
        return replace(life, one_interface=not life.one_interface)
    if what == "state":
        return replace(life, state=rng.choice((USUAL, "state.db", "other.db", "off")))
    if what == "api":
        return replace(life, api=rng.choice((API_PORT, API_PORT - 1)))
    if what == "stop":
        return replace(life, on_stop=rng.choice(("keep", "withdraw")))
    if what == "user":
        return replace(life, user=rng.choice(_users()))
    if what == "policy":
        topics[rng.choice(sorted(topics))] = rng.choice(("auto", "slow"))
    elif what == "less" and len(topics) > 1:
        del topics[rng.choice(sorted(topics))]
    elif what == "all":
        topics = {name: topics.get(name, "auto") for name in TOPICS}
    return replace(life, topics=topics)


@dataclass
class Reader:
    """A member and all that came to it. ``gone``: it has left, and its endpoint is watched."""

    subscriber: Subscriber
    topics: Sequence[str]
    group: str
    task: asyncio.Task[None] | None = None
    got: Counter[tuple[str, int]] = field(default_factory=Counter)
    watch: socket.socket | None = None

    @property
    def gone(self) -> bool:
        return self.watch is not None

    def stray(self) -> int:
        """Datagrams that came to the endpoint since it was left, or since the last look."""
        assert self.watch is not None, "asked of those that have left"
        count = 0
        with suppress(BlockingIOError):
            while self.watch.recv(_RECEIVE_BUFFER):
                count += 1
        return count


class World:
    """One broker after the other, its members, and a publisher that numbers what it sends of each topic."""

    def __init__(self, topology: Topology, disk: SmallDisk, name: str) -> None:
        self.topology = topology
        self.disk = disk
        self.name = name
        self.sent: Counter[str] = Counter()
        self.readers: list[Reader] = []
        self.said: list[str] = []
        self.life: Life | None = None
        self._program: Program | None = None
        self._source = topology.publisher.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._loop = NodeLoop(topology.subscriber)

    # The broker.

    def start(self, life: Life, limit: float = LIMIT) -> None:
        """Raises :class:`ProgramFailed` if it does not get ready."""
        command = (*self.disk.prefix, PYTHON, "-m", "tempos_broker", "-c", TEXT_FILE)
        clean = (PYTHON, "-m", "tempos", "fastpath", "clean", self.name)
        text = life.text(self.name, self.topology, str(self.disk.folder))
        program = self.topology.broker.start(command, text=text, clean_up=clean)
        try:
            program.wait_line("ready", limit)
        except ProgramFailed:
            program.stop()
            self.said.append(program.output)
            raise
        self.life, self._program = life, program

    def end(self, how: signal.Signals) -> tuple[int, float]:
        """End it by a signal; its exit code, and the seconds that it took."""
        assert self._program is not None, "started before it is ended"
        program, self._program = self._program, None
        began = time.monotonic()
        program.signal(how)
        code = program.wait(LIMIT)
        took = time.monotonic() - began
        program.stop()
        self.said.append(program.output)
        return code, took

    @property
    def alive(self) -> bool:
        return self._program is not None and self._program.running

    def ask(self, path: str) -> Any:
        """Of the control API."""
        assert self.life is not None, "started before it is asked"
        port = self.life.api
        return self.topology.broker.inquire("request", method="GET", path=path, port=port)

    def topic(self, name: str) -> dict[str, Any]:
        """What `/v1/topics` says of a topic."""
        found: dict[str, Any] = self.ask(f"/v1/topics/{name}")
        return found

    def account(self, topic: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/v1/ledger/{topic}")
        return found

    # Members.

    def join(self, topics: Sequence[str], group: str) -> Reader:
        reader = Reader(Subscriber(self.topology.broker.addresses[-1], *topics, group=group), topics, group)

        async def begin() -> None:
            await reader.subscriber.__aenter__()
            reader.task = asyncio.create_task(read())

        async def read() -> None:
            async for event in reader.subscriber:
                reader.got[event.topic, int(event.body)] += 1

        self._loop.do(begin())
        self.readers.append(reader)
        return reader

    def leave(self, readers: Sequence[Reader]) -> None:
        """They drain, or find nobody to tell; from then on their endpoints are watched."""

        async def drain() -> None:
            await asyncio.gather(*(reader.subscriber.drain(3.0) for reader in readers))
            await asyncio.gather(*(reader.task for reader in readers if reader.task is not None))

        self._loop.do(drain(), LIMIT)
        for reader in readers:
            reader.watch = self._bound(reader.subscriber.member.ip, reader.subscriber.member.port)

    def present(self, topic: str) -> list[Reader]:
        return [each for each in self.readers if not each.gone and topic in each.topics]

    # Events.

    def send(self, topics: Sequence[str], count: int) -> None:
        """Of each topic."""
        for _ in range(count):
            for topic in topics:
                self._send(topic)

    @contextmanager
    def flow(self) -> Iterator[None]:
        """Events of every topic all the time."""
        over = threading.Event()

        def pump() -> None:
            while not over.wait(BEAT):
                for topic in TOPICS:
                    self._send(topic)

        thread = threading.Thread(target=pump, name="flow")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """End everything; what of the broker is left in the kernel goes, too."""
        with self._loop:
            self._loop.do(self._close())
        if self.alive:
            self.end(signal.SIGKILL)
        for reader in self.readers:
            if reader.watch is not None:
                reader.watch.close()
        self._source.close()

    def clean(self) -> None:
        """As an operator would: remove what the broker of this name has left, in the kernel and beside it."""
        command = (PYTHON, "-m", "tempos", "fastpath", "clean", self.name)
        self.topology.broker.start(command).wait(LIMIT)
        shutil.rmtree(SYSTEM / quote(self.name), ignore_errors=True)

    async def _close(self) -> None:
        here = [each for each in self.readers if not each.gone]
        await asyncio.gather(*(each.subscriber.close() for each in here), return_exceptions=True)
        await asyncio.gather(*(each.task for each in here if each.task), return_exceptions=True)

    def _send(self, topic: str) -> None:
        id_, _, framing = TOPICS[topic]
        number = self.sent[topic]
        body = b"%d" % number
        data = encode_event(id_, _PUBLISHER, number, 0, body) if framing == "event" else bytes([id_]) + body
        self._source.sendto(data, (self.topology.broker.address, DATA_PORT))
        self.sent[topic] = number + 1

    def _bound(self, ip: str, port: int) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind((ip, port))
            return sock

        return self.topology.subscriber.call(make)

    def hold(self, what: str) -> socket.socket:
        """Take a port that the next broker needs: data, control or api."""
        kind = socket.SOCK_STREAM if what == "api" else socket.SOCK_DGRAM
        ports = {"data": DATA_PORT, "control": CONTROL_PORT, "api": self.life.api if self.life else API_PORT}
        ip = "127.0.0.1" if what == "api" else self.topology.broker.addresses[-1]

        def take() -> socket.socket:
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            sock.bind((ip, ports[what]))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            return sock

        return self.topology.broker.call(take)


def until(condition: Callable[[], bool], limit: float = LIMIT) -> bool:
    """Whether it came to hold within ``limit`` seconds."""
    end = time.monotonic() + patience(limit)
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_EVERY)
    return True
