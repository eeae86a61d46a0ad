"""Networks with a device between broker and client that is more than a link."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from support.privileges import require
from support.waiting import until

from networks.ground import Ground
from networks.network import FAR, MEMBER, NEAR, PUBLISHER, Build, Network, Spaces, three
from tempos_bench.nodes.namespace import Namespace

#: Seconds in which a kernel has told all that came of a link.
_TOLD = 3.0


def gro_off(ground: Ground) -> Network:
    """As any container has it: veth takes no redirected frames then."""
    spaces = three(ground)
    spaces.publisher_wired()
    spaces.member_wired(gro=False)
    return spaces.network()


# VLAN


def tagged(spaces: Spaces, space: Namespace, below: str, vlan: int, address: str) -> None:
    """A VLAN device on ``below``, with an address."""
    name = f"{below}.{vlan}"
    spaces.ground.ip(space, f"link add link {below} name {name} type vlan id {vlan}")
    spaces.ground.address(space, name, address)


def vlan_member(ground: Ground) -> Network:
    """Broker and member have a VLAN device each."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.link(spaces.b, "eth1", spaces.s, "eth0")
    tagged(spaces, spaces.b, "eth1", 100, FAR)
    tagged(spaces, spaces.s, "eth0", 100, MEMBER)
    return spaces.network()


def vlan_publisher(ground: Ground) -> Network:
    """Publisher and broker have a VLAN device each."""
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    tagged(spaces, spaces.p, "eth0", 100, PUBLISHER)
    tagged(spaces, spaces.b, "eth0", 100, NEAR)
    spaces.member_wired()
    return spaces.network()


def vlan_both(ground: Ground) -> Network:
    """Publisher and member are in two VLANs of one link to a switch, the broker in both."""
    spaces = three(ground)
    (switch,) = ground.spaces("switch")
    ground.ip(switch, "link add br0 type bridge", "link set br0 up")
    for space, port in ((spaces.p, "to-p"), (spaces.b, "to-b"), (spaces.s, "to-s")):
        ground.link(switch, port, space, "eth0")
        ground.ip(switch, f"link set {port} master br0")
    tagged(spaces, spaces.p, "eth0", 100, PUBLISHER)
    tagged(spaces, spaces.b, "eth0", 100, NEAR)
    tagged(spaces, spaces.b, "eth0", 200, FAR)
    tagged(spaces, spaces.s, "eth0", 200, MEMBER)
    return spaces.network()


def _listening_on_both(ground: Ground) -> Spaces:
    """The broker has an untagged and a tagged network on the link to the publisher."""
    spaces = three(ground)
    ground.wire(spaces.p, "eth0", "10.0.3.2", spaces.b, "eth0", "10.0.3.1")
    tagged(spaces, spaces.b, "eth0", 100, NEAR)
    spaces.member_wired()
    return spaces


def vlan_and_untagged(ground: Ground) -> Network:
    """The publisher is in the VLAN."""
    spaces = _listening_on_both(ground)
    tagged(spaces, spaces.p, "eth0", 100, PUBLISHER)
    return spaces.network("10.0.3.1", NEAR, FAR)


def untagged_beside_vlan(ground: Ground) -> Network:
    """The publisher is not in the VLAN."""
    return replace(_listening_on_both(ground).network("10.0.3.1", NEAR, FAR), publish_to="10.0.3.1")


def foreign_vlan(ground: Ground) -> Network:
    """The publisher sends in a VLAN that the broker's machine is not in, to its right address."""
    spaces = three(ground)
    ground.wire(spaces.p, "eth0", "10.0.9.2", spaces.b, "eth0", NEAR)
    tagged(spaces, spaces.p, "eth0", 300, PUBLISHER)
    # It knows the broker's MAC from elsewhere; the broker's machine would never answer in that VLAN.
    ground.ip(
        spaces.p, f"neigh add {NEAR} lladdr {mac_of(ground, spaces.b, 'eth0')} dev eth0.300 nud permanent"
    )
    spaces.member_wired()
    return spaces.network()


def priority_tag(ground: Ground) -> Network:
    """The publisher sends in VLAN 0, which is a priority and no VLAN: a kernel takes it as untagged."""
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    ground.ip(spaces.p, "link add link eth0 name prio type vlan id 0 egress-qos-map 0:5")
    ground.address(spaces.p, "prio", PUBLISHER)
    ground.address(spaces.b, "eth0", NEAR)
    # Answers come untagged, and so not by the VLAN device.
    ground.ip(spaces.p, f"neigh add {NEAR} lladdr {mac_of(ground, spaces.b, 'eth0')} dev prio nud permanent")
    ground.ip(
        spaces.b, f"neigh add {PUBLISHER} lladdr {mac_of(ground, spaces.p, 'eth0')} dev eth0 nud permanent"
    )
    spaces.member_wired()
    return spaces.network()


def mac_of(ground: Ground, space: Namespace, name: str) -> str:
    """The MAC of an interface."""
    words = ground.run(space, "ip", "-o", "link", "show", "dev", name).split()
    return words[words.index("link/ether") + 1]


# Bond, bridge, macvlan


def bond(ground: Ground, space: Namespace, mode: str, ports: Sequence[str]) -> None:
    """A bond of these ports, up; where one port alone is active, the first one, as soon as it has a carrier.

    Of two bonds that face each other each would choose for itself while ports go down and up, and what comes
    in by a port that is not active is dropped.
    """
    ground.ip(
        space,
        f"link add bond0 type bond mode {mode} miimon 100",
        *(line for port in ports for line in (f"link set {port} down", f"link set {port} master bond0")),
        *([f"link set bond0 type bond primary {ports[0]}"] if mode == "active-backup" else []),
        "link set bond0 up",
    )


def bonded_member(mode: str) -> Build:
    """Two links between broker and member, bonded at both ends."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        for near, far in (("eth1", "eth0"), ("eth2", "eth1")):
            ground.link(spaces.b, near, spaces.s, far)
        for space, ports, address in (
            (spaces.b, ("eth1", "eth2"), FAR),
            (spaces.s, ("eth0", "eth1"), MEMBER),
        ):
            bond(ground, space, mode, ports)
            ground.address(space, "bond0", address)
        return spaces.network()

    return build


def bonded_publisher(mode: str) -> Build:
    """Two links between publisher and broker, bonded at both ends."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        for near, far in (("eth0", "eth0"), ("eth1", "eth2")):
            ground.link(spaces.p, near, spaces.b, far)
        for space, ports, address in (
            (spaces.p, ("eth0", "eth1"), PUBLISHER),
            (spaces.b, ("eth0", "eth2"), NEAR),
        ):
            bond(ground, space, mode, ports)
            ground.address(space, "bond0", address)
        spaces.member_wired()
        return spaces.network()

    return build


def reserved_publisher(ground: Ground) -> Network:
    """The publisher sends everything by both of its links, and the broker's bond takes what comes by one."""
    spaces = three(ground)
    for near, far in (("eth0", "eth0"), ("eth1", "eth2")):
        ground.link(spaces.p, near, spaces.b, far)
    bond(ground, spaces.p, "broadcast", ("eth0", "eth1"))
    ground.address(spaces.p, "bond0", PUBLISHER)
    bond(ground, spaces.b, "active-backup", ("eth0", "eth2"))
    ground.address(spaces.b, "bond0", NEAR)
    spaces.member_wired()
    return spaces.network()


def _bridged(ground: Ground, space: Namespace, port: str, address: str) -> None:
    # Without its delay, for else a port that listens forwards by itself after two of those.
    ground.ip(
        space, "link add br0 type bridge forward_delay 0", f"link set {port} master br0", "link set br0 up"
    )
    ground.address(space, "br0", address)


def bridged_member(ground: Ground) -> Network:
    """The broker's address towards the member is that of a bridge."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.link(spaces.b, "eth1", spaces.s, "eth0")
    _bridged(ground, spaces.b, "eth1", FAR)
    ground.address(spaces.s, "eth0", MEMBER)
    return spaces.network()


def _bridged_publisher(ground: Ground) -> Spaces:
    spaces = three(ground)
    ground.link(spaces.p, "eth0", spaces.b, "eth0")
    _bridged(ground, spaces.b, "eth0", NEAR)
    ground.address(spaces.p, "eth0", PUBLISHER)
    spaces.member_wired()
    return spaces


def bridged_publisher(ground: Ground) -> Network:
    """The broker's address towards the publisher is that of a bridge."""
    return _bridged_publisher(ground).network()


def blocked_publisher(ground: Ground) -> Network:
    """The bridge does not forward from the publisher's port yet, as while spanning tree looks for loops."""
    spaces = _bridged_publisher(ground)
    since = 0.0

    def stays() -> bool:
        """A link that comes up, which may be told late and twice, has the bridge forward by itself."""
        nonlocal since
        if " state listening " not in ground.run(spaces.b, "bridge", "link", "show", "dev", "eth0"):
            ground.run(spaces.b, "bridge", "link", "set", "dev", "eth0", "state", "1")
            since = time.monotonic()
        return time.monotonic() - since > _TOLD

    until(stays)
    mac = mac_of(ground, spaces.b, "br0")
    ground.ip(spaces.p, f"neigh add {NEAR} lladdr {mac} dev eth0 nud permanent")
    return spaces.network()


def _routed(ground: Ground, space: Namespace, below: str, ours: str, other: Namespace, theirs: str) -> None:
    """Ways between an address on top of ``below``, where nobody answers ARP, and the other end of that link.

    What goes out by the upper device finds its way by what is known of the lower one. That has to ask for
    neighbours in its own name: answers to the upper one's address are for nobody.
    """
    ground.run(space, "sysctl", "-q", f"net.ipv4.conf.{below}.arp_announce=2")
    ground.ip(space, f"address add 10.0.7.1/24 dev {below}", f"route add {theirs}/32 dev over0",
              f"route add {theirs}/32 via 10.0.7.2 dev {below} metric 1000")  # fmt: skip
    ground.ip(other, "address add 10.0.7.2/24 dev eth0", f"route add {ours}/32 via 10.0.7.1 src {theirs}")


def above_member(kind: str, *, routes: bool = False) -> Build:
    """The broker's address towards the member is that of a device of its own on top of the link's.

    ``routes``: that device routes by itself.
    """

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        ground.link(spaces.b, "eth1", spaces.s, "eth0")
        ground.ip(spaces.b, f"link add over0 link eth1 type {kind}")
        ground.address(spaces.b, "over0", FAR)
        ground.address(spaces.s, "eth0", MEMBER)
        if routes:
            _routed(ground, spaces.b, "eth1", FAR, spaces.s, MEMBER)
        return spaces.network()

    return build


def above_publisher(kind: str, *, alone: bool = False, routes: bool = False) -> Build:
    """The broker's address towards the publisher is that of a device of its own on top of the link's.

    Linux answers ARP for each of its addresses at any interface, unless that one is to do so ``alone``.
    ``routes``: that device routes by itself.
    """

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        ground.link(spaces.p, "eth0", spaces.b, "eth0")
        if alone:
            ground.run(spaces.b, "sysctl", "-q", "net.ipv4.conf.all.arp_ignore=1")
        ground.ip(spaces.b, f"link add over0 link eth0 type {kind}")
        ground.address(spaces.b, "over0", NEAR)
        ground.address(spaces.p, "eth0", PUBLISHER)
        if routes:
            _routed(ground, spaces.b, "eth0", NEAR, spaces.p, PUBLISHER)
        spaces.member_wired()
        return spaces.network()

    return build


def dummy_of_broker(ground: Ground) -> Network:
    """Publishers send to an address that is that of no link: they have a route to it."""
    spaces = three(ground)
    ground.wire(spaces.p, "eth0", PUBLISHER, spaces.b, "eth0", NEAR)
    ground.ip(spaces.b, "link add dummy0 type dummy")
    ground.address(spaces.b, "dummy0", "10.0.7.1")
    ground.ip(spaces.p, f"route add 10.0.7.0/24 via {NEAR}")
    spaces.member_wired()
    return replace(spaces.network("10.0.7.1", FAR), publish_to="10.0.7.1")


def loopback_of_broker(ground: Ground) -> Network:
    """Publishers send to an address that the broker has on its loopback, as hosts with a floating one do."""
    spaces = three(ground)
    ground.wire(spaces.p, "eth0", PUBLISHER, spaces.b, "eth0", NEAR)
    ground.ip(spaces.b, "address add 10.0.7.1/32 dev lo")
    ground.ip(spaces.p, f"route add 10.0.7.0/24 via {NEAR}")
    spaces.member_wired()
    return replace(spaces.network("0.0.0.0"), publish_to="10.0.7.1")


# Tunnels


def wireguard_member(ground: Ground) -> Network:
    """The member is behind a tunnel that lets through the address it subscribes at and no other."""
    spaces = three(ground)
    spaces.publisher_wired()
    ground.wire(spaces.b, "eth1", "10.9.0.1", spaces.s, "eth0", "10.9.0.2")
    _wireguard(ground, (spaces.b, FAR, "10.9.0.1"), (spaces.s, MEMBER, "10.9.0.2"))
    return spaces.network()


def wireguard_publisher(ground: Ground) -> Network:
    """The publisher is behind a tunnel."""
    spaces = three(ground)
    ground.wire(spaces.p, "eth0", "10.9.0.2", spaces.b, "eth0", "10.9.0.1")
    _wireguard(ground, (spaces.b, NEAR, "10.9.0.1"), (spaces.p, PUBLISHER, "10.9.0.2"))
    spaces.member_wired()
    return spaces.network()


def _wireguard(ground: Ground, *ends: tuple[Namespace, str, str]) -> None:
    """A tunnel between two ends: namespace, address inside, address of the link that carries it."""
    for space, _, _ in ends:
        ground.ip(space, "link add wg0 type wireguard")
    require(None if shutil.which("wg") else "wg is not installed (package wireguard-tools)")
    keys = [ground.run(space, "wg", "genkey").strip() for space, _, _ in ends]
    public = [
        ground.run(space, "wg", "pubkey", text=key).strip()
        for (space, _, _), key in zip(ends, keys, strict=True)
    ]
    for mine, other in ((0, 1), (1, 0)):
        space, inside, _ = ends[mine]
        _, allowed, outside = ends[other]
        ground.run(space, "wg", "set", "wg0", "private-key", "/dev/stdin", "listen-port", "51820", "peer",
                   public[other], "allowed-ips", f"{allowed}/32", "endpoint", f"{outside}:51820",
                   text=keys[mine])  # fmt: skip
        ground.address(space, "wg0", inside)


# VRF


def _vrf(ground: Ground, space: Namespace, *ports: str) -> None:
    ground.ip(space, "link add blue type vrf table 10", "link set blue up",
              *(f"link set {port} master blue" for port in ports))  # fmt: skip
    # Sockets outside of it are spoken to from inside, too.
    ground.run(space, "sysctl", "-q", "net.ipv4.udp_l3mdev_accept=1", "net.ipv4.tcp_l3mdev_accept=1")


def vrf_of_member(ground: Ground) -> Network:
    """The link towards the member is in a VRF, the broker is not, and so cannot listen there."""
    spaces = three(ground)
    spaces.publisher_wired()
    spaces.member_wired()
    _vrf(ground, spaces.b, "eth1")
    return spaces.network()


def foreign_vrf(ground: Ground) -> Network:
    """The link from the publisher is in a VRF; the broker is not, and listens wherever it may."""
    spaces = three(ground)
    spaces.publisher_wired()
    spaces.member_wired()
    _vrf(ground, spaces.b, "eth0")
    ground.run(spaces.b, "sysctl", "-q", "net.ipv4.udp_l3mdev_accept=0", "net.ipv4.tcp_l3mdev_accept=0")
    return spaces.network("0.0.0.0")


def _in_vrf(ground: Ground) -> Spaces:
    """Both links of the broker are in a VRF, which has no address of its own."""
    spaces = three(ground)
    spaces.publisher_wired()
    spaces.member_wired()
    _vrf(ground, spaces.b, "eth0", "eth1")
    return spaces


def vrf_without_loopback(ground: Ground) -> Network:
    """The broker is in a VRF, where 127.0.0.1 is nobody's."""
    return replace(_in_vrf(ground).network(), within=("ip", "vrf", "exec", "blue"))


def vrf_of_broker(ground: Ground) -> Network:
    """The broker is in a VRF, and so is its loopback."""
    spaces = _in_vrf(ground)
    # Addresses are looked up there first.
    ground.ip(
        spaces.b, "address add 127.0.0.1/8 dev blue", "rule add pref 32765 table local", "rule del pref 0"
    )
    return replace(spaces.network(), within=("ip", "vrf", "exec", "blue"))
