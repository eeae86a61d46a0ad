"""A fleet on this machine's loopback: brokers with an address each, and the nodes of their etcd.

Each is a process of its own that may be killed and started again at any time; nothing outlives the ground.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tempos import Group, TemposError, Topic, Unavailable
from tempos_bench.measure.broker import config_text
from tempos_bench.nodes import process
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Node, Program, local
from tempos_bench.nodes.patience import patience

#: Addresses of the brokers, by their numbers.
ADDRESS = "127.0.79.{}"
_LIMIT = 30.0


def missing() -> str | None:
    """What a fleet needs and this machine does not have; None: it has all."""
    if shutil.which("etcd") is None:
        return "etcd is not installed: apt-get install etcd-server"
    if importlib.util.find_spec("httpx") is None:
        return "httpx is not installed: pip install 'tempos[fleet]'"
    return None


class Ground:
    """``brokers`` and ``nodes`` of etcd, none of which runs yet.

    ``lease`` in seconds, of members and brokers; ``mode`` as in `fastpath.mode`. Raises :class:`Unavailable`.
    """

    def __init__(
        self,
        folder: Path,
        topics: Sequence[Topic] | Mapping[Topic, Sequence[Group]],
        *,
        brokers: int = 3,
        nodes: int = 1,
        lease: float = 4.0,
        members: int = 0,
    ) -> None:
        if (lacking := missing()) is not None:
            raise Unavailable(f"a fleet cannot be had here: {lacking}")
        self.node: Node = local()
        self.count = brokers
        self.data, self.control, *ports = _free_ports(2 + brokers + 2 * nodes)
        # At another address than brokers have it no member may have their data port all the same.
        self._kept = socket.socket(type=socket.SOCK_DGRAM)
        self._kept.bind(("127.0.0.1", self.data))
        self._apis = ports[:brokers]
        self.addresses = [ADDRESS.format(number + 1) for number in range(brokers)]
        self._clients, self._peers = ports[brokers : brokers + nodes], ports[brokers + nodes :]
        self._folder = folder
        self.etcds: dict[int, Program] = {}
        self.brokers: dict[int, Program] = {}
        limits = {"members_per_group": members} if members else None
        known = topics if isinstance(topics, Mapping) else dict.fromkeys(topics, ())
        self._texts = [self._text(number, known, lease, limits) for number in range(brokers)]

    def _text(
        self,
        number: int,
        topics: Mapping[Topic, Sequence[Group]],
        lease: float,
        limits: dict[str, int] | None,
    ) -> str:
        text = config_text(
            [self.addresses[number]], topics, "off", (),
            state=str(self._folder / f"{self.name(number)}.db"), limits=limits,
            control={"lease": lease, "heartbeat": lease / 4, "rate": 100_000},
        )  # fmt: skip
        head, _, rest = text.partition("[state]")
        own = {
            "name": self.name(number), "listen": [self.addresses[number]], "data_port": self.data,
            "control_port": self.control, "api": f"127.0.0.1:{self._apis[number]}",
        }  # fmt: skip
        assert head.startswith("[broker]")
        lines = ["[broker]", *(f"{key} = {json.dumps(value)}" for key, value in own.items())]
        urls = [f"http://127.0.0.1:{port}" for port in self._clients]
        fleet = [
            "[fleet]", f'name = "ground-{self.data}"', f"etcd = {json.dumps(urls)}",
            f"lease = {max(lease, 2.0)}", "",
        ]  # fmt: skip
        return "\n".join((*lines, *fleet)) + "[state]" + rest

    def name(self, number: int) -> str:
        """Of a broker."""
        return f"{('one', 'two', 'three', 'four', 'five')[number]}-{self.data}"

    # --- what runs --------------------------------------------------------------------------

    def start_etcd(self, *numbers: int) -> None:
        """Start these nodes, or all, and wait until they serve."""
        names = ",".join(f"n{each}=http://127.0.0.1:{port}" for each, port in enumerate(self._peers))
        wanted = numbers or tuple(range(len(self._clients)))
        for number in wanted:
            client, peer = (f"http://127.0.0.1:{ports[number]}" for ports in (self._clients, self._peers))
            self.etcds[number] = self.node.start((
                "etcd", "--name", f"n{number}", "--data-dir", str(self._folder / f"etcd{number}"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", names, "--unsafe-no-fsync", "--pre-vote",
                "--log-level", "error",
                "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "10m",
                "--experimental-watch-progress-notify-interval", "1s",
            ))  # fmt: skip
        for number in wanted:
            wait(lambda number=number: self._serves(number), f"etcd {number} does not serve")  # type: ignore[misc]

    def _serves(self, number: int) -> bool:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            return bool(_get(self._clients[number], "/health")["health"] == "true")
        return False

    def start(self, *numbers: int) -> None:
        """Start these brokers, or all."""
        command = (PYTHON, "-m", "tempos_broker", "-c", TEXT_FILE)
        for number in numbers or range(self.count):
            self.brokers[number] = self.node.start(command, text=self._texts[number])
        for number in numbers or range(self.count):
            self.brokers[number].wait_line("ready", _LIMIT)

    def kill(self, number: int) -> None:
        """End a broker as a power cut does."""
        self.brokers.pop(number).kill()

    def kill_etcd(self, number: int) -> None:
        """The same of a node of etcd."""
        self.etcds.pop(number).kill()

    def agree(self) -> None:
        """Wait until each broker that runs knows all that run, and no others."""
        wanted = sorted(map(self.name, self.brokers))
        wait(lambda: all(self.known(number) == wanted for number in self.brokers), "the brokers do not agree")

    def close(self) -> None:
        """End all."""
        self.node.close()
        self._kept.close()

    def cpu(self) -> tuple[float, float]:
        """Seconds on a processor so far: of all brokers, of all nodes of etcd."""
        brokers, etcds = ([each.pid for each in some.values()] for some in (self.brokers, self.etcds))
        return sum(process.used(brokers)), sum(process.used(etcds))

    # --- what is asked ----------------------------------------------------------------------

    def get(self, number: int, path: str) -> Any:
        """A document of a broker."""
        return _get(self._apis[number], path)

    def known(self, number: int) -> list[str]:
        """The brokers that one knows, where it reaches the registry."""
        fleet = self.get(number, "/v1/fleet")["fleet"]
        return [] if fleet["registry"] == "away" else sorted(each["name"] for each in fleet["brokers"])

    def homes(self, number: int) -> dict[str, int]:
        """How many members are at home at each broker, as one knows it."""
        brokers = self.get(number, "/v1/fleet")["fleet"]["brokers"]
        return {each["name"]: each["members"] for each in brokers}

    def account(self, topic: str) -> dict[str, int]:
        """The sums of a topic over all brokers that run, and their ``problems``."""
        sums = dict.fromkeys(("received", "tickets", "delivered", "unconfirmed", "lost", "problems"), 0)
        for number in self.brokers:
            told = self.get(number, f"/v1/ledger/{topic}")
            sums["received"] += told["received"]
            sums["problems"] += len(told["problems"])
            for group in told["groups"]:
                for key in ("tickets", "delivered", "unconfirmed", "lost"):
                    sums[key] += group[key]
        return sums


def wait(condition: Callable[[], object], what: str, limit: float = _LIMIT) -> None:
    """Return once it holds; raises :class:`TemposError`."""
    end = time.monotonic() + patience(limit)
    while not condition():
        if time.monotonic() > end:
            raise TemposError(f"{what} after {limit:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def ground(topics: Sequence[Topic] | Mapping[Topic, Sequence[Group]], **options: Any) -> Iterator[Ground]:
    """A ground all of which runs, and which is gone in the end."""
    with TemporaryDirectory(prefix="tempos-fleet-") as folder:
        made = Ground(Path(folder), topics, **options)
        try:
            made.start_etcd()
            made.start()
            made.agree()
            yield made
        finally:
            made.close()


def _get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return json.load(connection.getresponse())
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now, for UDP and TCP."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            tcp = stack.enter_context(socket.socket())
            udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind(("0.0.0.0", port))  # noqa: S104 - it is closed at once
                found.append(port)
    return found
