"""The servers of the peers: how each is started on the middle node, with what settings, and what is missing.

All keep events in memory only, as tempos does: no persistence, no log. Where a default would drop
events of a slow subscriber, or cut it off, it is lifted, because such a loss would flatter the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Node, Program, ProgramFailed

_LOOK_EVERY = 0.02
#: An answer for every address that a server's node has.
ANY = "0.0.0.0"  # noqa: S104 - where a node has several, all of which the others must reach


@dataclass(frozen=True, slots=True)
class Server:
    """A peer's server. ``settings``: in words, for the report.

    ``arguments``: (address, port) to its arguments, with :data:`~tempos_bench.nodes.node.TEXT_FILE` for what
    ``config`` gives of the same, if it has a file. ``subscribers``: how far above its port the one for
    subscribers is, where they have one of their own. ``program``: what has to be installed, from Debian's
    ``package``; for a server that is a Python package, its ``distribution``. ``wires``: the raw generators'
    protocols it speaks.
    """

    name: str
    settings: str
    arguments: Callable[[str, int], Sequence[str]]
    port: int
    wires: tuple[str, ...] = ()
    program: str = ""
    package: str = ""
    version_arguments: tuple[str, ...] = ("--version",)
    distribution: str = ""
    subscribers: int = 0
    config: Callable[[str, int], str] | None = None

    def missing(self, node: Node) -> str | None:
        """Why it cannot be measured in ``node``, in one line; None if it can."""
        if self.program and node.inquire("executable", program=self.program) is None:
            return f"{self.name} left out: {self.program} is not installed (apt-get install {self.package})"
        if self.distribution and node.inquire("distribution", name=self.distribution) is None:
            return f"{self.name} left out: {self.distribution} is not installed (pip install 'tempos[peers]')"
        return None

    def version(self, node: Node) -> str:
        """What the server that is installed in ``node`` says of its version."""
        if self.distribution:
            return str(node.inquire("distribution", name=self.distribution))
        return str(node.inquire("version", command=[self._executable(node), *self.version_arguments]))

    def start(self, node: Node, *, address: str = ANY, port: int = 0) -> Program:
        """Start it in ``node`` and wait until it takes connections.

        Raises :class:`ProgramFailed` with what it said if it does not.
        """
        port = port or self.port
        first = (self._executable(node),) if self.program else (PYTHON, "-m")
        text = self.config(address, port) if self.config else None
        program = node.start((*first, *self.arguments(address, port)), text=text)
        reach = "127.0.0.1" if address == ANY else address
        end = time.monotonic() + 15
        while not node.inquire("takes connections", address=reach, port=port):
            if not program.running or time.monotonic() > end:
                program.stop()
                raise ProgramFailed(f"{self.name} takes no connections on port {port}\n{program.output}")
            time.sleep(_LOOK_EVERY)
        return program

    def _executable(self, node: Node) -> str:
        return str(node.inquire("executable", program=self.program) or self.program)


def _nats(address: str, port: int) -> str:
    return (
        f'listen: "{address}:{port}"\nlogfile: "/dev/null"\nping_interval: "10m"\nmax_pending: 1073741824\n'
    )


def _mosquitto(address: str, port: int) -> str:
    # Whoever becomes another user is no longer told of our end (prctl(2), PR_SET_PDEATHSIG), and would
    # outlive us if we were killed. It means nothing to a server that is not started by root.
    return (
        f"listener {port} {address}\nallow_anonymous true\npersistence false\nlog_dest none\n"
        "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\nuser root\n"
    )


def _redis(address: str, port: int) -> Sequence[str]:
    return (
        "--bind", address, "--port", str(port), "--save", "", "--appendonly", "no", "--protected-mode", "no",
        "--dir", "/", "--logfile", "/dev/null", "--client-output-buffer-limit", "pubsub 0 0 0",
    )  # fmt: skip


def _with_file(address: str, port: int) -> Sequence[str]:
    return ("-c", TEXT_FILE)


def _module(name: str) -> Callable[[str, int], Sequence[str]]:
    return lambda address, port: (f"tempos_bench.peers.{name}", "--address", address, "--port", str(port))


SERVERS = (
    Server(
        "NATS", "core only, no JetStream; max_pending 1 GiB (default 64 MiB): no subscriber is cut off",
        _with_file, 4222, ("nats",), program="nats-server", package="nats-server", config=_nats,
    ),
    Server(
        "Mosquitto", "persistence off; no limit of queued or unacknowledged messages; TCP_NODELAY; MQTT 5",
        _with_file, 1883, ("mqtt0", "mqtt1"), program="mosquitto", package="mosquitto",
        version_arguments=("-h",), config=_mosquitto,
    ),
    Server(
        "Redis", "pub/sub; no snapshots, no append-only file; no limit of a subscriber's output buffer",
        _redis, 6379, ("redis",), program="redis-server", package="redis-server",
    ),
    Server(
        "ZeroMQ",
        "has no server: on the middle node libzmq's proxy (XSUB to XPUB) runs in C; high-water marks 10,000, "
        "a full queue holds the publisher back (XPUB_NODROP)",
        _module("zeromq_proxy"), 5559, ("zeromq",), distribution="pyzmq", subscribers=1,
    ),
    Server(
        "Zenoh",
        "a router of its Rust library in a Python process, no scouting, no storage; publishers are held back "
        "rather than dropped (CongestionControl.BLOCK); the library itself is Rust, so it is client and raw "
        "generator in one",
        _module("zenoh_router"), 7447, distribution="eclipse-zenoh",
    ),
)  # fmt: skip


def server(name: str) -> Server:
    """The server of that name."""
    return next(one for one in SERVERS if one.name == name)
