"""A system that is worn: a broker with all that is done to it, members of every kind, and who watches them.

:class:`Ground` can do each thing once; which comes when, and what must hold, is in
:mod:`tempos_bench.suite.soak`. Counts of what members got are kept by topic, so that an hour fits into
memory; single events are looked at between two calls of :meth:`Ground.look_anew`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Subscriber
from tempos.control import RETRY_AFTER, Code, decode_reply, encode_request
from tempos.session.proof import decode as decode_proof
from tempos.subscriber import QUEUE
from tempos.wire import encode_event
from tempos_bench.measure.beside import BROKER_PORT, Probes
from tempos_bench.measure.second_life import HEARTBEAT, LEASE
from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.node import PYTHON, Program, ProgramFailed
from tempos_bench.nodes.topology import Topology

#: Seconds that anything may take, and between two events of each topic.
LIMIT = 30.0
BEAT = 0.005
#: Topic by its name: id and what differs from the defaults.
TOPICS: dict[str, dict[str, Any]] = {
    "events": {"id": 1, "class": "SQ", "framing": "event"},
    "logs": {"id": 2, "class": "BQ", "framing": "event", "priority": 3},
    "plain": {"id": 3, "class": "BQ", "framing": "raw"},
}
#: What is in the configuration besides: for probes (:mod:`.beside`); refused beyond a rate; come and gone.
PROBE: dict[str, Any] = {"id": 4, "class": "SQ", "framing": "raw", "path": "slow", "priority": 7}
LIMITED: dict[str, Any] = {"id": 5, "class": "BQ", "framing": "event", "rate": 100, "burst": 20}
EXTRAS = {f"extra/{number}": 10 + number for number in range(6)}
_PUBLISHER = 9
_FIRST_VANISHED = 20000
#: Seconds between two looks whether members stand still; after so many they did.
_TICK, STILL = 0.02, HEARTBEAT / 2
#: Seconds that a probe takes where the broker stood still.
_LONG = HEARTBEAT / 2
#: Events that may wait for a slow program.
_SLOW_QUEUE = 32
_DEPARTED = 16
#: Seconds after which nothing comes any more to who was never heard again: leases end later where the broker
#: began anew, or stood still, meanwhile.
VANISHED = 2 * LEASE + 1.5 * RETRY_AFTER[-1]


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs from one life of the broker to the next, and what a reload changes: the ``extras``."""

    mode: str = "auto"
    worker_sq: bool = False
    on_stop: str = "keep"
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def text(self, name: str, topology: Topology, folder: str) -> str:
        """As the file that a broker reads."""
        broker = topology.broker
        tables: list[tuple[str, Mapping[str, Any]]] = [
            ("[broker]", {"name": name, "listen": broker.addresses, "api": f"127.0.0.1:{API_PORT}"}),
            ("[state]", {"file": f"{folder}/state.db"}),
            ("[control]", {"heartbeat": HEARTBEAT, "lease": LEASE}),
            ("[fastpath]", {"mode": self.mode, "interfaces": broker.interfaces, "on_stop": self.on_stop}),
            ("[quality]", {"worker_sq": self.worker_sq}),
        ]
        topics = {**TOPICS, "probe": PROBE, "limited": LIMITED, **self.extras}
        for each, options in topics.items():
            tables.append(("[[topic]]", {"name": each, **options}))
            if each == "probe":
                member = {"ip": topology.subscriber.address, "port": BROKER_PORT}
                tables.append(("[[topic.member]]", member))
        return "\n".join(
            "\n".join((head, *(f"{key} = {json.dumps(value)}" for key, value in values.items())))
            for head, values in tables
        )


def joins(asking: socket.socket, data: socket.socket, client: int, **fields: Any) -> bool:
    """Ask to be a member, and prove what has to be proven; whether the broker says that it is one now.

    ``asking`` is connected to the control port, events are to come to ``data``.
    """
    proof: bytes | None = None
    for sock in (asking, data):
        sock.settimeout(1.0)
    for number in range(1, 8):
        asking.send(encode_request("subscribe", number, client, proof=proof, **fields))
        try:
            reply = decode_reply(asking.recv(2048))
            if reply.error is None:
                return True
            if reply.error.code != Code.PROVE:
                return False
            proof = reply.proof or _proof_at(data)
        except (TimeoutError, ConnectionRefusedError):
            continue
    return False


def _proof_at(data: socket.socket) -> bytes:
    while True:
        told = decode_proof(data.recv(2048))
        if told is not None:
            return told[1]


def any_settings(rng: random.Random, before: Settings) -> Settings:
    """For another life."""
    return replace(
        before, mode=rng.choice(("auto", "auto", "generic", "off")), worker_sq=rng.random() < 0.3,
        on_stop=rng.choice(("keep", "withdraw")),
    )  # fmt: skip


def other_extras(rng: random.Random, before: Settings) -> Settings:
    """Another topic more, one less, or one that is otherwise."""
    extras = dict(before.extras)
    name = rng.choice(sorted(EXTRAS))
    if name in extras and rng.random() < 0.5:
        del extras[name]
    else:
        framing = extras.get(name, {}).get("framing") or rng.choice(("event", "raw"))
        extras[name] = {
            "id": EXTRAS[name], "class": rng.choice(("SQ", "BQ")), "framing": framing,
            "priority": rng.randrange(8), "path": rng.choice(("auto", "slow")),
            "rate": rng.choice((0, 0, 50)),
        }  # fmt: skip
    return replace(before, extras=extras)


@dataclass
class Worn:
    """A member, and what it got: by topic in all, and each event since the last look.

    ``disturbed``: an operator, the end of its topic or a stall took it out at some time; ``pause``: seconds
    that its program takes for an event.
    """

    subscriber: Subscriber
    topics: Sequence[str]
    group: str
    pause: float
    task: asyncio.Task[None] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    disturbed: bool = False

    @property
    def endpoint(self) -> tuple[str, int]:
        member = self.subscriber.member
        return member.ip, member.port


class Ground:
    """The broker's configuration and state are in ``folder``; everything else is in memory."""

    def __init__(self, topology: Topology, folder: str, name: str) -> None:
        self.topology = topology
        self.folder = folder
        self.name = name
        self.settings = Settings()
        self.members: list[Worn] = []
        self.sent: Counter[str] = Counter()
        self.said: deque[str] = deque(maxlen=4)
        self.lives = 0
        self._program: Program | None = None
        self._source = self._socket(topology.publisher)
        self._loop = NodeLoop(topology.subscriber)
        #: When members stood still: until when (Unix time), and for how many seconds.
        self.stalls: deque[tuple[float, float]] = deque(maxlen=1000)
        self._loop.do(self._begin_ticking())
        self._departed: list[tuple[float, socket.socket]] = []
        self._vanished = 0
        self._pumping = threading.Event()
        self._over = threading.Event()
        self.probes = Probes(topology, PROBE["id"], _LONG)
        self._pumps = threading.Thread(target=self._pump)
        self._pumps.start()

    # --- the broker -------------------------------------------------------------------------

    def write(self) -> None:
        """The configuration, as the settings have it."""
        text = self.settings.text(self.name, self.topology, self.folder)
        self.file.write_text(text)
        self.file.chmod(0o600)

    @property
    def file(self) -> Path:
        return Path(self.folder) / "broker.toml"

    @property
    def pid(self) -> int:
        assert self._program is not None, "started before it is looked at"
        return self._program.pid

    def start(self) -> None:
        """Raises :class:`ProgramFailed` if it does not get ready."""
        self.write()
        command = (PYTHON, "-m", "tempos_broker", "-c", str(self.file))
        clean = (PYTHON, "-m", "tempos", "fastpath", "clean", self.name)
        self._program = self.topology.broker.start(command, clean_up=clean)
        self._program.wait_line("ready", LIMIT)
        self.lives += 1

    def end(self, how: signal.Signals) -> int:
        """End it by a signal; its exit code."""
        assert self._program is not None, "started before it is ended"
        program, self._program = self._program, None
        program.signal(how)
        code = program.wait(LIMIT)
        program.stop()
        self.said.append(program.output[-20_000:])
        return code

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Of the control API; raises :class:`TemposError` for a refusal."""
        return self.topology.broker.request(method, path, body)

    def held(self) -> Mapping[str, int]:
        """What the broker holds."""
        found: Mapping[str, int] = self.topology.broker.inquire("held", pid=self.pid)
        return found

    def stored(self) -> int:
        """Bytes of the state's files."""
        total = 0
        for each in Path(self.folder).glob("state.db*"):
            with suppress(FileNotFoundError):
                total += each.stat().st_blocks * 512
        return total

    # --- members ----------------------------------------------------------------------------

    def join(self, topics: Sequence[str], group: str, pause: float = 0.0) -> Worn:
        """One more member; raises what the library raises."""
        address = self.topology.broker.addresses[-1]
        queue = _SLOW_QUEUE if pause else QUEUE
        member = Worn(Subscriber(address, *topics, group=group, queue=queue), topics, group, pause)

        async def begin() -> None:
            await member.subscriber.__aenter__()
            member.task = asyncio.create_task(read())

        async def read() -> None:
            async for event in member.subscriber:
                member.counts[event.topic] += 1
                with suppress(ValueError, TypeError):
                    member.seen[event.topic, int(event.body)] += 1
                if pause:
                    await asyncio.sleep(pause)

        self._loop.do(begin(), LIMIT)
        self.members.append(member)
        return member

    def leave(self, members: Sequence[Worn], *, drain: bool = True) -> None:
        """They go, drained or not; from then on nothing is to come to their endpoints."""

        async def go() -> None:
            await asyncio.gather(
                *(each.subscriber.drain(3.0) if drain else each.subscriber.close() for each in members)
            )
            await asyncio.gather(*(each.task for each in members if each.task is not None))

        self._loop.do(go(), LIMIT)
        for each in members:
            self.members.remove(each)
            self._depart(each.endpoint)

    def vanish(self, topic: str, group: str) -> bool:
        """A member joins that is never heard again; whether it became one."""
        self._vanished = (self._vanished + 1) % 10_000
        endpoint = self.topology.subscriber.address, _FIRST_VANISHED + self._vanished
        try:
            data = self._socket(self.topology.subscriber, endpoint)
        except OSError:
            # Somebody else is there.
            return False
        data.setblocking(True)
        with self._socket(self.topology.subscriber) as asking:
            asking.connect((self.topology.broker.addresses[-1], CONTROL_PORT))
            joined = joins(asking, data, _PUBLISHER, topic=topic, group=group, port=endpoint[1])
        data.setblocking(False)
        # Also where it is not known whether it did: an answer may have been lost.
        self._watch_departed(data, after=VANISHED)
        return joined

    def _depart(self, endpoint: tuple[str, int]) -> None:
        with suppress(OSError):
            self._watch_departed(self._socket(self.topology.subscriber, endpoint), after=0.0)

    def _watch_departed(self, watching: socket.socket, after: float) -> None:
        self._departed.append((time.monotonic() + after, watching))
        while len(self._departed) > _DEPARTED:
            self._departed.pop(0)[1].close()

    async def _begin_ticking(self) -> None:
        self._ticking = asyncio.create_task(self._tick(), name="look for stalls")

    async def _tick(self) -> None:
        """Notes when the loop that members live on stood still."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if now - last > STILL:
                self.stalls.append((time.time(), now - last))
            last = now

    def stray(self) -> int:
        """Datagrams that came since the last call to endpoints whose members had left before."""
        count, now = 0, time.monotonic()
        for place, (since, sock) in enumerate(self._departed):
            got = 0
            with suppress(BlockingIOError):
                while sock.recv(65536):
                    got += 1
            if since <= now:
                count += got
            if now > since:
                self._departed[place] = (0.0, sock)
        return count

    def look_anew(self) -> dict[str, int]:
        """Forget the single events that members have seen; the numbers that come next, by topic."""
        for each in self.members:
            each.seen.clear()
        return dict(self.sent)

    def seen(self, topic: str, group: str) -> Counter[int]:
        """How often each event of a topic came to a group since the last look."""
        total: Counter[int] = Counter()
        for member in self.members:
            if member.group == group:
                for (name, number), count in list(member.seen.items()):
                    if name == topic:
                        total[number] += count
        return total

    # --- events -----------------------------------------------------------------------------

    def send(self, topics: Sequence[str], count: int) -> None:
        """So many events of each topic, without a pause."""
        for _ in range(count):
            for topic in topics:
                self._send(topic)

    def _send(self, topic: str) -> None:
        options = {**TOPICS, "limited": LIMITED, **self.settings.extras}.get(topic)
        if options is None:
            return
        number = self.sent[topic]
        body = b"%d" % number
        id_ = options["id"]
        raw = options["framing"] == "raw"
        data = bytes([id_]) + body if raw else encode_event(id_, _PUBLISHER, number, 0, body)
        with suppress(ConnectionRefusedError):
            self._source.sendto(data, (self.topology.broker.address, DATA_PORT))
        self.sent[topic] = number + 1

    def hostile(self, rng: random.Random, count: int) -> None:
        """Datagrams that nobody should send, to the data port and the control port."""
        address = self.topology.broker.address
        good = encode_event(1, _PUBLISHER, 0, 0, b"x" * 20)
        kinds = (
            lambda: rng.randbytes(rng.randrange(64)),
            lambda: good[: rng.randrange(len(good))],
            lambda: bytes([rng.randrange(256)]) + good[1:],
            lambda: good[:1] + rng.randbytes(3) + good[4:],
            lambda: b"\x91" * rng.randrange(1400),
            lambda: encode_request("heartbeat", 1, rng.getrandbits(32), port=9, received=[]),
            lambda: rng.randbytes(9000),
        )
        with self._socket(self.topology.publisher) as sock:
            for _ in range(count):
                with suppress(ConnectionRefusedError, BlockingIOError):
                    sock.sendto(rng.choice(kinds)(), (address, rng.choice((DATA_PORT, CONTROL_PORT))))

    @contextmanager
    def flow(self) -> Iterator[None]:
        """Events of every topic all the time."""
        self._pumping.set()
        try:
            yield
        finally:
            self._pumping.clear()

    def _pump(self) -> None:
        """Probes are sent all the time, the others while events flow."""
        while not self._over.wait(BEAT):
            if self._pumping.is_set():
                for topic in (*TOPICS, "limited", *self.settings.extras):
                    self._send(topic)
            self.probes.send()

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """End everything; what of the broker is left in the kernel goes, too."""
        self._over.set()
        self._pumps.join()
        self.probes.close()
        with self._loop:
            self._loop.do(self._close(), LIMIT)
        if self._program is not None:
            self.end(signal.SIGKILL)
        for sock in (self._source, *(each for _, each in self._departed)):
            sock.close()
        with suppress(ProgramFailed):
            self.topology.broker.start((PYTHON, "-m", "tempos", "fastpath", "clean", self.name)).wait(LIMIT)

    async def _close(self) -> None:
        self._ticking.cancel()
        await asyncio.gather(*(each.subscriber.close() for each in self.members), return_exceptions=True)
        await asyncio.gather(*(each.task for each in self.members if each.task), return_exceptions=True)

    @staticmethod
    def _socket(node: Any, endpoint: tuple[str, int] | None = None) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if endpoint is not None:
                sock.setblocking(False)
                sock.bind(endpoint)
            return sock

        made: socket.socket = node.call(make)
        return made
