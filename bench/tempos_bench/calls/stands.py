"""Where a function is behind each system: the same three nodes, publisher, server, and who runs the function.

Publisher on the first core, who runs the function on the other (an invoker with its workers, a subscriber of
a library, the HTTP server), servers on both. The HTTP server stands on the middle node: it runs the function
itself, so what it is asked makes a hop less than all others do.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tempos import DATA_PORT, Framing, Topic, Unavailable
from tempos import Path as DataPath
from tempos_bench.calls import event, worker
from tempos_bench.calls.ends import Programs, Worker
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Program
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.peers import ground
from tempos_bench.peers.ground import CLIENT, Place
from tempos_bench.peers.servers import ANY
from tempos_bench.peers.usage import Running
from tempos_bench.peers.ways import PACKAGES, SETTLE_LIMIT, Ends, Subject, Way
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import current

#: Topics that lead to the function: in Python, as a program; and to a member that calls it itself.
PYTHON_TOPIC, SPAWN_TOPIC, MEMBER_TOPIC, LIBRARY_TOPIC = "python", "program", "member", "library"
#: Tempos' ways, and the mode of the fast path that each has.
MODES = {"fast": "native", "slow": "off"}
_TOPICS = {
    name: Topic(id=number, name=name, framing=Framing.EVENT)
    for number, name in enumerate((PYTHON_TOPIC, SPAWN_TOPIC, MEMBER_TOPIC, LIBRARY_TOPIC), 1)
}
_GROUP = "workers"
#: What tempos is held to.
_NEEDED = ("NATS", "HTTP")
_HTTP_PORT, _SPAWNING_PORT = 8080, 8081
_HTTP = ("uvicorn", "starlette", "httptools", "uvloop")
_LIMIT = 60.0

IN_WORKER, IN_MEMBER = "invoker, function in Python", "Subscriber, function in it"
IN_LIBRARY = "invoker, function in C"
SPAWNED = "invoker, program for each event"
#: Every way to the function, and how many more than one may be slow.
WAYS = (
    *(
        Way(f"tempos {path} path", kind, "library", "tempos")
        for path in MODES
        for kind in (IN_WORKER, IN_LIBRARY, IN_MEMBER)
    ),
    Way("NATS", "nats-py, queue group", "library", "nats"),
    Way("Mosquitto", "paho-mqtt, shared subscription", "library", "mqtt0"),
    Way("HTTP", "uvicorn, function in the server", "library", "http"),
)
#: Those with a program for each event.
SPAWNING: tuple[Way, ...] = (
    *(Way(f"tempos {path} path", SPAWNED, "library", "tempos") for path in MODES),
    Way("HTTP", "uvicorn, program for each request", "library", "http-spawn"),
)


@dataclass(slots=True)
class _End:
    """Who publishes towards the function, who runs it, and where."""

    place: Place
    publisher: Program
    subject: Subject
    topic: str


class Stands:
    """Everything that is compared in one run; ended by ``stack``."""

    def __init__(self, stack: ExitStack, paths: Sequence[str]) -> None:
        """``paths``: those of :data:`MODES` that tempos is measured by; raises :class:`Unavailable`."""
        if unknown := [path for path in paths if path not in MODES]:
            raise Unavailable(f"no path {', '.join(unknown)}, there are {', '.join(MODES)}")
        self._stack = stack
        self._paths = paths
        self._runs = [0]
        self._carried: dict[Way, dict[int, float]] = {}
        self._ends: dict[Way, Ends] = {}
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._program = _compiled(self._folder / "count", "-static")
        self._library = _compiled(
            self._folder / "count.so", "-shared", "-fPIC", "-DTEMPOS_LIBRARY", f"-I{_headers()}"
        )
        self._tempos: dict[str, tuple[_TemposPlace, Program, socket.socket]] = {}
        self._topology = stack.enter_context(build())
        found = ground.present(self._topology, ("NATS", "Mosquitto"))
        self._peers = ground.peers(stack, found, self._topology)

    def ways(self) -> list[Way]:
        """Those that can be measured here; what is missing gets a note.

        Raises :class:`Unavailable` where too little is here to compare with.
        """
        asked = {f"tempos {path} path" for path in self._paths}
        every = [way for way in (*WAYS, *SPAWNING) if way.system in asked or not way.is_tempos]
        found = [way for way in every if self._has(way)]
        lacking = [way.name for way in every if way.system in _NEEDED and way not in found]
        if lacking:
            raise Unavailable(
                f"cannot be measured here: {'; '.join(lacking)}; `make peers` installs what they need, and a "
                "C compiler makes the program"
            )
        return found

    def ends(self, way: Way) -> Ends:
        """Both ends of a way, started when they are first asked for."""
        if way not in self._ends:
            current()(f"connecting {way.name}")
            end = self._end(way)
            carried = self._carried.setdefault(way, {})
            self._ends[way] = Ends(
                end.place, way, end.publisher, end.subject, end.topic, self._runs, carried, event.SIZE
            )
        return self._ends[way]

    def _end(self, way: Way) -> _End:
        if way.is_tempos:
            return self._invoker_end(way)
        if way.system == "HTTP":
            return self._http_end(way)
        place = self._peers[way.system]
        subject = self._begin(place, "subscribe", way, CLIENT, group=_GROUP)
        return _End(place, self._begin(place, "publish", way, CLIENT), subject, CLIENT)

    def _begin(self, place: Place, do: str, way: Way, topic: str, **options: object) -> Program:
        program = place.end(
            "library", do, way.speaks, topic, "--calls" if do == "subscribe" else "--events", **options
        )
        self._stack.callback(program.stop)
        program.wait_line("ready", SETTLE_LIMIT)
        return program

    def _invoker_end(self, way: Way) -> _End:
        path = way.system.split()[1]
        if path not in self._tempos:
            self._tempos[path] = self._invoker(path)
        place, program, listener = self._tempos[path]
        subject: Subject
        if way.kind == SPAWNED:
            topic, subject = SPAWN_TOPIC, Programs(program, self._lines(path))
        elif way.kind == IN_LIBRARY:
            topic, subject = LIBRARY_TOPIC, Programs(program, self._lines(f"{path}-library"))
        elif way.kind == IN_MEMBER:
            topic, subject = MEMBER_TOPIC, self._begin(place, "subscribe", way, MEMBER_TOPIC, group=_GROUP)
        else:
            topic, subject = PYTHON_TOPIC, Worker(program, listener)
            self._stack.callback(subject.close)
        return _End(place, self._begin(place, "publish", way, topic), subject, topic)

    def _invoker(self, path: str) -> tuple[_TemposPlace, Program, socket.socket]:
        """A broker on nodes of its own, and an invoker with a function of each kind."""
        topology = self._stack.enter_context(build())
        mode = MODES[path]
        broker = self._stack.enter_context(
            Broker(topology.broker, dict.fromkeys(_TOPICS.values(), ()), mode=mode)
        )
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        recorder = self._folder / f"{path}.socket"
        listener.bind(str(recorder))
        listener.listen()
        functions: dict[str, dict[str, object]] = {
            PYTHON_TOPIC: {
                "mode": "python",
                "entry": f"{worker.__name__}:call",
                "env": {worker.PATH: str(recorder)},
            },
        }
        if self._program is not None:
            args = ["{code}", str(self._lines(path))]
            functions[SPAWN_TOPIC] = {"mode": "spawn", "code": str(self._program), "args": args}
        if self._library is not None:
            lines = {"TEMPOS_BENCH_LINES": str(self._lines(f"{path}-library"))}
            functions[LIBRARY_TOPIC] = {"mode": "dlf", "code": str(self._library), "env": lines}
        text = _deployment(topology.facing_subscriber, self._folder / f"{path}.state", functions)
        program = topology.subscriber.start(
            (PYTHON, "-m", "tempos", "invoker", "-c", TEXT_FILE),
            ready="ready",
            limit=_LIMIT,
            cpu=cores()[1],
            text=text,
        )
        return _TemposPlace(topology, broker, fast=mode != "off"), program, listener

    def _http_end(self, way: Way) -> _End:
        node = self._topology.broker
        spawns = way.speaks == "http-spawn"
        port, name = (_SPAWNING_PORT, "spawn") if spawns else (_HTTP_PORT, "call")
        lines = self._lines("http")
        options = ("--group", f"{self._program} {lines}") if spawns else ()
        server = node.role(
            "peers.library", "--do", "subscribe", "--client", way.speaks, "--connect", f"{ANY}:{port}",
            "--topic", name, "--calls", *options, cpu=cores()[1], talk=True, ready=True,
        )  # fmt: skip
        self._stack.callback(server.stop)
        place = _HttpPlace(self._topology, server.pid, port)
        subject: Subject = Programs(server, lines) if spawns else server
        return _End(place, self._begin(place, "publish", way, name), subject, name)

    def _lines(self, name: str) -> Path:
        """The file that programs append to."""
        path = self._folder / f"{name}.lines"
        path.touch()
        return path

    def _has(self, way: Way) -> bool:
        missing = [
            name
            for name in self._needed(way)
            if self._topology.broker.inquire("distribution", name=name) is None
        ]
        if missing:
            current().note(
                f"{way.name} left out: {', '.join(missing)} not installed (pip install 'tempos[peers]')"
            )
        elif way in SPAWNING and self._program is None:
            current().note(f"{way.name} left out: no C compiler (cc) that makes a static program")
        elif way.kind == IN_LIBRARY and self._library is None:
            current().note(f"{way.name} left out: no C compiler (cc) that makes a library")
        else:
            return way.system in self._peers or way.is_tempos or way.system == "HTTP"
        return False

    @staticmethod
    def _needed(way: Way) -> tuple[str, ...]:
        if way.system == "HTTP":
            return _HTTP
        return (PACKAGES[way.speaks],) if way.speaks in PACKAGES else ()


class _TemposPlace(Place):
    """Tempos with one of its ways."""

    def __init__(self, topology: Topology, broker: Broker, fast: bool) -> None:
        super().__init__(topology, broker.pid)
        self.broker, self._fast = broker, fast

    def _where(self, at_a: bool, do: str, topic: str, program: str) -> tuple[str, ...]:
        broker = self.topology.broker.address if at_a else self.topology.facing_subscriber
        return ("--connect", f"{broker}:{DATA_PORT}", "--topic", topic)

    def settle(self, topic: str) -> None:
        self.broker.wait_path(topic, DataPath.FAST if self._fast else DataPath.SLOW)


class _HttpPlace(Place):
    """An HTTP server that runs the function."""

    def __init__(self, topology: Topology, pid: int, port: int) -> None:
        super().__init__(topology, pid)
        self._port = port

    def subscriber(self, pid: int) -> Running:
        return Running(self.topology.broker, pid)

    def _where(self, at_a: bool, do: str, topic: str, program: str) -> tuple[str, ...]:
        return ("--connect", f"{self.topology.broker.address}:{self._port}", "--topic", topic)


def _deployment(broker: str, state: Path, functions: Mapping[str, Mapping[str, object]]) -> str:
    """What an invoker is to do; ordinary scheduling, as all others have it."""
    lines = ["[invoker]", f"state = {json.dumps(str(state))}", "[broker]", f'address = "{broker}"']
    for name, function in functions.items():
        lines += ["[[function]]", f'name = "{name}"']
        lines += [f"{key} = {_toml(value)}" for key, value in function.items()]
        lines += ["[[step]]", 'workflow = "bench"', f'name = "{name}"', f'function = "{name}"']
        lines += ['class = "BQ"', f'topic = "{name}"']
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """JSON's texts and lists are TOML's as well; tables are not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def _headers() -> Path:
    """Where the header for functions in C is."""
    found = importlib.util.find_spec("tempos_invoker")
    assert found is not None and found.origin is not None, "installed beside this"  # noqa: PT018
    return Path(found.origin).parent / "include"


def _compiled(target: Path, *how: str) -> Path | None:
    """The function as a program or a library, None where it cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source = Path(__file__).with_name("count.c")
    command = [compiler, "-O2", *how, "-o", str(target), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else target
