"""The servers of the peers: how each is started on the middle node, with what settings, and what is missing.

All keep events in memory only, as tempos does: no persistence, no log. Where a default would drop
events of a slow subscriber, or cut it off, it is lifted, because such a loss would flatter the rate.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempos_bench.node import PYTHON, Node, Program, ProgramFailed

_LOOK_EVERY = 0.02
_ANY = "0.0.0.0"  # noqa: S104 - inside a namespace of our own, which only our nodes reach


@dataclass(frozen=True, slots=True)
class Server:
    """A peer's server. ``settings``: in words, for the report; ``command``: (address, port, folder) to argv.

    ``subscribers``: how far above its port the one for subscribers is, where they have one of their own.
    ``program``: what has to be installed, from Debian's ``package``; for a server that is a Python
    package, the module's ``distribution``. ``wires``: the raw generators' protocols it speaks.
    """

    name: str
    settings: str
    command: Callable[[str, int, Path], Sequence[str]]
    port: int
    wires: tuple[str, ...] = ()
    program: str = ""
    package: str = ""
    version_arguments: tuple[str, ...] = ("--version",)
    distribution: str = ""
    subscribers: int = 0

    def missing(self) -> str | None:
        """Why it cannot be measured here, in one line; None if it can."""
        if self.program and executable(self.program) is None:
            return f"{self.name} left out: {self.program} is not installed (apt-get install {self.package})"
        if self.distribution and not installed(self.distribution):
            return f"{self.name} left out: {self.distribution} is not installed (pip install 'tempos[peers]')"
        return None

    def version(self) -> str:
        """What the installed server says of its version."""
        if self.distribution:
            return importlib.metadata.version(self.distribution)
        command = (executable(self.program) or self.program, *self.version_arguments)
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
        return found.group() if found else "unknown"

    def start(self, node: Node, folder: Path, *, address: str = _ANY, port: int = 0) -> Program:
        """Start it in ``node`` and wait until it takes connections; ``folder`` for its files.

        Raises :class:`ProgramFailed` with what it said if it does not.
        """
        port = port or self.port
        program = node.start(self.command(address, port, folder))
        reach = "127.0.0.1" if address == _ANY else address
        end = time.monotonic() + 15
        while not node.call(lambda: _takes_connections(reach, port)):
            if not program.running or time.monotonic() > end:
                program.stop()
                raise ProgramFailed(f"{self.name} takes no connections on port {port}\n{program.output}")
            time.sleep(_LOOK_EVERY)
        return program


def installed(distribution: str) -> bool:
    """Whether a Python package is there."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def executable(program: str) -> str | None:
    """Where a server's program is; Debian keeps some where only root looks."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _takes_connections(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _nats(address: str, port: int, folder: Path) -> Sequence[str]:
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "{address}:{port}"\nlogfile: "/dev/null"\nping_interval: "10m"\nmax_pending: 1073741824\n'
    )
    return (executable("nats-server") or "nats-server", "-c", str(config))


def _mosquitto(address: str, port: int, folder: Path) -> Sequence[str]:
    config = folder / "mosquitto.conf"
    # Whoever becomes another user is no longer told of our end (prctl(2), PR_SET_PDEATHSIG), and would
    # outlive us if we were killed.
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"listener {port} {address}\nallow_anonymous true\npersistence false\nlog_dest none\n"
        f"max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n{user}"
    )
    return (executable("mosquitto") or "mosquitto", "-c", str(config))


def _redis(address: str, port: int, folder: Path) -> Sequence[str]:
    return (
        executable("redis-server") or "redis-server", "--bind", address, "--port", str(port), "--save", "",
        "--appendonly", "no", "--protected-mode", "no", "--dir", str(folder), "--logfile", "/dev/null",
        "--client-output-buffer-limit", "pubsub 0 0 0",
    )  # fmt: skip


def _module(name: str) -> Callable[[str, int, Path], Sequence[str]]:
    return lambda address, port, folder: (
        PYTHON, "-m", f"tempos_bench.peers.{name}", "--address", address, "--port", str(port)
    )  # fmt: skip


SERVERS = (
    Server(
        "NATS", "core only, no JetStream; max_pending 1 GiB (default 64 MiB): no subscriber is cut off",
        _nats, 4222, ("nats",), program="nats-server", package="nats-server",
    ),
    Server(
        "Mosquitto", "persistence off; no limit of queued or unacknowledged messages; TCP_NODELAY; MQTT 5",
        _mosquitto, 1883, ("mqtt0", "mqtt1"), program="mosquitto", package="mosquitto",
        version_arguments=("-h",),
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
