"""A network that changes: two hosts for a broker, clients at two segments that ask it by name.

```
 publishers ── 10.0.1.0/24 ── host 1, host 2 ── 10.0.2.0/24 ── subscribers
```

A broker runs on either host and listens on all addresses. Its service addresses, one at each segment, are on
one of the hosts; the name that clients know leads to them. :class:`Ground` can make each change once; which
comes when, and what must hold, is in :mod:`tempos_bench.suite.networks.roaming`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import TemposError
from tempos_bench.measure.second_life import until
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import PYTHON, Node, Program, ProgramFailed
from tempos_bench.nodes.topology import add_bridge, add_link, mac_of, prepare

#: The name by which clients know their broker.
NAME = "broker.test"
#: Topic by name: id, class.
TOPICS: dict[str, tuple[int, str]] = {"events": (1, "SQ"), "logs": (300, "BQ")}
#: All addresses of a host.
ANY = "0.0.0.0"  # noqa: S104 - as an operator writes it
#: Seconds that anything may take.
LIMIT = 30.0
#: Publishers, by how they use the library; subscribing groups, and how many members each has.
PUBLISHERS = ("asyncio", "uvloop", "blocking")
GROUPS = {"asyncio": 1, "uvloop": 2, "blocking": 1}
#: Service addresses at both segments: one pair at a time is in use.
SERVICES = (("10.0.1.100", "10.0.2.100"), ("10.0.1.101", "10.0.2.101"))
#: What a client's host may have at its segment.
_CLIENT_ADDRESSES = range(20, 90)
_PREFIX = 24
_BIND = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")


@dataclass(slots=True)
class Host:
    """One that a broker may run on; ``devices`` by segment, for their names change."""

    space: Namespace
    node: Node
    devices: list[str]
    folder: Path
    broker: Program | None = None
    said: str = ""


@dataclass(slots=True)
class Clients:
    """A host of clients at a segment, and what its file of names says."""

    space: Namespace
    node: Node
    segment: int
    device: str
    address: str
    names: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command: it reads this host's names."""
        inside = ("unshare", "--mount", "--propagation", "private")
        return (*inside, "sh", "-c", _BIND, "sh", str(self.names))


class Ground:
    """Everything, up; closed with the context. ``heartbeat`` and ``lease`` in seconds."""

    def __init__(self, folder: Path, mode: str, heartbeat: float, lease: float) -> None:
        self._stack = ExitStack()
        self._mode, self._heartbeat, self._lease = mode, heartbeat, lease
        self._number = 0
        self.folder = folder
        self.publishers: list[Program] = []
        self.groups: dict[str, Program] = {}
        self.service = SERVICES[0]
        #: Which host has the service, and on which of its devices each address is; None: gone.
        self.active = 0
        self._build()

    def _build(self) -> None:
        stack = self._stack
        self.lan, a, c, *both = (stack.enter_context(Namespace(name)) for name in ("lan", "A", "C", "B", "D"))
        for space in (self.lan, a, c, *both):
            prepare(space)
        for segment in (1, 2):
            add_bridge(self.lan, f"br{segment}")
        self.clients = tuple(self._clients(space, segment) for segment, space in ((1, a), (2, c)))
        self.hosts = tuple(self._host(space, number) for number, space in enumerate(both))
        for device, address in zip(self.hosts[0].devices, self.service, strict=True):
            self._add(self.hosts[0], device, address)
        self.write_names()

    def _clients(self, space: Namespace, segment: int) -> Clients:
        address = f"10.0.{segment}.2"
        add_link(self.lan, f"c{segment}", None, space, "eth0", address, master=f"br{segment}")
        self._listen(space, "eth0")
        node = Node(space.name, space, (address,), ("eth0",))
        self._stack.callback(node.close)
        return Clients(space, node, segment, "eth0", address, self.folder / f"names-{segment}")

    def _host(self, space: Namespace, number: int) -> Host:
        for segment in (1, 2):
            self._wire(space, number, segment, f"eth{segment}")
        folder = self.folder / f"host-{number}"
        folder.mkdir()
        node = Node(space.name, space, tuple(self._own(number)), ("eth1", "eth2"))
        self._stack.callback(node.close)
        return Host(space, node, ["eth1", "eth2"], folder)

    def _wire(self, space: Namespace, number: int, segment: int, name: str) -> None:
        own = self._own(number)[segment - 1]
        add_link(self.lan, f"h{number}-{segment}", None, space, name, own, master=f"br{segment}")
        self._listen(space, name)

    @staticmethod
    def _own(number: int) -> tuple[str, str]:
        return f"10.0.1.{number + 10}", f"10.0.2.{number + 10}"

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for number, host in enumerate(self.hosts):
                if host.broker is not None:
                    self.end(number, signal.SIGKILL)
                with suppress(ProgramFailed):
                    host.node.start(self._clean(number)).wait(LIMIT)

    @staticmethod
    def _name(number: int) -> str:
        return f"roaming-{os.getpid()}-{number}"

    def _clean(self, number: int) -> tuple[str, ...]:
        return (PYTHON, "-m", "tempos", "fastpath", "clean", self._name(number))

    # --- brokers and clients ----------------------------------------------------------------

    def start(self, number: int) -> None:
        """Start the broker of a host; raises :class:`ProgramFailed` if it does not get ready."""
        host = self.hosts[number]
        name = self._name(number)
        tables: list[tuple[str, Mapping[str, object]]] = [
            ("[broker]", {"name": name, "listen": [ANY]}),
            ("[state]", {"file": str(host.folder / "state.db")}),
            ("[control]", {"heartbeat": self._heartbeat, "lease": self._lease}),
            ("[fastpath]", {"mode": self._mode}),
            *(("[[topic]]", {"id": id_, "name": topic, "class": quality})
              for topic, (id_, quality) in TOPICS.items()),
        ]  # fmt: skip
        file = host.folder / "broker.toml"
        file.write_text("\n".join(
            "\n".join((head, *(f"{key} = {json.dumps(value)}" for key, value in values.items())))
            for head, values in tables
        ))  # fmt: skip
        command = (PYTHON, "-m", "tempos_broker", "-c", str(file))
        host.broker = host.node.start(command, clean_up=self._clean(number))
        host.broker.wait_line("ready", LIMIT)

    def end(self, number: int, how: signal.Signals) -> int:
        """End the broker of a host; its exit code."""
        host = self.hosts[number]
        assert host.broker is not None, "started before it is ended"
        program, host.broker = host.broker, None
        program.signal(how)
        code = program.wait(LIMIT)
        program.stop()
        host.said = program.output[-20_000:]
        return code

    def join(self, period: float) -> None:
        """All clients."""
        publishing, subscribing = self.clients
        topics = ("--topics", *TOPICS)
        for group, members in GROUPS.items():
            self.groups[group] = subscribing.node.start(
                (*subscribing.prefix, PYTHON, "-m", "tempos_bench.programs.rovers", group, "subscribe", NAME,
                 "--name", group, "--members", str(members), *topics), talk=True,
            )  # fmt: skip
        for kind in PUBLISHERS:
            self.publishers.append(publishing.node.start(
                (*publishing.prefix, PYTHON, "-m", "tempos_bench.programs.rovers", kind, "publish", NAME,
                 "--name", kind, "--period", str(period), *topics), talk=True,
            ))  # fmt: skip
        for each in (*self.groups.values(), *self.publishers):
            each.wait_line("ready", LIMIT)

    def told(self) -> dict[str, Any]:
        """What each group got."""
        return {name: program.ask("tell", LIMIT) for name, program in self.groups.items()}

    @contextmanager
    def rest(self) -> Iterator[list[Any]]:
        """Nobody publishes meanwhile; what each publisher has sent."""
        yield [each.ask("rest", LIMIT) for each in self.publishers]
        for each in self.publishers:
            each.ask("on", LIMIT)

    def ask(self, number: int, path: str) -> Any:
        """Of a broker's API; raises :class:`TemposError`."""
        return self.hosts[number].node.request("GET", path)

    # --- changes ----------------------------------------------------------------------------

    def move_clients(self, rng: random.Random, side: int) -> str:
        """A host of clients has another address."""
        clients = self.clients[side]
        before = clients.address
        self._number += 1
        last = _CLIENT_ADDRESSES[self._number % len(_CLIENT_ADDRESSES)]
        clients.address = f"10.0.{clients.segment}.{last}"
        old = f"address del {before}/{_PREFIX} dev {clients.device}"
        new = f"address add {clients.address}/{_PREFIX} dev {clients.device}"
        # DHCP takes the old one first; by hand it is often the other way round.
        self._ip(clients.space, *((old, new) if rng.random() < 0.5 else (new, old)))
        return f"{('publishers', 'subscribers')[side]} are at {clients.address}, no more at {before}"

    def fail_over(self) -> str:
        """The service addresses move to the other host, whose broker serves from then on."""
        old, self.active = self.hosts[self.active], 1 - self.active
        self._take_off(old)
        self._put_on()
        return f"the service is on host {self.active + 1}"

    def other_interface(self, rng: random.Random) -> str:
        """One of the service addresses moves to another interface of its host."""
        host, side = self.hosts[self.active], rng.randrange(2)
        device = rng.choice(("lo", *host.devices))
        address = self.service[side]
        self._take_off(host, (address,))
        self._add(host, device, address)
        # Whichever interface has it, the host answers for it at this segment.
        self._announce(host.space, host.devices[side], address)
        return f"{address} is on {device} of host {self.active + 1}"

    def take_away(self) -> str:
        """The service addresses are nowhere; :meth:`give_back` ends it."""
        self._take_off(self.hosts[self.active])
        return "the service addresses are gone for a while"

    def give_back(self) -> None:
        self._put_on()

    def rename_service(self) -> str:
        """The broker's name leads to other addresses, and those of before are gone."""
        self._take_off(self.hosts[self.active])
        self.service = SERVICES[1 - SERVICES.index(self.service)]
        self._put_on()
        self.write_names()
        return f"the name leads to {self.service}"

    def write_names(self) -> None:
        """What clients find by the broker's name."""
        for clients, address in zip(self.clients, self.service, strict=True):
            # In place: each of the clients' programs has this very file.
            with clients.names.open("a+b", buffering=0) as file:
                file.truncate(0)
                file.write(f"127.0.0.1 localhost\n{address} {NAME}\n".encode())

    def links(self) -> list[tuple[Namespace, str]]:
        """Both ends of each link that events or control go by."""
        host = self.hosts[self.active]
        ends = [(clients.space, clients.device) for clients in self.clients]
        ends += [(host.space, device) for device in host.devices]
        ends += [(self.lan, f"c{segment}") for segment in (1, 2)]
        return [*ends, *((self.lan, f"h{self.active}-{segment}") for segment in (1, 2))]

    def link(self, end: tuple[Namespace, str], state: str) -> str:
        """Set an end of a link up or down."""
        space, device = end
        self._ip(space, f"link set {device} {state}")
        return f"{device} of {space.name} is {state}"

    def rename(self, rng: random.Random) -> str:
        """An interface of a host has another name, for which it has to be down."""
        self._number += 1
        new = f"nic{self._number}"
        place = rng.randrange(4)
        if place < 2:
            clients = self.clients[place]
            space, old, clients.device = clients.space, clients.device, new
        else:
            host = self.hosts[self.active]
            space, old, host.devices[place - 2] = host.space, host.devices[place - 2], new
        self._ip(space, f"link set {old} down", f"link set {old} name {new}", f"link set {new} up")
        return f"{old} of {space.name} is called {new}"

    def change_mac(self, rng: random.Random) -> str:
        """An interface has another MAC, which it announces."""
        self._number += 1
        mac = mac_of(f"10.9.{self._number >> 8}.{self._number & 255}")
        place = rng.randrange(4)
        addresses: tuple[str, ...]
        if place < 2:
            clients = self.clients[place]
            space, device, addresses = clients.space, clients.device, (clients.address,)
        else:
            host = self.hosts[self.active]
            side = place - 2
            space, device = host.space, host.devices[side]
            addresses = (self._own(self.active)[side], self.service[side])
        self._ip(space, f"link set {device} address {mac}")
        for address in addresses:
            self._announce(space, device, address)
        return f"{device} of {space.name} has the MAC {mac}"

    def replace(self, rng: random.Random) -> str:
        """An interface of the serving host is removed and made again, with what it had."""
        host, side = self.hosts[self.active], rng.randrange(2)
        device = host.devices[side]
        had = [address for address in self.service if address in self._addresses(host.space, device)]
        self._ip(host.space, f"link del {device}")
        self._wire(host.space, self.active, side + 1, device)
        for address in had:
            self._add(host, device, address)
        for address in (self._own(self.active)[side], self.service[side]):
            self._announce(host.space, device, address)
        return f"{device} of host {self.active + 1} is another one"

    # --- how --------------------------------------------------------------------------------

    def _put_on(self) -> None:
        host = self.hosts[self.active]
        for device, address in zip(host.devices, self.service, strict=True):
            self._add(host, device, address)
            self._announce(host.space, device, address)

    def _take_off(self, host: Host, addresses: Sequence[str] = ()) -> None:
        for device in ("lo", *host.devices):
            for address in set(addresses or self.service) & self._addresses(host.space, device):
                self._ip(host.space, f"address del {address}/32 dev {device}")

    def _add(self, host: Host, device: str, address: str) -> None:
        self._ip(host.space, f"address add {address}/32 dev {device}")

    def _addresses(self, space: Namespace, device: str) -> set[str]:
        return {each["local"] for each in self._facts(space, device)["addr_info"]}

    @staticmethod
    def _facts(space: Namespace, device: str) -> dict[str, Any]:
        def look() -> bytes:
            command = ("ip", "-j", "address", "show", "dev", device)
            return subprocess.run(command, check=True, capture_output=True).stdout

        found: list[dict[str, Any]] = json.loads(space.call(look))
        return found[0]

    @staticmethod
    def _ip(space: Namespace, *lines: str) -> None:
        def work() -> None:
            done = subprocess.run(
                ("ip", "-batch", "-"), input="\n".join(lines), text=True, capture_output=True, check=False
            )
            if done.returncode:
                raise TemposError(f"ip {' / '.join(lines)}: {done.stderr.strip()}")

        space.call(work)

    @staticmethod
    def _listen(space: Namespace, device: str) -> None:
        """Announcements are heard however soon they come; an address goes without those behind it."""

        def work() -> None:
            Path("/proc/sys/net/ipv4/neigh", device, "locktime").write_text("0")
            Path("/proc/sys/net/ipv4/conf", device, "promote_secondaries").write_text("1")

        space.call(work)

    def _announce(self, space: Namespace, device: str, address: str) -> None:
        """Gratuitous ARP (RFC 5227, an announcement)."""
        mac = bytes.fromhex(self._facts(space, device)["address"].replace(":", ""))

        def work() -> None:
            ip = socket.inet_aton(address)
            frame = _ARP.pack(b"\xff" * 6, mac, 0x0806, 1, 0x0800, 6, 4, 1, mac, ip, bytes(6), ip)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
                sock.bind((device, 0))
                sock.send(frame)

        space.call(work)


def came(told: Mapping[str, Any], since: int) -> list[str]:
    """What has not come since then (monotonic ns), in words: to which member, or of which publisher."""
    missing = []
    for group, members in GROUPS.items():
        places = (
            *(f"member {number}" for number in range(members)),
            *(f"from {name}" for name in PUBLISHERS),
        )
        newest = told[group]["newest"]
        missing += [f"{group}: {topic} {place}" for topic in TOPICS for place in places
                    if newest.get(f"{topic} {place}", 0) < since]  # fmt: skip
    return missing


def recovers(ground: Ground, since: int, limit: float) -> tuple[float, list[str]]:
    """Seconds from ``since`` until all has come to all again, and what has not within ``limit``."""
    until(lambda: not came(ground.told(), since), limit)
    missing = came(ground.told(), since)
    return (time.monotonic_ns() - since) / 1e9, missing
