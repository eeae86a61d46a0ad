"""Three nodes: A publishes, B is the broker, C subscribes.

`straight`   A --- B --- C     two links; B forwards, so that A and C also reach each other directly
`forked`     as straight, but with two links from B to C, and so two interfaces towards members
`one-armed`  A, B and C on a bridge: what B sends leaves by the interface it came in on

Every interface takes redirected frames: GRO is on at both ends of each link (veth drops them without a
word otherwise). MACs follow from the addresses; A and C know their neighbours for good, so that a burst
never waits for ARP. B resolves like any real broker does.

All of it lives in :class:`~tempos_bench.nodes.namespace.Namespace` and ends with us.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos_bench.nodes.clocks import Clocks, OneClock
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node
from tempos_bench.runs.run import current

MTU = 1500
SHAPES = ("straight", "forked", "one-armed")
#: How a note begins that says what of a scenario is not done where it runs.
LEFT_OUT = "left out"

_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM, _ETHTOOL_SGRO = 0x17, 0x2C
#: Nothing but our own traffic on the links: no IPv6 chatter, no redirects, no source filter.
_SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "bridge/bridge-nf-call-iptables": "0",
}


@dataclass(frozen=True, slots=True)
class Topology:
    """The three nodes. ``broker.addresses`` are all a broker listens on; A sends to the first.

    ``machines``: a node on each machine that takes part; ``bridge``: what joins the nodes, where it is ours.
    """

    shape: str
    publisher: Node
    broker: Node
    subscriber: Node
    machines: tuple[Node, ...]
    bridge: Node | None = None
    clocks: Clocks = field(default_factory=OneClock)

    @property
    def facing_subscriber(self) -> str:
        """The broker's address as C reaches it on its own link."""
        return self.broker.addresses[min(1, len(self.broker.addresses) - 1)]


def interfaces(topology: Topology) -> list[dict[str, Any]]:
    """Every interface of the three nodes as it is really set, for the record."""
    nodes = (topology.publisher, topology.broker, topology.subscriber)
    return [{"node": node.name, **node.facts(name)} for node in nodes for name in node.interfaces]


def shapes() -> tuple[str, ...]:
    """The shapes that can be built where the current run takes place; the first is the usual one there."""
    place = current().place
    return SHAPES if place is None else place.shapes


def many() -> bool:
    """Whether several topologies can stand at the same time where the current run takes place."""
    return current().place is None


def links_are_ours() -> bool:
    """Whether links and neighbours are as this module makes them, and ours to change."""
    return current().place is None


@contextmanager
def build(shape: str | None = None) -> Iterator[Topology]:
    """Build a topology and remove it at the end, whatever happens in between.

    Without ``shape`` it is the usual one: for what only needs three nodes that reach each other. Raises
    :class:`Unavailable` where namespaces or pyroute2 cannot be had, or hosts are connected in another way.
    """
    shape = shape or shapes()[0]
    if shape not in SHAPES:
        raise ValueError(f"no topology {shape!r}: {', '.join(SHAPES)}")
    with ExitStack() as stack:
        place = current().place
        if place is not None:
            topology: Topology = stack.enter_context(place.build(shape))
        elif shape == "one-armed":
            topology = _one_armed(stack)
        else:
            topology = _straight(stack, forked=shape == "forked")
        current().saw_topology({"shape": shape, "interfaces": interfaces(topology), **_hosts(topology)})
        yield topology


def _hosts(topology: Topology) -> dict[str, Any]:
    """What the hosts are, where the nodes are on others than this one."""
    if current().place is None:
        return {}
    found = []
    for node in topology.machines:
        facts = current().once(f"machine {node.name}", lambda node=node: node.inquire("machine"))  # type: ignore[misc]
        found.append({"node": node.name, **facts})
        told = (facts.get("cpu"), f"{facts.get('cores')} cores", f"kernel {facts.get('kernel')}",
                f"tempos {facts.get('versions', {}).get('tempos')}")  # fmt: skip
        current().note(f"{node.name}: {', '.join(map(str, told))}")
    return {"hosts": found}


def missing() -> str | None:
    """Why no topology can be built here, or None if one can."""
    try:
        _iproute()
        Namespace("probe").close()
    except Unavailable as error:
        return str(error)
    return None


def mac_of(address: str) -> str:
    """The MAC of the interface that carries ``address``: locally administered, then the address."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00" + ipaddress.IPv4Address(address).packed)


def complete_checksums(node: Node, on: bool) -> None:
    """Whether ``node`` itself completes the UDP checksums of what it sends, or leaves that to the link.

    At first it leaves them to the link.
    """

    def work() -> None:
        for name in node.interfaces:
            _ethtool(name, _ETHTOOL_STXCSUM, not on)

    node.call(work)


def _straight(stack: ExitStack, *, forked: bool) -> Topology:
    a, b, c = (stack.enter_context(Namespace(name)) for name in "ABC")
    for space in (a, b, c):
        prepare(space)
    add_link(b, "eth0", "10.0.1.1", a, "eth0", "10.0.1.2")
    add_link(b, "eth1", "10.0.2.1", c, "eth0", "10.0.2.2")
    b.call(lambda: _sysctl("ipv4/ip_forward", "1"))
    for space, gateway, far in ((a, "10.0.1.1", "10.0.2.0/24"), (c, "10.0.2.1", "10.0.1.0/24")):
        _route(space, far, gateway)
        know(space, "eth0", gateway)
    broker, subscriber = ["10.0.1.1", "10.0.2.1"], ["10.0.2.2"]
    if forked:
        add_link(b, "eth2", "10.0.3.1", c, "eth1", "10.0.3.2")
        _route(a, "10.0.3.0/24", "10.0.1.1")
        broker.append("10.0.3.1")
        subscriber.append("10.0.3.2")
    shape = "forked" if forked else "straight"
    return _nodes(stack, shape, (a, ("10.0.1.2",)), (b, tuple(broker)), (c, tuple(subscriber)))


def _one_armed(stack: ExitStack) -> Topology:
    bridge = stack.enter_context(Namespace("bridge"))
    a, b, c = (stack.enter_context(Namespace(name)) for name in "ABC")
    for space in (bridge, a, b, c):
        prepare(space)
    addresses = {a: "10.0.1.2", b: "10.0.1.1", c: "10.0.1.3"}
    add_bridge(bridge, "br0")
    for space, address in addresses.items():
        add_link(bridge, f"port-{space.name.lower()}", None, space, "eth0", address, master="br0")
    for space in (a, c):
        for address in addresses.values():
            if address != addresses[space]:
                know(space, "eth0", address)
    b.call(lambda: _sysctl("ipv4/ip_forward", "1"))
    topology = _nodes(stack, "one-armed", *((space, (addresses[space],)) for space in (a, b, c)))
    ports = tuple(f"port-{space.name.lower()}" for space in addresses)
    return replace(topology, bridge=Node(bridge.name, bridge, (), ports))


def _nodes(stack: ExitStack, shape: str, *spaces: tuple[Namespace, tuple[str, ...]]) -> Topology:
    nodes = [
        Node(space.name, space, addresses, tuple(f"eth{i}" for i in range(len(addresses))))
        for space, addresses in spaces
    ]
    # Programs end before the namespace they run in.
    for node in nodes:
        stack.callback(node.close)
    publisher, broker, subscriber = nodes
    return Topology(shape, publisher, broker, subscriber, machines=(publisher,))


def prepare(space: Namespace) -> None:
    """Nothing but our own traffic, and loopback, which is up."""

    def work() -> None:
        for name, value in _SYSCTLS.items():
            # What this kernel was built without needs no switching off.
            with suppress(FileNotFoundError):
                _sysctl(name, value)
        with _iproute()() as ip:
            ip.link("set", index=1, state="up")

    space.call(work)


def add_bridge(space: Namespace, name: str) -> None:
    """A bridge without ports, up."""

    def work() -> None:
        with _iproute()() as ip:
            ip.link("add", ifname=name, kind="bridge")
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")

    space.call(work)


def add_link(
    near: Namespace,
    near_name: str,
    near_address: str | None,
    far: Namespace,
    far_name: str,
    far_address: str,
    master: str | None = None,
) -> None:
    """A veth pair between two namespaces; the near end may be a port of a bridge and then has no address."""

    def create() -> None:
        with _iproute()() as ip:
            peer = {"ifname": far_name, "net_ns_pid": far.pid, "address": mac_of(far_address), "mtu": MTU}
            ip.link("add", ifname=near_name, kind="veth", mtu=MTU, peer=peer)

    near.call(create)
    near.call(lambda: _up(near_name, near_address, master))
    far.call(lambda: _up(far_name, far_address, None))


def _up(name: str, address: str | None, master: str | None) -> None:
    with _iproute()() as ip:
        index = ip.link_lookup(ifname=name)[0]
        if address is not None:
            ip.link("set", index=index, address=mac_of(address))
            ip.addr("add", index=index, address=address, prefixlen=24)
        if master is not None:
            ip.link("set", index=index, master=ip.link_lookup(ifname=master)[0])
        ip.link("set", index=index, state="up")
    _ethtool(name, _ETHTOOL_SGRO, True)


def _route(space: Namespace, network: str, gateway: str) -> None:
    def work() -> None:
        with _iproute()() as ip:
            ip.route("add", dst=network, gateway=gateway)

    space.call(work)


def know(node: Node | Namespace, interface: str, address: str, mac: str | None = None) -> None:
    """Let a node know for good who has ``address``: ``mac``, or the one that follows from it."""

    def work() -> None:
        with _iproute()() as ip:
            index = ip.link_lookup(ifname=interface)[0]
            ip.neigh("replace", dst=address, lladdr=mac or mac_of(address), ifindex=index, state="permanent")

    node.call(work)


def swallow(node: Node, address: str) -> None:
    """Let a node drop what comes to it for an address, as soon as its kernel has counted it."""

    def work() -> None:
        with _iproute()() as ip:
            ip.route("replace", dst=f"{address}/32", type="blackhole")

    node.call(work)


def _ethtool(interface: str, command: int, on: bool) -> None:
    # struct ethtool_value {cmd, data} behind the pointer of a struct ifreq (linux/ethtool.h).
    value = ctypes.create_string_buffer(struct.pack("II", command, on))
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def _sysctl(name: str, value: str) -> None:
    # /proc/sys/net shows the namespace of the thread that opens it.
    Path("/proc/sys/net", name).write_text(value)


def _iproute() -> type:
    try:
        from pyroute2 import IPRoute
    except ImportError as error:
        raise Unavailable("pyroute2 is not installed: pip install 'tempos[bench]'") from error
    return IPRoute  # type: ignore[no-any-return]
