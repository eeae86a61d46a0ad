"""A fleet on a network of its own: three machines with a broker and a node of etcd each, one for clients.

A router stands between them. What is cut there is cut for what it forwards, in one direction or both, and
nobody's own link goes down for it; :meth:`Field.unplug` takes a machine's link down.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.brokers import get, serving
from support.fleets import TOPICS
from support.waiting import LIMIT, until
from tempos import Publisher, Subscriber
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import add_link, prepare

T = TypeVar("T")
#: Those that run now.
_running: list[Field] = []
#: The machines of brokers, by the brokers' names, and that of clients.
BROKERS = {"one": "10.77.1.2", "two": "10.77.2.2", "three": "10.77.3.2"}
CLIENTS = "10.77.9.2"
DATA, CONTROL, API, ETCD, PEER = 9998, 9997, 9990, 2379, 2380


class Field:
    """``lease``: seconds, of members; ``mode`` as in `fastpath.mode`.

    Brokers have the same if it is short; else more than members need to find another home on a busy machine.
    """

    def __init__(self, folder: Path, stack: ExitStack, lease: float, more: str, mode: str) -> None:
        program = shutil.which("etcd")
        if program is None:
            pytest.skip("etcd is not installed (apt-get install etcd-server)")
        self._program, self._folder = program, folder
        self._router = stack.enter_context(Namespace("router"))
        prepare(self._router)
        self._at: dict[str, Namespace] = {}
        for name, address in (*BROKERS.items(), ("clients", CLIENTS)):
            self._at[name] = stack.enter_context(Namespace(name))
            prepare(self._at[name])
            gateway = address[:-1] + "1"
            add_link(self._router, name, gateway, self._at[name], "eth0", address)
            self._run(self._at[name], f"route add default via {gateway}")
        self._router.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        self._etcd: dict[str, subprocess.Popen[bytes]] = {}
        self._brokers: dict[str, tuple[ExitStack, subprocess.Popen[str]]] = {}
        urls = [f"http://{address}:{ETCD}" for address in BROKERS.values()]
        for name, address in BROKERS.items():
            (folder / f"{name}.toml").write_text(
                f"""\
[broker]
name = "{name}"
listen = ["{address}"]
api = "127.0.0.1:{API}"
[fastpath]
mode = "{mode}"
on_stop = "withdraw"
[state]
file = {json.dumps(str(folder / f"{name}.db"))}
[control]
lease = {lease}
heartbeat = {lease / 4}
[fleet]
name = "field"
etcd = {json.dumps(urls)}
lease = {max(lease, 2) if lease < 4 else 12}
zone = "{"south" if name == "three" else "north"}"
{more}"""
            )

    # --- what runs --------------------------------------------------------------------------

    def start_etcd(self, *names: str, wait: bool = True) -> None:
        """Start the nodes on these machines, or on all."""
        peers = ",".join(f"{name}=http://{address}:{PEER}" for name, address in BROKERS.items())
        for name in names or tuple(BROKERS):
            address = BROKERS[name]
            with (self._folder / f"etcd-{name}.log").open("ab") as log:
                self._etcd[name] = subprocess.Popen(
                    [
                        *self._inside(name), self._program, "--name", name,
                        "--data-dir", str(self._folder / f"etcd-{name}"),
                        "--listen-client-urls", f"http://{address}:{ETCD}",
                        "--advertise-client-urls", f"http://{address}:{ETCD}",
                        "--listen-peer-urls", f"http://{address}:{PEER}",
                        "--initial-advertise-peer-urls", f"http://{address}:{PEER}",
                        "--initial-cluster", peers, "--unsafe-no-fsync", "--pre-vote",
                    ],
                    stdout=log, stderr=log,
                )  # fmt: skip
        if wait:
            until(lambda: all(self._is_healthy(name) for name in names or BROKERS), "etcd does not serve")

    def _is_healthy(self, name: str) -> bool:
        def ask() -> bool:
            connection = http.client.HTTPConnection(BROKERS[name], ETCD, timeout=2)
            try:
                connection.request("GET", "/health")
                return bool(json.load(connection.getresponse()).get("health") == "true")
            finally:
                connection.close()

        try:
            return self._at[name].call(ask)
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def end_etcd(self, *names: str) -> None:
        """Kill the nodes on these machines, or all that run."""
        for name in names or tuple(self._etcd):
            process = self._etcd.pop(name)
            process.kill()
            process.wait(LIMIT)

    def start(self, *names: str, registered: bool = True) -> None:
        """Start these brokers, or all; ``registered``: wait until each knows all that run."""
        for name in names or tuple(BROKERS):
            stack = ExitStack()
            files = self._folder / f"{name}.toml", self._folder / f"{name}.log"
            process = stack.enter_context(serving(*files, prefix=self._inside(name)))
            self._brokers[name] = stack, process
        if registered:
            self.agree()

    def end(self, *names: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End these brokers, or all that run."""
        for name in names or tuple(self._brokers):
            stack, process = self._brokers.pop(name)
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            stack.close()

    def signal(self, name: str, what: signal.Signals) -> None:
        """Send a broker a signal that does not end it."""
        self._brokers[name][1].send_signal(what)

    def agree(self) -> None:
        """Wait until each broker that runs knows all that run, and no others."""
        wanted = sorted(self._brokers)
        until(
            lambda: all(self.known(name) == wanted for name in wanted),
            lambda: str({name: self.fleet(name) for name in wanted}),
        )

    def close(self) -> None:
        """End all."""
        self.end(how=signal.SIGTERM)
        self.end_etcd()

    # --- what is cut ------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Nothing that one machine sends reaches the other any more; ``any``: whichever."""
        self._run(self._router, f"rule add {self._rule(source, target)}")

    def mend(self, source: str, target: str) -> None:
        """It does again."""
        self._run(self._router, f"rule del {self._rule(source, target)}")

    def _rule(self, source: str, target: str) -> str:
        known = {**BROKERS, "clients": CLIENTS}
        sides = (("from", source), ("to", target))
        named = " ".join(f"{side} {known[name]}" for side, name in sides if name != "any")
        return f"{named} pref 100 blackhole"

    def unplug(self, name: str) -> None:
        """Take the link of a machine down."""
        self._run(self._router, f"link set {name} down")

    def plug(self, name: str) -> None:
        """Its link is up again."""
        self._run(self._router, f"link set {name} up")

    @property
    def client_node(self) -> Node:
        """The machine of clients, whose link is ``eth0``."""
        return Node("clients", self._at["clients"], (CLIENTS,), ("eth0",))

    # --- what is seen -----------------------------------------------------------------------

    def get(self, name: str, path: str) -> dict[str, Any]:
        """A document of one broker."""
        return self._at[name].call(lambda: get(API, path))

    def fleet(self, name: str) -> dict[str, Any]:
        """What one says of its fleet."""
        fleet: dict[str, Any] = self.get(name, "/v1/fleet")["fleet"]
        return fleet

    def known(self, name: str) -> list[str]:
        """The brokers that one knows, where it reaches the registry."""
        fleet = self.fleet(name)
        return [] if fleet["registry"] == "away" else sorted(each["name"] for each in fleet["brokers"])

    def members(self, name: str, topic: str = "a") -> int:
        """How many members a topic has at a broker."""
        return sum(len(group["members"]) for group in self.get(name, f"/v1/topics/{topic}")["groups"])

    def home_of(self, subscriber: Subscriber, asked: str) -> str | None:
        """Where one is at home, as a broker knows it."""
        for each in self.get(asked, "/v1/fleet/members"):
            if each["port"] == subscriber.member.port:  # type: ignore[index]
                return str(each["home"])  # type: ignore[index]
        return None

    def story(self) -> str:
        """How each broker sees its fleet and the members, and the end of what it has logged."""
        told = []
        for name in BROKERS:
            try:
                asked = ("fleet", "fleet/members", "topics/a")
                seen = {path: self.get(name, f"/v1/{path}") for path in asked}
            except (OSError, ValueError, http.client.HTTPException) as error:
                seen = {"does not answer": {"why": str(error)}}
            log = self._folder / f"{name}.log"
            told.append(f"--- {name}: {json.dumps(seen)}\n{log.read_text()[-4000:] if log.exists() else ''}")
        return "\n".join(told)

    def account(self, *names: str) -> tuple[int, int, int]:
        """What brokers received of the topic ``a``, what its groups were ticketed, and lost; all balanced."""
        received = ticketed = lost = 0
        for name in names or tuple(BROKERS):
            document = self.get(name, "/v1/ledger/a")
            assert document["balanced"], document
            received += document["received"]
            ticketed += sum(group["tickets"] for group in document["groups"])
            lost += sum(group["lost"] for group in document["groups"])
        return received, ticketed, lost

    def play(self, clients: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what clients do on their machine, by an event loop of its own."""
        return self._at["clients"].call(lambda: asyncio.run(clients()))

    def _inside(self, name: str) -> tuple[str, ...]:
        return "nsenter", f"--net={self._at[name].path}"

    def _run(self, space: Namespace, words: str) -> None:
        subprocess.run(
            ["nsenter", f"--net={space.path}", "ip", *words.split()], check=True, capture_output=True
        )


async def aside(call: Callable[..., T], *arguments: object) -> T:
    """What takes its time must not keep clients from theirs."""
    return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


async def seen(condition: Callable[[], object]) -> None:
    """Wait until something holds, while clients go on; else all brokers say how they see it."""
    await aside(until, condition, lambda: "\n".join(each.story() for each in _running))


def subscriber(*names: str, **options: Any) -> Subscriber:
    """Of the topic ``a``, at these brokers."""
    return Subscriber(",".join(BROKERS[name] for name in names), "a", **options)


def publisher(*names: str, **options: Any) -> Publisher:
    """At these brokers."""
    return Publisher([BROKERS[name] for name in names], **options)


@contextmanager
def field(
    folder: Path, *, lease: float = 4, more: str = TOPICS, started: bool = True, mode: str = "off"
) -> Iterator[Field]:
    """All of it, which ends in any case."""
    with ExitStack() as stack:
        made = Field(folder, stack, lease, more, mode)
        stack.callback(made.close)
        if started:
            made.start_etcd()
            made.start()
        _running.append(made)
        stack.callback(_running.remove, made)
        yield made
